"""Lives of an agent in a spool in which another user of the group puts things under every name that the agent uses."""

import random
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers.agent import Agent, wait_for
from tests.servers.inprocess import live
from tests.servers.neighbour import KINDS, Neighbour, share
from tests.servers.nursery import PLAIN
from tests.servers.relay import Relay
from tests.servers.witness import Witness

MOMENTS = ("before the start", "running", "stopping")
PLANTER, HONEST = 64002, 64003
#: The jobs of a life. Into the folder of the victim is planted what is the agent's there: it must end in order. Into that of
#: the muddled one what is its owner's or people's: what becomes of it is their affair.
VICTIM, MUDDLED, LONG, LETTER = "victim", "muddled", "long", "letter"
_FOLDERS = ("active", "deferred", "done")
_OURS = ("report", "RETRY")
#: Names that the uploads of a life need for themselves.
_TAKEN = {
    f"{folder}/{name}" for folder in ("tmp", "new") for name in (VICTIM, MUDDLED, LONG, "honest", f"{LETTER}.eml")
}
PICKUP = "X-Sender: <news@example.com>\nX-Receiver: <{}>\nFrom: news@example.com\nSubject: News\n\nHello\n"


@dataclass(frozen=True)
class Plan:
    """What to plant in one life: (kind, place, moment). A place in a job's folder begins with `JOB/`."""

    plants: tuple[tuple[str, str, str], ...]


def places_of(paths: Iterable[str]) -> list[str]:
    """Where something can be planted, of the paths that an agent used."""
    found = set()
    for path in paths:
        folder, _, rest = path.partition("/")
        if folder in ("tmp", "new") and rest and "/" not in rest and path not in _TAKEN:
            found.add(path)
        job, _, below = rest.partition("/")
        if folder in _FOLDERS and job in (VICTIM, MUDDLED) and below:
            found.add(f"JOB/{below}")
    return sorted(found)


def sample(places: Sequence[str], seed: int, number: int) -> Plan:
    """The plan of the life `number`: some of the places, each with a kind, all at one moment or at several."""
    chance = random.Random(f"{seed}-{number}")
    chosen = [place for place in places if chance.random() < 0.4]
    moments = MOMENTS if number % 4 == 3 else (MOMENTS[number % 4],)
    return Plan(tuple((chance.choice(KINDS), place, chance.choice(moments)) for place in chosen))


async def observe(root: Path, relay: Relay) -> list[str]:
    """The places that an agent uses in whole lives of jobs, of which one gets every order, and one is killed half taken."""
    agent = Agent(root, relay.port, config={"intake": {"settle": "1s"}, "notify": "boss@life.example"})
    witness = Witness(agent.spool)
    share(agent.spool)
    with Neighbour(HONEST, agent.spool, root) as honest:
        for name in (VICTIM, MUDDLED, "honest"):
            assert honest.upload(
                name, [f"ada@{name}.example"], {"send_after": "2099-01-01T00:00:00Z"} if name == MUDDLED else None
            )
        agent.drop(LONG, ["ada@long.example"], files={"READY": b""})
        honest.drop(f"{LETTER}.eml", PICKUP.format("ada@letter.example"))
        told = agent.spool / "done"

        def done() -> bool:
            for name, order in (("RETRY", MUDDLED), ("CANCEL", MUDDLED)):
                folder = agent.spool / "deferred" / order
                if folder.is_dir() and witness.paths:
                    (folder / name).touch()
            notices = [path for path in told.iterdir() if path.name.startswith("notice-")]
            return (
                all((told / name).is_dir() for name in (VICTIM, MUDDLED, LONG, LETTER, "honest")) and len(notices) >= 3
            )

        assert await live(agent, witness, done, 30) is None
        # What a start finds of a process that was killed.
        for name in (
            f"new/.claim-{VICTIM}",
            f"new/.taken-{VICTIM}",
            "new/.pickup-x.1",
            "new/.picked-1-2-x",
            "tmp/..notice.1",
        ):
            (agent.spool / name).mkdir()
        assert await live(agent, witness, lambda: (agent.spool / "new" / VICTIM).is_dir(), 30) is None
    return places_of(witness.paths)


@contextmanager
def ground() -> Iterator[Path]:
    """A folder for one life: what is planted is too deep for Python's and pytest's own ways of removing."""
    folder = tempfile.mkdtemp(prefix="spoold-plant-")
    try:
        yield Path(folder)
    finally:
        subprocess.run(["rm", "-rf", folder], check=True)


