"""`spoold resend` of a job whose messages were changed in done/: the same bytes, or nothing and the reason."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers.agent import MESSAGE, Agent
from tests.servers.relay import Relay
from tests.servers.script import Reply, Rule

WHOLE = b"Date: Tue, 1 Dec 2026 09:00:00 +0100\nMessage-ID: <1@example.com>\n" + MESSAGE
BARE = b"From: a@b.example\nSubject: without date or id\n\nprice 100\n"


def edit(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"\n\n", b"\n\nP.S.: ", 1))


def link(path: Path) -> None:
    path.rename(path.with_suffix(".old"))
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("message", [WHOLE, BARE], ids=["whole", "completed by the agent"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (edit, "sale: message.eml was changed in done/ since it was taken"),
        (
            lambda path: path.write_bytes(b"no\rmessage\0at all"),
            "sale: message.eml was changed in done/ since it was taken",
        ),
        (lambda path: path.write_bytes(b""), "sale: message.eml was changed in done/ since it was taken"),
        (lambda path: path.unlink(), "sale: message.eml is missing in done/"),
        (link, "sale: a message in done/ is a symbolic link now"),
    ],
    ids=["edited", "spoilt", "emptied", "removed", "linked"],
)
def test_changed_message_is_not_sent_and_nothing_is_left_of_the_new_job(
    agent: Agent, relay: Relay, message: bytes, change: Callable[[Path], object], told: str
) -> None:
    relay.rules = [Rule("RCPT", Reply("550 5.1.1 unknown"), match="bad")]
    agent.start()
    agent.drop("sale", ["ada@one.example", "bad@one.example"], message=message)
    agent.wait_state("sale", "finished")
    relay.rules = []
    path = agent.spool / "done" / "sale" / "message.eml"
    first = path.read_bytes()
    change(path)
    done = agent.command("resend", "sale", "--state", "failed")
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"spoold: {told}")
    assert list((agent.spool / "tmp").iterdir()) == []
    # Put back as it was, it is sent as it was.
    path.unlink(missing_ok=True)
    path.write_bytes(first)
    assert agent.command("resend", "sale", "--state", "failed").returncode == 0
    agent.wait_state("sale-resend", "finished")
    bodies = {mail.data for mail in relay.accepted}
    assert len(bodies) == 1


def test_message_of_somebody_else_may_change(agent: Agent, relay: Relay) -> None:
    relay.rules = [Rule("RCPT", Reply("550 5.1.1 unknown"), match="bad")]
    agent.start()
    rows = "address,message\nada@one.example,a.eml\nbad@one.example,b.eml\n"
    agent.drop("sale", rows, message=None, files={"a.eml": WHOLE, "b.eml": WHOLE + b"b\n"})
    agent.wait_state("sale", "finished")
    edit(agent.spool / "done" / "sale" / "a.eml")
    done = agent.command("resend", "sale", "--state", "failed")
    assert (done.returncode, done.stderr) == (0, "")
