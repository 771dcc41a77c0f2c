"""Uploads that come again, and writers that come too late: nothing is sent twice, nothing that was taken changes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.servers.agent import MESSAGE, Agent, wait_for
from tests.servers.relay import Relay
from tests.servers.upload import assert_whole, content, read, seal_of, write


def _drop(agent: Agent, name: str, files: Mapping[str, bytes]) -> None:
    write(agent.spool / "tmp" / name, files)
    (agent.spool / "tmp" / name).rename(agent.spool / "new" / name)


def _tree(folder: Path) -> dict[str, bytes]:
    """The files of a job, without its report."""
    return {name: data for name, data in read(folder).items() if not name.startswith("report/")}


def _assert_duplicate(agent: Agent, name: str, of: str) -> None:
    status = agent.wait_state(name, "rejected")
    assert status["reason"] == f"duplicate of {of}"
    assert status["errors"] == [f"duplicate of {of}"]
    assert status["total"] == 0
    text = wait_for(lambda: agent.report(name, "status.txt"))
    assert f"duplicate of {of}" in text.decode().splitlines()[-3]
    assert agent.recipients(name) == []
    assert_whole(status)


def test_same_content_again_is_a_duplicate_however_it_comes(agent: Agent, relay: Relay) -> None:
    agent.start()
    files = content("ada@once.example")
    _drop(agent, "once", files)
    agent.wait_state("once", "finished")
    before = _tree(agent.spool / "done" / "once")
    # What is no content makes no difference: seal, control files, a planted report, the rest of a cut transfer.
    _drop(agent, "once", files)
    _assert_duplicate(agent, "once.2", "once")
    _drop(agent, "once", {**files, "SHA256SUMS": seal_of(files)})
    _assert_duplicate(agent, "once.3", "once")
    _drop(agent, "other", {**files, "READY": b"now", "HOLD": b"", "report/status.json": b"{}"})
    _assert_duplicate(agent, "other", "once")
    _drop(agent, "rest", {**files, ".message.eml.Ab3dE9": b"From: half", ".DS_Store": b"x", "READY": b""})
    _assert_duplicate(agent, "rest", "once")
    # The other way about, too, and after a restart.
    other = content("ada@rest.example")
    _drop(agent, "first", {**other, ".message.eml.Ab3dE9": b"From: half", "READY": b""})
    agent.wait_state("first", "finished")
    assert agent.stop() == 0
    agent.start()
    _drop(agent, "second", other)
    _assert_duplicate(agent, "second", "first")
    assert relay.recipients == ["ada@once.example", "ada@rest.example"]
    assert _tree(agent.spool / "done" / "once") == before
    assert relay.violations == []


def test_duplicate_of_a_live_job_is_one_too(agent: Agent, relay: Relay) -> None:
    agent.start()
    files = content("ada@live.example")
    _drop(agent, "live", {**files, "HOLD": b""})
    agent.wait_state("live", "held")
    _drop(agent, "live", files)
    _assert_duplicate(agent, "live.2", "live")
    assert relay.accepted == []
    (agent.spool / "deferred" / "live" / "HOLD").unlink()
    assert agent.wait_state("live", "finished")["counts"]["sent"] == 1
    assert relay.recipients == ["ada@live.example"]


def test_ten_copies_at_once_are_sent_once(agent: Agent, relay: Relay) -> None:
    names = [f"copy-{n}" for n in range(10)]
    for name in names:
        _drop(agent, name, content("ada@copy.example"))
    agent.start()
    ended = ["finished"] + ["rejected"] * 9
    wait_for(
        lambda: sorted((agent.status(name) or {"state": ""})["state"] for name in names) == ended, what="one of ten"
    )
    wait_for(lambda: all((agent.spool / "done" / name).is_dir() for name in names), what="all in done/")
    assert relay.recipients == ["ada@copy.example"]


def test_rejected_job_is_no_twin_so_that_it_can_be_uploaded_again(agent: Agent, relay: Relay) -> None:
    agent.start()
    files = {**content("ada@again.example"), "job.yaml": b"sender: news@example.com\nrelay: second\n"}
    _drop(agent, "again", files)
    agent.wait_state("again", "rejected")
    agent.stop()
    port = {"host": "127.0.0.1", "port": relay.port, "security": "none"}
    agent.configure(relay.port, config={"relays": {"default": port, "second": port}})
    agent.start()
    _drop(agent, "again", files)
    status = agent.wait_state("again.2", "finished")
    assert status["counts"]["sent"] == 1
    assert relay.recipients == ["ada@again.example"]


def test_same_name_with_other_content_is_a_new_job(agent: Agent, relay: Relay) -> None:
    agent.start()
    changed = {
        "manifest": {"job.yaml": json.dumps({"sender": "news@example.com", "description": "again"}).encode()},
        "message": {"message.eml": MESSAGE + b"more\n"},
        "recipients": {"recipients.csv": b"address\nbob@recipients.example\n"},
        "attachment": {"attachment.pdf": b"%PDF"},
    }
    files = {name: content(f"ada@{name}.example") for name in changed}
    for name in changed:
        _drop(agent, name, files[name])
    for name in changed:
        agent.wait_state(name, "finished")
    before = {name: _tree(agent.spool / "done" / name) for name in changed}
    for name, other in changed.items():
        _drop(agent, name, {**files[name], **other})
    for name in changed:
        assert agent.wait_state(f"{name}.2", "finished")["counts"]["sent"] == 1
    for name, other in changed.items():
        _drop(agent, name, {**files[name], **other})
    for name in changed:
        _assert_duplicate(agent, f"{name}.3", f"{name}.2")
        assert _tree(agent.spool / "done" / name) == before[name]
    twice = [f"ada@{name}.example" for name in ("manifest", "message", "attachment")] * 2
    assert sorted(relay.recipients) == sorted([*twice, "ada@recipients.example", "bob@recipients.example"])
    assert [mail.recipients for mail in relay.accepted if mail.data.endswith(b"more\r\n")] == [("ada@message.example",)]
    assert relay.violations == []


def test_allowed_duplicate_is_sent_again(agent: Agent, relay: Relay) -> None:
    agent.start()
    manifest: dict[str, Any] = {"allow_duplicate": True}
    files = content("ada@allowed.example", manifest=manifest)
    for name in ("allowed", "allowed.2", "allowed.3"):
        _drop(agent, "allowed", files)
        status = agent.wait_state(name, "finished")
        assert status["counts"]["sent"] == status["total"] == 1
    assert relay.recipients == ["ada@allowed.example"] * 3
    ids = {line for mail in relay.accepted for line in mail.data.split(b"\r\n") if line.startswith(b"Message-ID:")}
    assert len(ids) == 3, "each is a message of its own"
    assert agent.events("job.rejected") == []


def test_late_writer_never_gets_other_bytes_sent_than_those_that_were_taken(agent: Agent, relay: Relay) -> None:
    agent.start()
    folder = agent.spool / "tmp" / "late"
    write(folder, {**content("ada@late.example"), "HOLD": b""})
    # As scp does it: the file is open while the job is taken, and written to afterwards.
    with (folder / "message.eml").open("ab", buffering=0) as late:
        folder.rename(agent.spool / "new" / "late")
        agent.wait_state("late", "held")
        late.write(b"one more line\n")
    held = agent.spool / "deferred" / "late"
    (held / "HOLD").unlink()
    status = agent.wait_state("late", "waiting")
    assert status["counts"]["deferred"] == status["total"] == 1
    (row,) = wait_for(lambda: [row for row in agent.recipients("late") if row["dsn_status"] == "4.3.0"])
    assert "was changed after the job was taken" in row["diagnostic"]
    assert relay.accepted == []
    # The original back, the job goes on.
    (held / "message.eml").write_bytes(MESSAGE)
    (held / "RETRY").touch()
    agent.wait_state("late", "finished")
    (mail,) = relay.accepted
    assert mail.data.endswith(MESSAGE.replace(b"\n", b"\r\n"))
    assert relay.violations == []


@pytest.mark.parametrize("state", ["held", "finished"])
def test_files_put_under_the_old_name_are_a_new_upload(agent: Agent, relay: Relay, state: str) -> None:
    agent.start()
    files = content("ada@old.example")
    _drop(agent, "old", {**files, **({"HOLD": b""} if state == "held" else {})})
    agent.wait_state("old", state)
    before = _tree(_taken(agent, "old"))
    # A late program that writes by path finds no folder; one that makes it again begins another upload.
    write(agent.spool / "new" / "old", {"message.eml": MESSAGE + b"late\n"})
    wait_for(lambda: any(upload["upload"] == "old" for upload in (agent.state() or {})["uploads"]))
    after = _tree(_taken(agent, "old"))
    assert {name: after[name] for name in files} == {name: before[name] for name in files} == files
    assert relay.recipients == (["ada@old.example"] if state == "finished" else [])


def _taken(agent: Agent, name: str) -> Path:
    return next(path for folder in ("active", "deferred", "done") if (path := agent.spool / folder / name).is_dir())
