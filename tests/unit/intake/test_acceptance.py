"""The same job comes to the same rows, whether it goes into the database whole, in chunks, or from a process of its own."""

import os
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from spoold.core.completeness import IntakePolicy, Rule, Verdict
from spoold.core.schedule.retry import DEFAULT
from spoold.core.schedule.window import Windows
from spoold.core.state import JobState, RecipientState
from spoold.core.terms import Defaults
from spoold.intake import acceptance
from spoold.intake.acceptance import Acceptance, Accepted, Prepared, is_large
from spoold.intake.custody import Taken
from spoold.intake.settings import Settings
from spoold.intake.time_limit import BOUNDLESS
from spoold.intake.upload import Seen
from spoold.storage.admission import Admission
from spoold.storage.database import Database
from spoold.storage.files import Files
from spoold.storage.schema import SCHEMA
from spoold.storage.spooldir import Spool

SETTINGS = Settings(IntakePolicy(), Defaults(ZoneInfo("UTC"), DEFAULT, Windows.always()), {"default"})
NOW = 1_000_000.0
MESSAGE = b"From: a@example.com\nTo: b@example.com\nSubject: x\n\nhi\n"
ROWS = 1100


class Desk:
    """An acceptance on a real database, for folders below `active/`."""

    def __init__(self, path: Path) -> None:
        Spool.create(path)
        self.spool = Spool(path, Files())
        self.database = Database(path / "spool.db")
        self.database.start(SCHEMA)
        admission = Admission(self.database, lambda _: True)
        self.acceptance = Acceptance(self.spool, admission, clock=lambda: NOW)

    def prepare(self, name: str, files: dict[str, bytes], *, digest: bytes | None = None) -> Prepared:
        folder = self.spool.path / "active" / name
        for path, data in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        with self.spool.job("active", name) as root:
            entries = {entry.name: entry for entry in self.spool.files.walk(root, max_entries=10_000, max_depth=5)}
            seen = Seen(Verdict(Rule.READY), entries, os.geteuid(), 1)
            taken = Taken({path: path.encode() for path in files}, digest or name.encode())
            return self.acceptance.prepare(name, root, seen, taken, Rule.READY, [], SETTINGS, BOUNDLESS)

    def take(self, name: str, files: dict[str, bytes]) -> Accepted:
        return self.acceptance.accept([self.prepare(name, files)])[0]

    def rows(self, table: str, job_id: int) -> list[tuple[object, ...]]:
        """A table's rows of the job, without what tells one job or one taking from the other."""
        key = "id >> 32" if table in ("recipient", "message") else "job_id" if table != "job" else "id"
        with self.database.reading() as reader:
            cursor = reader.execute(f"SELECT * FROM {table} WHERE {key} = ?", (job_id,))
            names = [column[0] for column in cursor.description]
            rows = [dict(zip(names, row, strict=True)) for row in cursor]
        for row in rows:
            for name in ("id", "message_id"):
                if row.get(name) is not None:
                    row[name] &= (1 << 32) - 1
            for name in ("job_id", "name", "upload", "digest", "added"):
                row.pop(name, None)
        if table == "job":
            rows[0].pop("id")
        return [tuple(row.values()) for row in rows]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    opened = Desk(tmp_path)
    yield opened
    opened.database.close()
    opened.spool.close()


def _job() -> dict[str, bytes]:
    lines = ["address,message,name,Größe"]
    lines += [f"user{n}@Domain{n % 7}.example,,Nämé {n},{n or ''}" for n in range(ROWS)]
    lines += ["no address,,x,", "late@one.example,messages/1.eml,,", "late@one.example,messages/none.eml,,"]
    lines += [f"user{n}@Domain{n % 7}.example,,again," for n in range(0, ROWS, 100)]
    lines += ["user5@Domain5.example,messages/1.eml,other message,", "jürgen@bücher.example,,,"]
    return {
        "job.yaml": b"sender: a@example.com\n",
        "message.eml": MESSAGE,
        "messages/1.eml": "From: ä@example.com\n\nhi\n".encode(),
        "messages/unused.eml": MESSAGE,
        "recipients.csv": ("\n".join(lines) + "\n").encode(),
    }


