"""What a soak does, and when: decided beforehand, by the seed alone. The same seed and length give the same steps."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from spoold.failpoint import NAMES
from tests.servers import script
from tests.servers.script import Action, Command

#: In every refusal of the soak's relay, so that the audit knows whose words a report repeats.
MARK = "soak"
#: The relays, the first of which goes wrong more often and has the second for a fallback.
RELAYS = ("default", "second")
#: Steps a second; a soak that is longer is not denser.
DENSITY = 3.0


class Kind(enum.Enum):
    """What is in a job."""

    NEWSLETTER = "one message to many"
    PERSONAL = "a message each"
    INVOICE = "one recipient"
    TWIN = "the same content under two names"
    AGAIN = "the same content, allowed twice"
    NAMESAKE = "other content under a name that was used"
    PARTLY_BAD = "some recipients that cannot be sent to"
    BAD = "a manifest or a message that is refused"


class Way(enum.Enum):
    """How a job gets into new/."""

    RENAMED = "renamed in"
    SEALED = "sealed"
    READY = "ready"
    COPIED = "quiet, by cp"
    RSYNC = "quiet, by rsync"
    CUT = "quiet, cut in the middle and finished later"


class Window(enum.Enum):
    """A weekly window, put so that it changes within minutes of the drop."""

    OPEN = "open all the time"
    CLOSES = "closes with the minute"
    OPENS = "opens with the next minute"


@dataclass(frozen=True, slots=True)
class Job:
    """`names` has one folder name an upload; `salt` seeds what its upload still has to decide."""

    number: int
    names: tuple[str, ...]
    kind: Kind
    way: Way
    recipients: int
    manifest: dict[str, Any]
    window: Window | None
    send_after: float | None
    salt: str

    @property
    def refused(self) -> bool:
        """Whether nothing of it may be sent."""
        return self.kind is Kind.BAD


@dataclass(frozen=True, slots=True)
class Upload:
    job: Job


@dataclass(frozen=True, slots=True)
class Fault:
    """A rule of a relay."""

    relay: str
    command: Command
    action: Action
    nth: int
    times: int


@dataclass(frozen=True, slots=True)
class Release:
    """What hangs at the relays goes on."""


@dataclass(frozen=True, slots=True)
class Restart:
    """A relay is down for `seconds`, and comes back with these settings."""

    relay: str
    reset: bool
    seconds: float
    pipelining: bool
    max_recipients: int | None
    latency: float


class Ending(enum.Enum):
    KILL = "SIGKILL"
    TERM = "SIGTERM"


@dataclass(frozen=True, slots=True)
class End:
    """The agent is ended, and started again after `pause` seconds; with `failpoint` the new one ends itself there."""

    by: Ending
    pause: float
    failpoint: str | None


class Wish(enum.Enum):
    CANCEL = "CANCEL"
    HOLD = "HOLD"
    RELEASE = "release"
    RETRY = "RETRY"
    UNCERTAIN = "retry --uncertain"
    EDIT = "edited timing"
    BAD_EDIT = "edited timing, wrong"


@dataclass(frozen=True, slots=True)
class Control:
    """A wish for the live job at `pick` (0 to 1) of their list; `values` are timing keys."""

    wish: Wish
    pick: float
    values: dict[str, Any] = field(default_factory=dict)


Step = Upload | Fault | Release | Restart | End | Control


def plan(seed: int, seconds: float) -> list[tuple[float, Step]]:
    """The steps of a soak with the moments, in seconds from its begin, at which they are due."""
    chance = Random(f"{seed}/plan")
    jobs = _Jobs(seed)
    steps: list[tuple[float, Step]] = [(0.0, Upload(jobs.draw(kind))) for kind in Kind]
    at = 0.5
    while at < seconds:
        steps.extend((at, step) for step in _draw(chance, jobs))
        at += chance.expovariate(DENSITY)
    return steps


def _draw(chance: Random, jobs: "_Jobs") -> list[Step]:
    words = ("job", "invoices", "fault", "release", "restart", "end", "control")
    match chance.choices(words, (9, 2, 9, 3, 1, 2, 7))[0]:
        case "job":
            return [Upload(jobs.draw(chance.choices(list(Kind), (6, 4, 2, 2, 1, 1, 2, 1))[0]))]
        case "invoices":
            return [Upload(jobs.draw(Kind.INVOICE)) for _ in range(chance.randint(2, 8))]
        case "fault":
            return [fault(chance)]
        case "release":
            return [Release()]
        case "restart":
            pipelining, most = chance.random() < 0.7, chance.choice((None, None, 3, 7))
            reset, seconds, latency = chance.random() < 0.5, chance.uniform(0, 2), chance.choice((0.0, 0.01, 0.05))
            return [Restart(_relay(chance), reset, seconds, pipelining, most, latency)]
        case "end":
            by = chance.choices((Ending.KILL, Ending.TERM), (3, 2))[0]
            point = f"{chance.choice(NAMES)}:{chance.randint(1, 12)}" if chance.random() < 0.4 else None
            return [End(by, chance.choice((0, 0, 0.3, 1.5)), point)]
        case _:
            return [_control(chance)]


def _relay(chance: Random) -> str:
    return chance.choices(RELAYS, (3, 1))[0]


def fault(chance: Random) -> Fault:
    """One thing that the relay does wrong a few times; refusals for good are rarer than others."""
    command = chance.choice(
        (Command.CONNECT, Command.EHLO, Command.MAIL, Command.RCPT, Command.RCPT, Command.DATA, Command.BODY, Command.DOT,
         Command.DOT)
    )  # fmt: skip
    dot = command is Command.DOT
    reset = chance.random() < 0.5
    actions: list[Action] = [
        script.Reply(f"451 4.7.1 {MARK}: try again later"),
        script.Reply(f"452 4.3.1 {MARK}: storage full"),
        script.Reply(f"421 4.3.2 {MARK}: closing"),
        script.Reply(f"550 5.7.1 {MARK}: never"),
        script.Drop(reset),
        script.Hang(accept=dot and chance.random() < 0.5),
        script.Garbage(
            b"what?\r\n" if reset else b"\xff\0\x1b[31m" * 9 + b"\r\n", accept=dot and chance.random() < 0.5
        ),
        script.Delay(chance.uniform(0.1, 1.5), accept=dot and chance.random() < 0.5),
    ]
    if dot:
        actions += [script.DropAfterAccept(reset), script.DropBeforeAccept(reset), script.DropAfterAccept(reset)]
    if command is Command.BODY:
        actions.append(script.RstMidBody(chance.randint(1, 60)))
    if command is Command.RCPT:
        actions += [
            script.Reply(f"452 4.5.3 {MARK}: too many recipients"),
            script.Reply(f"452 4.2.2 {MARK}: mailbox full"),
        ]
    return Fault(_relay(chance), command, chance.choice(actions), chance.randint(1, 8), chance.choice((1, 1, 2, 4)))


def _control(chance: Random) -> Control:
    wish = chance.choices(list(Wish), (2, 4, 4, 3, 2, 4, 1))[0]
    values: dict[str, Any] = {}
    if wish is Wish.EDIT:
        values = chance.choice(
            ({"rate": "30/s"}, {"rate": "400/s"}, {"priority": "low"}, {"windows": []}, {"retry": {"every": "2s", "for": "1h"}},
             {"domain_rates": {"one.example": "20/s"}})
        )  # fmt: skip
    if wish is Wish.BAD_EDIT:
        values = {"rate": "10/fortnight"}
    return Control(wish, chance.random(), values)


class _Jobs:
    """Draws jobs, each from the seed and its own number, so that one's content does not depend on another's."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._count = 0
        self._used: list[str] = []

    def draw(self, kind: Kind) -> Job:
        self._count += 1
        number = self._count
        chance = Random(f"{self._seed}/job/{number}")
        name = f"job-{number}"
        names: Sequence[str] = (name,)
        if kind in (Kind.TWIN, Kind.AGAIN):
            names = (name, f"{name}-copy")
        elif kind is Kind.NAMESAKE and self._used:
            names = (chance.choice(self._used),)
        elif kind not in (Kind.BAD, Kind.NAMESAKE):
            self._used.append(name)
        manifest: dict[str, Any] = {
            "on_uncertain": chance.choice(("resend", "hold")),
            "retry": {"every": f"{chance.randint(1, 3)}s", "for": "1h"},
            "priority": chance.choice(("low", "normal", "normal", "high")),
            "relay": chance.choice(RELAYS),
            "description": f"{kind.value}, {number}",
        }
        if chance.random() < 0.2:
            manifest["rate"] = chance.choice(("50/s", "200/s"))
        if chance.random() < 0.2:
            manifest["domain_rates"] = {"one.example": "25/s", "*": "300/s"}
        if chance.random() < 0.1:
            manifest["expires"] = f"{chance.randint(8, 15)}s"  # behind any send_after, else the job is rejected
        if kind is Kind.AGAIN:
            manifest["allow_duplicate"] = True
        window = chance.choice(list(Window)) if chance.random() < 0.15 else None
        send_after = chance.uniform(0.5, 6) if chance.random() < 0.1 else None
        size = {Kind.INVOICE: 1, Kind.NEWSLETTER: chance.randint(50, 800), Kind.PERSONAL: chance.randint(5, 60)}
        # Without the right counts to wait for, only these two say when an upload is complete.
        ways = (Way.RENAMED, Way.READY) if kind in (Kind.PARTLY_BAD, Kind.BAD) else tuple(Way)
        way = chance.choice(ways)
        return Job(
            number, tuple(names), kind, way, size.get(kind, chance.randint(5, 90)), manifest, window, send_after,
            f"{self._seed}/upload/{number}",
        )  # fmt: skip
