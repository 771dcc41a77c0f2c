"""When an upload is taken, and what status.json says of it until then: the rules of CONTRACT §3."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.relay import Relay
from tests.servers.upload import assert_whole, content, seal_of, waits, write

SETTLE = 1.0
#: What is done with the folder of an upload, given the files of a good job.
Step = Callable[[Path, dict[str, bytes]], object]


@dataclass(frozen=True, slots=True)
class Case:
    """An upload that is not complete: `before` puts it there, `waits_for` is what it waits for, `after` completes it."""

    waits_for: str
    before: Step
    after: Step
    manifest: dict[str, Any] = field(default_factory=dict)


def _without(*names: str) -> Step:
    return lambda folder, files: write(folder, {name: data for name, data in files.items() if name not in names})


def _whole(folder: Path, files: dict[str, bytes]) -> None:
    write(folder, files)


def _with(**extra: bytes) -> Step:
    return lambda folder, files: write(folder, {**files, **extra})


def _sealed_without(*names: str) -> Step:
    return lambda folder, files: write(
        folder, {"SHA256SUMS": seal_of(files), **{name: data for name, data in files.items() if name not in names}}
    )


def _seal(**options: int) -> Step:
    return lambda folder, files: write(folder, {**files, "SHA256SUMS": seal_of(files, **options)})


def _temporary(name: str) -> Case:
    return Case(
        f"the upload to finish ({name} is a temporary name)",
        lambda folder, files: write(folder, {**files, name: b"part"}),
        lambda folder, files: (folder / name).unlink(),
    )


def _sealed_but_other(folder: Path, files: dict[str, bytes]) -> None:
    write(folder, {**files, "SHA256SUMS": seal_of(files), "message.eml": files["message.eml"][:-1]})


def _sealed_and_more(folder: Path, files: dict[str, bytes]) -> None:
    write(folder, {**files, "SHA256SUMS": seal_of(files), "list.pdf": b"%PDF"})


def _seal_without_end(folder: Path, files: dict[str, bytes]) -> None:
    write(folder, {**files, "SHA256SUMS": seal_of(files).rpartition(b"# end")[0]})


def _seal_with_rubbish(folder: Path, files: dict[str, bytes]) -> None:
    write(folder, {**files, "SHA256SUMS": b"recipients.csv\n" + seal_of(files)})


def _at_time_zero(folder: Path, files: dict[str, bytes]) -> None:
    write(folder, files)
    os.utime(folder / "message.eml", (0, 0))


def _cut(name: str, at: int) -> Step:
    return lambda folder, files: write(folder, {**files, name: files[name][:at]})


def _expect(**counts: int) -> dict[str, Any]:
    return {"expect": counts}


def _second_recipient(folder: Path, files: dict[str, bytes]) -> None:
    write(
        folder, {"recipients.csv": files["recipients.csv"] + b"late" + files["recipients.csv"].splitlines()[1] + b"\n"}
    )


def _second_message(folder: Path, files: dict[str, bytes]) -> None:
    to = files["recipients.csv"].splitlines()[1]
    rows = b"address,message\n" + to + b",message.eml\nlate" + to + b",two.eml\n"
    write(folder, {"two.eml": files["message.eml"], "recipients.csv": rows})


def _sealed_one_of_two(folder: Path, files: dict[str, bytes]) -> None:
    write(folder, {**files, "SHA256SUMS": seal_of(files)})


def _seal_two(folder: Path, files: dict[str, bytes]) -> None:
    _second_recipient(folder, files)
    names = ("job.yaml", "message.eml", "recipients.csv")
    write(folder, {"SHA256SUMS": seal_of({name: (folder / name).read_bytes() for name in names})})


CASES = {
    "sealed-missing": Case("recipients.csv, which SHA256SUMS lists", _sealed_without("recipients.csv"), _whole),
    "sealed-extra": Case(
        "a line for list.pdf in SHA256SUMS", _sealed_and_more, lambda folder, _: (folder / "list.pdf").unlink()
    ),
    "sealed-changed": Case(
        "the rest of message.eml: its SHA-256 is not the one in SHA256SUMS", _sealed_but_other, _whole
    ),
    "sealed-end": Case("SHA256SUMS to be mended: it ends with `# end 2` and lists 3 files", _seal(end=2), _seal()),
    "sealed-no-end": Case("the last line of SHA256SUMS, `# end N`", _seal_without_end, _seal()),
    "sealed-rubbish": Case("SHA256SUMS to be mended: line 1 is not `HASH  NAME`", _seal_with_rubbish, _seal()),
    "sealed-expect": Case(
        "2 recipients, which job.yaml expects; there are 1", _sealed_one_of_two, _seal_two, _expect(recipients=2)
    ),
    "ready-expect": Case(
        "2 recipients, which job.yaml expects; there are 1", _with(READY=b""), _second_recipient, _expect(recipients=2)
    ),
    "no-manifest": Case("job.yaml", _without("job.yaml"), _whole),
    "cut-manifest": Case("the rest of job.yaml: job.yaml:1:", _cut("job.yaml", 20), _whole),
    "no-recipients": Case("recipients.csv or recipients.txt", _without("recipients.csv"), _whole),
    "named-recipients": Case(
        "list.csv, which job.yaml names",
        _without("recipients.csv"),
        lambda folder, files: write(folder, {"list.csv": files["recipients.csv"]}),
        {"recipients": "list.csv"},
    ),
    "no-message": Case("message.eml", _without("message.eml"), _whole),
    "named-message": Case(
        "letter.eml, which job.yaml names",
        _without("message.eml"),
        lambda folder, files: write(folder, {"letter.eml": files["message.eml"]}),
        {"message": "letter.eml"},
    ),
    "inline-no-message": Case(
        "message.eml",
        _without("message.eml", "recipients.csv"),
        _whole,
        {"recipients": ["ada@inline-no-message.example"]},
    ),
    "inline-message": Case(
        "messages/1.eml, which job.yaml names",
        _without("message.eml", "recipients.csv"),
        lambda folder, files: write(folder, {"messages/1.eml": files["message.eml"]}),
        {"recipients": [{"address": "ada@inline-message.example", "message": "messages/1.eml"}]},
    ),
    "no-newline": Case("the rest of recipients.csv (it does not end in a newline)", _cut("recipients.csv", -1), _whole),
    "expect-recipients": Case(
        "2 recipients, which job.yaml expects; there are 1", _whole, _second_recipient, _expect(recipients=2)
    ),
    "expect-messages": Case(
        "2 messages, which job.yaml expects; there are 1", _whole, _second_message, _expect(messages=2)
    ),
    "time-zero": Case(
        "the rest of message.eml (its time is 0, as rsync --partial leaves it)",
        _at_time_zero,
        lambda folder, _: os.utime(folder / "message.eml"),
    ),
    "rsync": _temporary(".message.eml.Ab3dE9"),
    "rsync-delayed": _temporary(".~tmp~/message.eml"),
    "rsync-partial": _temporary("messages/.rsync-partial/1.eml"),
    "winscp": _temporary("message.eml.filepart"),
    "syncthing": _temporary(".syncthing.message.eml.tmp"),
    "syncthing-windows": _temporary("~syncthing~message.eml.tmp"),
}


@dataclass(slots=True)
class Story:
    """What was seen of all the cases: before they were completed, and after."""

    waited: dict[str, str]
    taken_early: set[str]
    sent_early: list[str]
    status: dict[str, dict[str, Any] | None]
    sent: list[str]
    violations: list[str]
    rules: dict[str, str]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with Relay() as relay, Agent(tmp_path_factory.mktemp("rules"), relay.port) as agent:
        agent.start()
        new = agent.spool / "new"
        files = {name: content(f"ada@{name}.example", manifest=case.manifest) for name, case in CASES.items()}
        for name, case in CASES.items():
            (new / name).mkdir()
            case.before(new / name, files[name])
        complete = time.monotonic()

        def is_shown() -> bool:
            # Twice the settling time, and one rewriting of status.json after that.
            now = time.monotonic()
            return now - complete > 2 * SETTLE + 2.5 and not any(
                "without a change" in text for text in waits(agent).values()
            )

        wait_for(is_shown, what="the uploads in status.json")
        waited = waits(agent)
        taken = {event["job"] for event in agent.events("job.accepted") + agent.events("job.rejected")}
        sent = list(relay.recipients)
        for name, case in CASES.items():
            if (new / name).is_dir():
                case.after(new / name, files[name])
        with contextlib.suppress(AssertionError):  # each test says what is missing
            wait_for(lambda: all((agent.spool / "done" / name).is_dir() for name in CASES), 15)
        yield Story(
            waited,
            taken,
            sent,
            {name: agent.status(name) for name in CASES},
            relay.recipients,
            relay.violations,
            {event["job"]: event["rule"] for event in agent.events("job.accepted")},
        )


@pytest.mark.parametrize("name", CASES)
def test_incomplete_upload_waits_until_it_is_complete_and_says_for_what(story: Story, name: str) -> None:
    assert name not in story.taken_early
    assert not [to for to in story.sent_early if to.endswith(f"@{name}.example")]
    assert story.waited[name].startswith(CASES[name].waits_for)
    status = story.status[name]
    assert status is not None, "it was not taken when it was complete"
    assert status["state"] == "finished"
    assert status["counts"]["sent"] == status["total"]
    assert_whole(status)
    sent = [to for to in story.sent if to.endswith(f"@{name}.example")]
    assert len(sent) == len(set(sent)) == status["total"]
    declared = name.partition("-")[0]
    assert story.rules[name] == (declared if declared in ("sealed", "ready") else "quiet")


def test_nothing_but_the_cases_is_sent(story: Story) -> None:
    assert len(story.sent) == len(set(story.sent))
    assert story.violations == []


# --- control files in new/ --------------------------------------------------------------------------------------------


def test_cancel_and_hold_work_in_new(agent: Agent, relay: Relay) -> None:
    agent.start()
    new = agent.spool / "new"
    write(new / "cancelled", {"job.yaml": content("ada@cancelled.example")["job.yaml"], "CANCEL": b""})
    write(new / "held", content("ada@held.example"))
    (new / "held" / "HOLD").touch()
    agent.drop("beside", ["ada@beside.example"])
    status = agent.wait_state("cancelled", "cancelled")
    assert status["reason"] == "cancelled before it was taken"
    assert_whole(status)
    held = agent.wait_state("held", "held")
    assert held["counts"]["queued"] == held["total"] == 1
    agent.wait_state("beside", "finished")
    assert relay.recipients == ["ada@beside.example"]
    (agent.spool / "deferred" / "held" / "HOLD").unlink()
    status = agent.wait_state("held", "finished")
    assert status["counts"]["sent"] == 1
    assert relay.recipients == ["ada@beside.example", "ada@held.example"]
    assert relay.violations == []