def test_job_is_the_same_whole_in_chunks_and_from_a_process_of_its_own(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name in ("whole", "chunks", "apart"):
        if name == "whole":
            monkeypatch.setattr("spoold.intake.examination._CHUNK", 10_000)
        elif name == "chunks":
            monkeypatch.setattr("spoold.intake.examination._CHUNK", 100)
        else:
            monkeypatch.setattr(acceptance, "_HUGE_LIST", 10)
        prepared = desk.prepare(name, _job())
        assert (prepared.job_id is None) == (name == "whole")
        accepted = desk.acceptance.accept([prepared])[0]
        assert (accepted.name, accepted.state, accepted.failed) == (name, JobState.SENDING, 2)
        tables = ("job", "recipient", "message", "state_tally", "domain_tally", "reply_tally", "compact")
        found.append({table: desk.rows(table, accepted.job_id) for table in tables})
    whole, chunks, apart = found
    assert len(whole["recipient"]) == ROWS + 5
    for table, rows in whole.items():
        if table == "recipient":
            # Repeats leave gaps in the numbers where they were in the database before they were found.
            assert [row[1:] for row in rows] == [row[1:] for row in chunks[table]] == [row[1:] for row in apart[table]]
        else:
            assert sorted(rows, key=repr) == sorted(chunks[table], key=repr) == sorted(apart[table], key=repr)
    assert next(row for row in whole["recipient"] if row[6] == RecipientState.FAILED)[2] == "no address"


def test_small_jobs_share_one_commit_and_the_second_of_two_twins_is_rejected(desk: Desk) -> None:
    files = {"job.yaml": b"sender: a@example.com\n", "message.eml": MESSAGE, "recipients.txt": b"a@b.example\n"}
    batch = [desk.prepare("one", files, digest=b"same"), desk.prepare("two", files, digest=b"same")]
    batch += [desk.prepare("bad", {"job.yaml": b"sender: [\n"}), desk.prepare("three", files)]
    before = desk.database.commits
    one, two, bad, three = desk.acceptance.accept(batch)
    assert [job.state for job in (one, two, bad, three)] == [
        JobState.SENDING, JobState.REJECTED, JobState.REJECTED, JobState.SENDING,
    ]  # fmt: skip
    assert two.admitted.standing.reason == "duplicate of one"
    assert desk.rows("recipient", two.job_id) == []
    assert len(desk.rows("recipient", three.job_id)) == 1
    assert desk.database.commits == before + 2  # one for all, and one for the twin that only the first could show


def test_large_twin_that_was_taken_meanwhile_is_rejected_and_leaves_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spoold.intake.examination._CHUNK", 100)
    batch = [desk.prepare("one", _job(), digest=b"same"), desk.prepare("two", _job(), digest=b"same")]
    one, two = desk.acceptance.accept(batch)
    assert (one.state, two.state) == (JobState.SENDING, JobState.REJECTED)
    assert desk.rows("recipient", two.job_id) == desk.rows("message", two.job_id) == []


def test_process_that_ends_early_is_an_error_and_leaves_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance, "_HUGE_LIST", 10)
    monkeypatch.setattr("spoold.intake.worker._PROGRAM", "import os; os._exit(3)")
    with pytest.raises(OSError, match="ended early"):
        desk.prepare("job", _job())
    with desk.database.reading() as reader:
        assert reader.execute("SELECT count(*) FROM job").fetchone() == (0,)


def test_what_goes_wrong_in_the_process_is_told_in_its_words(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance, "_HUGE_LIST", 10)
    monkeypatch.setattr("spoold.intake.worker.pack", lambda _: b"[]")
    with pytest.raises(RuntimeError, match="TypeError"):
        desk.prepare("job", _job())


def test_job_is_large_by_its_list_or_by_its_number_of_files(desk: Desk) -> None:
    folder = desk.spool.path / "active" / "job"
    (folder / "m").mkdir(parents=True)

    def large() -> bool:
        with desk.spool.job("active", "job") as root:
            found = desk.spool.files.walk(root, max_entries=1000, max_depth=5)
        return is_large({entry.name: entry for entry in found})

    (folder / "message.eml").write_bytes(b"x" * 100_000)
    assert not large()
    (folder / "Recipients.CSV").write_bytes(b"x" * 100_000)
    assert large()
    (folder / "Recipients.CSV").unlink()
    for number in range(200):
        (folder / "m" / f"{number}.eml").touch()
    assert large()
