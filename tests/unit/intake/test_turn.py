"""Owners of uploads take turns, however many uploads each of them has and however long these take."""

import threading
import time
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from spoold.core.completeness import IntakePolicy
from spoold.core.document.reader import DocumentError
from spoold.core.manifest import Manifest, parse_manifest
from spoold.intake.inbox import Inbox, LargeReadingError
from spoold.intake.lane import Lanes
from spoold.intake.parser import parse_apart
from spoold.intake.rest import Rest
from spoold.intake.turn import Turns
from spoold.intake.upload import Upload
from spoold.storage.files import Files
from spoold.storage.manifest import Manifests
from spoold.storage.spooldir import Spool


def test_owner_of_many_waits_for_the_owner_of_one() -> None:
    turns = Turns[str]()
    for number in range(1000):
        turns.put(1, f"many-{number}")
    served = []
    for number in range(6):
        if number == 3:
            turns.put(2, "honest")
        owner, item = turns.next() or (0, "")
        turns.spend(owner, 1.0)
        served.append(item)
    assert "honest" in served[3:5], served


def test_turns_go_by_time_and_idle_time_is_not_saved_up() -> None:
    turns = Turns[int]()
    for number in range(100):
        turns.put(1, number)
        turns.put(2, number)
    taken = {1: 0, 2: 0}
    for _ in range(40):
        owner, _ = turns.next() or (0, 0)
        taken[owner] += 1
        turns.spend(owner, 3.0 if owner == 1 else 1.0)
    assert 9 <= taken[1] <= 11
    # The third was idle all the time: it gets its share from now on, and no more.
    for number in range(100):
        turns.put(3, number)
    later = {1: 0, 2: 0, 3: 0}
    for _ in range(30):
        owner, _ = turns.next() or (0, 0)
        later[owner] += 1
        turns.spend(owner, 1.0)
    assert max(later.values()) - min(later.values()) <= 4, later


def test_nobody_who_is_busy_is_next() -> None:
    turns = Turns[str]()
    turns.put(1, "a")
    assert turns.next({1}) is None
    assert turns
    assert turns.next() == (1, "a")
    assert not turns


def test_lanes_do_one_thing_of_an_owner_at_a_time_and_everything_in_the_end() -> None:
    lanes = Lanes(3, monotonic=time.monotonic)
    done: list[tuple[int, int]] = []
    at_once: dict[int, int] = dict.fromkeys(range(5), 0)
    worst = []
    lock, ended = threading.Lock(), threading.Event()

    def work(owner: int, number: int) -> None:
        with lock:
            at_once[owner] += 1
            worst.append(at_once[owner])
        with lock:
            at_once[owner] -= 1
            done.append((owner, number))
            if len(done) == 100:
                ended.set()

    for number in range(20):
        for owner in range(5):
            lanes.submit(owner, lambda owner=owner, number=number: work(owner, number))  # type: ignore[misc]
    assert ended.wait(10)
    lanes.stop()
    assert max(worst) == 1
    for owner in range(5):
        assert [number for each, number in done if each == owner] == list(range(20))


def test_manifest_of_the_same_bytes_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    real = parse_manifest

    def counted(source: bytes, **options: object) -> object:
        parsed.append(len(source))
        return real(source, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("spoold.storage.manifest.parse_manifest", counted)
    manifests = Manifests(limit=20_000)
    good = b"sender: a@b.example\n" + b"# " + b"x" * 6000 + b"\n"
    bad = b"sender: a@b.example\nnonsense: 1\n# " + b"x" * 6000 + b"\n"
    assert not manifests.knows(good, UTC)
    assert manifests.parse(good, UTC) is manifests.parse(good, UTC)
    assert manifests.knows(good, UTC)
    texts = set()
    for _ in range(2):
        with pytest.raises(DocumentError) as found:
            manifests.parse(bad, UTC)
        texts.add(str(found.value))
    assert len(texts) == 1
    assert len(parsed) == 2
    for number in range(3):
        manifests.parse(good + b"#" * number + b"#\n", UTC)
    assert not manifests.knows(good, UTC), "only so many bytes are kept"


@pytest.mark.parametrize(
    "text",
    [
        "sender: a@b.example\nsend_after: 2030-01-01T09:00\nwindows: ['Mon-Fri 08:00-17:00']\nrate: 10/s\n"
        "domain_rates: {gmail.com: 60/m}\nretry: {every: 1h, for: 5d}\nexpires: 9d\n"
        "recipients: [ada@one.example, {address: bob@one.example, message: m/1.eml}]\n",
        "sender: a@b.example\nnonsense: 1\nrate: often\n",
        "sender: a@b.example\nrecipients: [{a: '",
    ],
)
def test_manifest_that_is_parsed_apart_is_what_it_is_here(text: str) -> None:
    def outcome(parse: Callable[[bytes, ZoneInfo], Manifest]) -> object:
        try:
            return parse(text.encode(), ZoneInfo("Europe/Vienna"))
        except DocumentError as error:
            return error.problems, error.incomplete

    assert outcome(parse_apart) == outcome(lambda source, zone: parse_manifest(source, zone=zone))


@pytest.mark.parametrize("what", ["manifest", "files"])
def test_upload_that_takes_long_to_look_at_is_left_to_those_who_have_time(tmp_path: Path, what: str) -> None:
    Spool.create(tmp_path)
    folder = tmp_path / "new" / "job"
    folder.mkdir()
    text = "sender: a@b.example\nrecipients: [" + "{a: 'b'}," * 700 + '{a: "'
    (folder / "job.yaml").write_text(text if what == "manifest" else "sender: a@b.example\n")
    if what == "files":
        for number in range(2500):
            (folder / f"{number}.eml").touch()
    spool = Spool(tmp_path, Files())
    inbox = Inbox(spool.files, IntakePolicy(), UTC, rest=Rest(time.time, time.monotonic), monotonic=time.monotonic)
    upload = Upload("job", 0, 0)
    with spool.job("new", "job") as root:
        with pytest.raises(LargeReadingError):
            inbox.look(root, upload)
        upload.patient = True
        told = inbox.look(root, upload).verdict.waits_for
        upload.patient = False
        if what == "manifest":
            assert inbox.look(root, upload).verdict.waits_for == told, "it is remembered"
            (folder / "job.yaml").write_text(text + "c")
            with pytest.raises(LargeReadingError):
                inbox.look(root, upload)
    spool.close()
