"""`spoold resend`: the same bytes to those of a finished job that are asked for, and to nobody else."""

import sqlite3
from contextlib import closing

from tests.servers.agent import MESSAGE, Agent
from tests.servers.relay import Relay
from tests.servers.script import Reply, Rule

WHOLE = b"Date: Tue, 1 Dec 2026 09:00:00 +0100\nMessage-ID: <1@example.com>\n" + MESSAGE
BARE = b"Subject: without date or id\n\n.dot\nbody\n"


def _fail_once(relay: Relay) -> None:
    relay.rules = [Rule("RCPT", Reply("550 5.1.1 unknown"), match="bad")]


def test_failed_recipients_get_the_same_bytes_with_their_columns(agent: Agent, relay: Relay) -> None:
    _fail_once(relay)
    rows = 'address,name,message\nada@one.example,Ada,\nbad1@one.example,"B, 1",\nbad2@two.example,,own.eml\nbob@two.example,Bob,\n'
    manifest = {"rate": "500/s", "description": "Sale: now", "expect": {"recipients": 4}}
    agent.start()
    agent.drop("sale", rows, manifest=manifest, message=BARE, files={"own.eml": WHOLE})
    counts = agent.wait_state("sale", "finished")["counts"]
    assert (counts["sent"], counts["failed"]) == (2, 2)
    (first,) = {mail.data for mail in relay.accepted}
    relay.rules = []
    before = len(relay.accepted)

    done = agent.command("resend", "sale", "--state", "failed,expired")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "sale-resend: in new/, 2 recipient(s) of sale that are failed or expired\n"
    assert agent.wait_state("sale-resend", "finished")["counts"]["sent"] == 2
    sent = {mail.recipients: mail.data for mail in relay.accepted[before:]}
    assert set(sent) == {("bad1@one.example",), ("bad2@two.example",)}
    assert sent["bad1@one.example",] == first
    assert first.endswith(b"Subject: without date or id\r\n\r\n.dot\r\nbody\r\n")
    folder = agent.spool / "done" / "sale-resend"
    assert (folder / "recipients.csv").read_bytes() == (
        b'address,message,name\r\nbad1@one.example,message.eml,"B, 1"\r\nbad2@two.example,own.eml,\r\n'
    )
    assert (folder / "own.eml").read_bytes() == WHOLE
    text = (folder / "job.yaml").read_text()
    assert text.startswith("# resent from sale: failed, expired\n")
    assert 'description: "Sale: now"' in text
    assert "expect" not in text

    # The same command again is most likely a mistake.
    assert agent.command("resend", "sale", "--state", "failed,expired").returncode == 0
    assert agent.wait_state("sale-resend.2", "rejected")["errors"] == ["duplicate of sale-resend"]
    again = agent.command("resend", "sale", "--state", "failed", "--name", "third", "--allow-duplicate")
    assert again.returncode == 0
    assert agent.wait_state("third", "finished")["counts"]["sent"] == 2


def test_job_that_lives_or_has_nobody_is_refused(agent: Agent, relay: Relay) -> None:
    agent.start()
    agent.drop("held", ["ada@one.example", "bob@one.example"], files={"HOLD": b""})
    agent.wait_state("held", "held")
    agent.drop("good", ["ada@one.example"])
    agent.wait_state("good", "finished")
    for name, text in {
        "held": "held: is not done, 2 of 2 recipients wait; resend when it is, or cancel it first",
        "good": "good: none of its 1 recipients is failed",
        "none": "none: no such job is known here",
        "../x\x1b": "x\\x1b: no such job is known here",
    }.items():
        done = agent.command("resend", name, "--state", "failed")
        assert (done.returncode, done.stderr) == (1, f"spoold: {text}\n")
    wrong = agent.command("resend", "good", "--state", "failed,lost")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith(
        "spoold: --state lost: expected one or more of sent, failed, expired, cancelled"
    ) or ("--state lost: expected one or more of" in wrong.stderr)


def test_what_is_over_is_left_out_and_what_was_edited_counts(agent: Agent, relay: Relay) -> None:
    agent.start()
    manifest = {"send_after": "2026-01-01T00:00:00+00:00", "expires": "5d", "rate": "1/h"}
    agent.drop("old", ["ada@one.example", "bob@one.example"], manifest=manifest, files={"HOLD": b""})
    agent.wait_state("old", "held")
    job = agent.spool / "deferred" / "old"
    (job / "job.yaml").write_text((job / "job.yaml").read_text().replace("1/h", "900/s"))
    (job / "CANCEL").touch()
    agent.wait_state("old", "cancelled")
    done = agent.command("resend", "old/", "--state", "cancelled", "--name", "new-one")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "note: send_after: 2026-01-01T00:00:00+00:00 is over; left out"
    assert agent.wait_state("new-one", "finished")["counts"]["sent"] == 2


def test_commands_that_look_up_a_job_leave_a_killed_agents_database_as_it_is(agent: Agent, relay: Relay) -> None:
    """Also the log beside it, which whoever opened it for writing would put away."""
    _fail_once(relay)
    agent.start()
    agent.drop("sale", ["ada@one.example", "bad@one.example"])
    agent.wait_state("sale", "finished")
    agent.kill()
    private = agent.spool / ".spoold"
    before = {name: (private / name).read_bytes() for name in ("spool.db", "spool.db-wal")}
    assert before["spool.db-wal"]
    for arguments in (
        ("resend", "sale", "--state", "failed"),
        ("dsn", "sale"),
        ("purge", "--older-than", "1d", "--dry-run"),
    ):
        done = agent.command(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), arguments
        assert {name: (private / name).read_bytes() for name in before} == before, arguments


def test_database_of_another_version_is_told_in_one_line(agent: Agent, relay: Relay) -> None:
    agent.start()
    agent.drop("sale", ["ada@one.example"])
    agent.wait_state("sale", "finished")
    agent.stop()
    path = agent.spool / ".spoold" / "spool.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99999")
    done = agent.command("resend", "sale", "--state", "sent")
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"spoold: {path}: was written by a newer version (form 99999, ")
    assert line.endswith("; use that version's program")
