"""The power goes at any moment of a job's life, and with it all that was not synced: the next start finishes everything."""

import asyncio
import os
from pathlib import Path

import pytest

from spoold.storage.files import Files
from tests.servers.agent import FOLDERS, MESSAGE, Agent
from tests.servers.audit import at_rest, audit
from tests.servers.inprocess import capture, live
from tests.servers.powerloss import Cut, Recorder
from tests.servers.relay import Relay

ONE = [f"one{n}@one.example" for n in range(3)]
TWO = [f"two{n}@two.example" for n in range(2)]
JOBS = {"one": ONE, "two": TWO}
#: Starts at most, spread evenly over the states that differ; and how many of them at a time.
MOST = 40
AT_ONCE = 20


def finished(agent: Agent) -> bool:
    return all(at_rest(agent, name) for name in JOBS)


async def start_after(cut: Cut, folder: Path, before: Relay) -> None:
    folder.mkdir()
    with Relay() as relay:
        agent = Agent(folder, relay.port)
        for name in FOLDERS:
            (agent.spool / name).rmdir()
        cut.build(agent.spool)
        try:
            assert await live(agent, Files(), lambda: finished(agent), 30) is None
            found = audit(agent, [*before.accepted[: cut.taken], *relay.accepted], JOBS)
        except AssertionError as error:
            tree = sorted(str(path.relative_to(agent.spool)) for path in agent.spool.rglob("*"))
            states = {name: agent.status(name) for name in JOBS}
            raise AssertionError(f"power lost after {folder.name}: {error}: {states} {tree}") from error
        assert len(found.uncertain) <= 5, folder.name
        for message in relay.accepted:
            assert message.data.endswith(b"bye\r\n"), folder.name


@pytest.mark.parametrize("uid", [0, 12345], ids=["moved", "copied"])
async def test_power_cut_at_any_step_loses_nothing_and_sends_nothing_twice(
    uid: int, tmp_path: Path, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    if uid and os.geteuid() != 0:
        pytest.skip("only root can give files to another user")
    log = capture(monkeypatch)
    manifest = {"on_uncertain": "hold", "allow_duplicate": True, "retry": {"every": "1s", "for": "1d"}}
    first = tmp_path / "first"
    first.mkdir()
    agent = Agent(first, relay.port, relay={"recipients_per_message": 2, "connections": 1})
    agent.drop("one", ONE, manifest=manifest, files={"READY": b""})
    own = "address,message\n" + "".join(f"{to},messages/deep/{n}.eml\n" for n, to in enumerate(TWO))
    files = {f"messages/deep/{n}.eml": MESSAGE for n in range(len(TWO))}
    agent.drop("two", own, manifest=manifest, message=None, files={"READY": b"", **files})
    if uid:
        for path in (agent.spool / "new").rglob("*"):
            os.chown(path, uid, uid)
    with monkeypatch.context() as recording:
        recorder = Recorder(agent.spool, lambda: len(relay.accepted), recording)
        assert await live(agent, recorder, lambda: finished(agent), 30) is None
    audit(agent, relay.accepted, JOBS)

    cuts = recorder.cuts
    chosen = [(at, cuts[at]) for at in sorted({round(n * (len(cuts) - 1) / (MOST - 1)) for n in range(MOST)})]
    for begin in range(0, len(chosen), AT_ONCE):
        await asyncio.gather(
            *(
                start_after(cut, tmp_path / f"{at}-{cut.step.replace('/', '-')}", relay)
                for at, cut in chosen[begin : begin + AT_ONCE]
            )
        )
    assert len(chosen) >= 30
    assert log.of("agent.task_failed", "agent.failed") == []
