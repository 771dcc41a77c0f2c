"""Uploads that are wrong in every way we could think of: each gets its clear line, and all else goes on.

All cases are dropped into one spool at once, with good jobs beside them; the tests look at what became of them.
"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.integration.bad_input import CASES, SECRET, Case
from tests.servers.agent import Agent, wait_for
from tests.servers.ledger import Accepted
from tests.servers.relay import Relay
from tests.servers.upload import assert_whole, content, write

REJECTED = [name for name, case in CASES.items() if case.errors]
PARTLY = [name for name, case in CASES.items() if not case.errors]
GOOD = ("good-1", "good-2")


@dataclass(slots=True)
class Story:
    """What became of all the cases; `texts` are all the report files of a job, and `logs` the agent's log."""

    status: dict[str, dict[str, Any] | None]
    status_text: dict[str, str]
    rows: dict[str, list[dict[str, str]]]
    texts: dict[str, bytes]
    uploads: list[str]
    accepted: list[Accepted]
    violations: list[str]
    log: bytes
    rejections: dict[str, list[str]]
    failures: list[dict[str, Any]]
    code: int


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    config = {"intake": {"settle": "1s", "max_message": "1MB"}}
    with Relay() as relay, Agent(tmp_path_factory.mktemp("bad"), relay.port, config=config) as agent:
        agent.start()
        names = [GOOD[0], *CASES, GOOD[1]]
        for name in names:
            case = CASES.get(name, Case())
            files = {**content(f"ada@{name}.example"), **case.files}
            folder = agent.spool / "tmp" / name
            write(folder, {path: data for path, data in files.items() if data is not None})
            case.prepare(folder)
            folder.rename(agent.spool / "new" / name)
        with contextlib.suppress(AssertionError):  # each test says what is missing
            wait_for(lambda: all((agent.spool / "done" / name).is_dir() for name in names), 30)
        code = agent.stop()
        yield Story(
            {name: agent.status(name) for name in names},
            {name: (agent.report(name, "status.txt") or b"").decode() for name in names},
            {name: agent.recipients(name) for name in names},
            {
                name: b"".join(path.read_bytes() for path in agent.spool.glob(f"*/{name}/report/*") if path.is_file())
                for name in names
            },
            [path.name for path in (agent.spool / "new").iterdir()],
            relay.accepted,
            relay.violations,
            agent.log_file.read_bytes(),
            {
                name: [event["reason"] for event in agent.events("job.rejected") if event["job"] == name]
                for name in names
            },
            agent.events("agent.task_failed") + agent.events("report.failed"),
            code,
        )


@pytest.mark.parametrize("name", REJECTED)
def test_job_error_rejects_the_job_with_every_reason_and_sends_nothing(story: Story, name: str) -> None:
    case, status = CASES[name], story.status[name]
    assert status is not None
    assert status["state"] == "rejected"
    errors = status["errors"]
    assert len(errors) == len(case.errors), errors
    for error, expected in zip(errors, case.errors, strict=True):
        assert re.fullmatch(expected, error), error
        assert error.isprintable()
    assert status["reason"].startswith(errors[0])
    # One line each for a person, too.
    lines = [line.strip() for line in story.status_text[name].splitlines()]
    assert set(errors[:50]) <= set(lines)
    assert f"{name}: rejected: nothing was sent" in lines[0]
    assert story.rejections[name] == [status["reason"]]
    assert status["total"] == 0
    assert_whole(status)
    assert not [mail for mail in story.accepted if any(to.endswith(f"@{name}.example") for to in mail.recipients)]


@pytest.mark.parametrize("name", PARTLY)
def test_recipient_error_fails_that_recipient_alone(story: Story, name: str) -> None:
    case, status = CASES[name], story.status[name]
    assert status is not None
    assert status["state"] == "finished"
    assert status["errors"] == []
    rows = story.rows[name]
    found = {row["address"]: row for row in rows}
    assert len(found) == len(rows) == status["total"] == len(case.failed) + len(case.sent)
    for address, (code, diagnostic) in case.failed.items():
        row = found[address]
        assert (row["state"], row["dsn_status"], row["dsn_action"], row["attempts"]) == ("failed", code, "failed", "0")
        assert re.fullmatch(diagnostic, row["diagnostic"]), row["diagnostic"]
        assert row["diagnostic"].isprintable()
    assert [found[address]["state"] for address in case.sent] == ["sent"] * len(case.sent)
    assert {state: count for state, count in status["counts"].items() if count} == {
        "failed": len(case.failed),
        "sent": len(case.sent),
    }
    assert_whole(status)
    for expected in case.warnings or (r"\d recipient\(s\) failed at once, such as .*",):
        assert any(re.fullmatch(expected, warning) for warning in status["warnings"]), status["warnings"]
    sent = [to for mail in story.accepted for to in mail.recipients if to.endswith(f"@{to_domain(case)}")]
    assert sorted(sent) == sorted(case.sent)


def to_domain(case: Case) -> str:
    return case.sent[0].partition("@")[2]


@pytest.mark.parametrize("name", GOOD)
def test_good_job_beside_goes_through(story: Story, name: str) -> None:
    status = story.status[name]
    assert status is not None
    assert (status["state"], status["counts"]["sent"], status["total"]) == ("finished", 1, 1)
    assert [to for mail in story.accepted for to in mail.recipients].count(f"ada@{name}.example") == 1


def test_nothing_outside_of_a_job_is_read(story: Story) -> None:
    assert not [mail for mail in story.accepted if SECRET.encode() in mail.data or SECRET in mail.recipients]
    assert not [name for name, text in story.texts.items() if SECRET.encode() in text]
    assert SECRET.encode() not in story.log


def test_agent_lives_on_and_leaves_nothing_behind(story: Story) -> None:
    assert story.code == 0
    assert story.failures == []
    assert story.uploads == []
    assert story.violations == []
    everyone = [to for mail in story.accepted for to in mail.recipients]
    assert len(everyone) == len(set(everyone))
    assert not [to for to in everyone if "evil" in to]
    assert b"\x1b" not in story.log
    assert not [name for name, text in story.texts.items() if b"\x1b" in text]