class Life:
    """One life of an agent, in `root`, under a plan. `relay` takes what it sends."""

    def __init__(self, root: Path, relay: Relay, plan: Plan) -> None:
        self._plan = plan
        self._relay = relay
        self._outside = root / "outside"
        self._outside.mkdir(mode=0o777)
        (self._outside / "precious").write_text("precious")
        for path in (self._outside, self._outside / "precious"):
            path.chmod(0o777)
        self._agent = Agent(
            root, relay.port, relay={"recipients_per_message": 1}, environ={PLAIN: "1"},
            config={"intake": {"settle": "1s"}, "notify": "boss@life.example", "retry": {"every": "1s", "for": "1d"}},
        )  # fmt: skip
        share(self._agent.spool)
        self._planted = 0

    def live(self) -> int:
        """AssertionError where the agent does not do what it must; returns how many things could be planted."""
        agent, spool = self._agent, self._agent.spool
        with (
            agent,
            Neighbour(PLANTER, spool, self._outside) as planter,
            Neighbour(HONEST, spool, self._outside) as honest,
        ):
            agent.start()
            assert honest.upload(VICTIM, [f"v{n}@victim.example" for n in range(12)], {"rate": "4/s"})
            assert honest.upload(MUDDLED, [f"m{n}@muddled.example" for n in range(400)], {"rate": "3/s"})
            assert honest.upload(LONG, [f"l{n}@long.example" for n in range(4000)], {"rate": "40/s"})
            for name in (VICTIM, MUDDLED, LONG):
                wait_for(lambda name=name: agent.status(name), what=name)  # type: ignore[misc]
            if self._of("before the start"):
                assert agent.stop() == 0
                self._plant(planter, "before the start")
                agent.start()
            self._plant(planter, "running")
            name = next(name for name in ("honest", "honest-again") if honest.upload(name, ["ada@honest.example"]))
            honest.drop(f"{LETTER}.eml", PICKUP.format("ada@letter.example"))
            wait_for(
                lambda: {"ada@honest.example", "ada@letter.example"} <= set(self._relay.recipients), 15, "honest mail"
            )
            agent.wait_state(name, "finished", 15)
            self._cancel(planter)
            status = agent.wait_state(VICTIM, "finished", 20)
            assert status["counts"]["sent"] == status["total"] == 12
            assert {row["state"] for row in agent.recipients(VICTIM)} == {"sent"}
            self._plant(planter, "stopping")
            begun = time.monotonic()
            assert agent.stop() == 0
            assert time.monotonic() - begun < 10
            self._check_log()
            agent.start()
            assert agent.stop() == 0
            self._check_log()
        assert sorted(path.name for path in self._outside.iterdir()) == ["precious"]
        assert (self._outside / "precious").read_text() == "precious"
        assert self._relay.violations == []
        sent = [to for to in self._relay.recipients if not to.endswith(("@muddled.example", "@life.example"))]
        assert len(sent) == len(set(sent))
        return self._planted

    def _of(self, moment: str) -> list[tuple[str, str]]:
        return [(kind, place) for kind, place, when in self._plan.plants if when == moment]

    def _plant(self, planter: Neighbour, moment: str) -> None:
        for kind, place in self._of(moment):
            path = place
            if place.startswith("JOB/"):
                below = place.removeprefix("JOB/")
                job = VICTIM if below.startswith(_OURS) else MUDDLED
                folder = next(folder for folder in _FOLDERS if (self._agent.spool / folder / job).is_dir())
                if folder == "done" and moment != "stopping":
                    continue  # nobody writes there any more
                path = f"{folder}/{job}/{below}"
            self._planted += planter.plant(kind, path)

    def _cancel(self, planter: Neighbour) -> None:
        """CANCEL of a job that is being sent: a second later nothing of it leaves any more."""
        planter.touch(f"active/{LONG}/CANCEL")
        asked = time.monotonic()
        self._agent.wait_state(LONG, "cancelled", 10)
        late = [
            mail
            for mail in self._relay.accepted
            if mail.at > asked + 1.0 and mail.recipients[0].endswith("@long.example")
        ]
        assert late == []

    def _check_log(self) -> None:
        events = self._agent.events()
        assert [event for event in events if event["event"] in ("agent.task_failed", "agent.failed")] == []
        assert "Traceback" not in self._agent.log_file.read_text()
