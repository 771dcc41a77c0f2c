"""Both event loops that the agent can run on: the same mail, the same reports, the same end."""

import signal
from pathlib import Path

import pytest

from tests.servers.agent import Agent
from tests.servers.audit import audit, wait_at_rest
from tests.servers.certificate import Authority
from tests.servers.relay import Relay

BIG = b"Subject: big\n\n" + b".x" * 300 + b"\n" + (b"y" * 70 + b"\n") * 20_000
LOOPS = ("asyncio", "uvloop")


def loop_of(agent: Agent) -> str:
    """By the libraries that the process has mapped."""
    return "uvloop" if "uvloop" in Path(f"/proc/{agent.pid}/maps").read_text() else "asyncio"


@pytest.mark.parametrize("security", ["none", "starttls"])
@pytest.mark.parametrize("loop", LOOPS)
def test_both_loops_send_small_large_and_shared_messages_alike(
    loop: str, security: str, tmp_path: Path, ca: Authority
) -> None:
    settings = {"connections": 4, "recipients_per_message": 10, "security": security}
    if security != "none":
        settings["ca_file"] = str(ca.pem)
    files = {f"messages/{number}.eml": b"Subject: %d\n\n.dot\nbye" % number for number in range(150)}
    files["messages/0.eml"] = BIG
    rows = "address,message\n" + "".join(f"p{n}@one.example,messages/{n}.eml\n" for n in range(150))
    shared = [f"s{number}@two.example" for number in range(250)]
    with (
        Relay(tls=None if security == "none" else ca.valid.context()) as relay,
        Agent(tmp_path, relay.port, relay=settings, environ={"SPOOLD_LOOP": loop}) as agent,
    ):
        agent.start()
        assert loop_of(agent) == loop
        agent.drop("personal", rows, message=None, files=files)
        agent.drop("shared", shared)
        for name in ("personal", "shared"):
            assert agent.wait_state(name, "finished")["counts"]["sent"] in (150, 250)
        personal = [f"p{number}@one.example" for number in range(150)]
        found = audit(agent, relay.accepted, {"personal": personal, "shared": shared})
        assert not found.uncertain
        bodies = {mail.recipients[0]: mail.data for mail in relay.accepted if mail.recipients[0] in personal}
        assert bodies["p0@one.example"].endswith(BIG.replace(b"\n", b"\r\n"))
        assert all(bodies[f"p{n}@one.example"].endswith(b"\r\n.dot\r\nbye\r\n") for n in range(1, 150))
        assert relay.violations == []
        assert agent.stop() == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_both_loops_leave_nothing_in_doubt_but_what_was_open_when_they_were_killed(loop: str, tmp_path: Path) -> None:
    addresses = [f"to{number}@one.example" for number in range(400)]
    settings = {"connections": 3, "recipients_per_message": 2}
    with (
        Relay(latency=0.005) as relay,
        Agent(tmp_path, relay.port, relay=settings, environ={"SPOOLD_LOOP": loop}) as agent,
    ):
        agent.start()
        agent.drop("job", addresses, manifest={"on_uncertain": "hold"})
        relay.wait_for(lambda relay: len(relay.accepted) >= 40)
        agent.stop(signal.SIGKILL)
        agent.start()
        wait_at_rest(agent, ["job"])
        found = audit(agent, relay.accepted, {"job": addresses})
        assert len(found.uncertain) <= 2 * 3 * 2
        assert agent.stop() == 0
