"""Does what was planned, in real time, with the real agent; then makes peace and waits for rest."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.servers.agent import Agent, wait_for
from tests.servers.audit import DEFERRED, UNCERTAIN, connect
from tests.servers.relay import EXTENSIONS, Accepted, Relay, Rule, read_journal
from tests.soak.plan import RELAYS, Control, End, Ending, Fault, Job, Release, Restart, Step, Upload, Wish
from tests.soak.upload import SETTLE, Content, Uploader, content

CONNECTIONS = 6
PER_MESSAGE = 5
#: Seconds a round trip to a relay takes at first.
LATENCY = 0.02
#: The agent waits no longer than this for a relay, in seconds.
PATIENCE = 3
#: What a busy machine may take for a start or an end, in seconds.
SLOW = 60
LIVE = ("active", "deferred")


@dataclass(slots=True)
class Facts:
    """What was done, and what was seen on the way. `wrong` has a line for each thing that should not have been."""

    contents: list[tuple[Job, Content]] = field(default_factory=list)
    cancelled: dict[str, float] = field(default_factory=dict)
    """Folder names with CANCEL, and when it was put there, monotonic."""
    edited: set[str] = field(default_factory=set)
    ends: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    wishes: Counter[str] = field(default_factory=Counter)
    restarts: int = 0
    recovered: list[int] = field(default_factory=list)
    """How many recipients each start after a kill said it found in doubt."""
    kills: int = 0
    wrong: list[str] = field(default_factory=list)


class Soak:
    """One soak in `root`; what the relays took is in the files `journals`."""

    def __init__(self, root: Path) -> None:
        self.facts = Facts()
        self.journals = [root / f"{name}.journal" for name in RELAYS]
        self.relays = {
            name: Relay(journal=journal, latency=LATENCY) for name, journal in zip(RELAYS, self.journals, strict=True)
        }
        settings: dict[str, dict[str, Any]] = {
            name: {
                "host": relay.host,
                "port": relay.port,
                "security": "none",
                "connections": CONNECTIONS,
                "recipients_per_message": PER_MESSAGE,
                "timeouts": dict.fromkeys(("connect", "command", "data", "final"), f"{PATIENCE}s"),
            }
            for name, relay in self.relays.items()
        }
        settings[RELAYS[0]]["fallback"] = RELAYS[1]
        self.agent = Agent(
            root,
            0,
            config={
                "relays": settings,
                "intake": {"settle": f"{SETTLE:g}s"},
                "log": {"format": "json", "level": "info"},
            },
        )
        self._stopped = threading.Event()
        self._uploader = Uploader(self.agent.spool, self._stopped)
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="upload")
        self._uploads: list[Future[None]] = []
        self._rules: list[Rule] = []
        self._armed: str | None = None

    def __enter__(self) -> "Soak":
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)
        self.agent.stop(signal.SIGKILL)
        for relay in self.relays.values():
            relay.close()

    def run(self, steps: list[tuple[float, Step]], *, seconds: float, patience: float) -> None:
        """Do the steps, as far as the machine gets in so many seconds, then let everything come to rest within `patience`
        seconds, and end the agent.
        """
        for relay in self.relays.values():
            relay.start()
        self._start()
        wait_for(lambda: self.agent.events("agent.started"), SLOW, "the agent's start")
        begun = time.monotonic()
        for number, (at, step) in enumerate(steps):
            if time.monotonic() > begun + seconds:
                print(f"{len(steps) - number} steps were left out: the time is over", flush=True)
                break
            if (pause := begun + at - time.monotonic()) > 0:
                self._stopped.wait(pause)
            self._do(step)
            self._watch()
        self._make_peace(time.monotonic() + patience)
        self._end(Ending.TERM)
        for name, relay in self.relays.items():
            self.facts.wrong += [f"relay {name} notes: {violation}" for violation in relay.violations]

    def accepted(self) -> list[Accepted]:
        """What the relays took, by their journals."""
        return [message for path in self.journals for message in read_journal(path)]

    # --- steps ----------------------------------------------------------------------------------------------------

    def _do(self, step: Step) -> None:
        match step:
            case Upload(job):
                self._upload(job)
            case Fault(relay, command, action, nth, times):
                rule = Rule(command, action, nth=nth, times=times)
                self._rules.append(rule)
                self.relays[relay].rules = [*filter(_waits, self.relays[relay].rules), rule]
            case Release():
                for each in self.relays.values():
                    each.release()
            case Restart():
                self._restart(step)
            case End(by, pause, failpoint):
                self._end(by)
                time.sleep(pause)  # the time without an agent is what is tested
                self._start(failpoint)
            case Control():
                self._control(step)

    def _upload(self, job: Job) -> None:
        found = content(job, datetime.now(UTC))
        self.facts.contents.append((job, found))
        for name in job.names:
            self._uploads.append(self._pool.submit(self._uploader.upload, job, name, found.files))

    def _restart(self, step: Restart) -> None:
        relay = self.relays[step.relay]
        relay.stop(step.reset)
        time.sleep(step.seconds)  # as above
        relay.extensions = tuple(line for line in EXTENSIONS if step.pipelining or line != "PIPELINING")
        relay.max_recipients = step.max_recipients
        relay.latency = step.latency
        relay.start()
        self.facts.restarts += 1

    def _control(self, step: Control) -> None:
        if step.wish is Wish.UNCERTAIN:
            self._retry_uncertain()
            return
        # Only what is held can be released.
        pattern = "job-*/HOLD" if step.wish is Wish.RELEASE else "job-*/job.yaml"
        places = [path for folder in LIVE for path in (self.agent.spool / folder).glob(pattern)]
        names = sorted(path.parent.name for path in places)
        if not names:
            return
        name = names[int(step.pick * len(names))]
        if self.wish(name, step):
            self.facts.wishes[step.wish.value] += 1

    def wish(self, name: str, step: Control) -> bool:
        """Touch, remove or edit a file of a live job, wherever it stands just now; whether that could be done."""
        if step.wish is Wish.CANCEL:
            # Noted before the touch, so that no job is cancelled by nobody, and again after it, for the time that it had.
            self.facts.cancelled.setdefault(name, time.monotonic())
        for folder in LIVE:
            with contextlib.suppress(FileNotFoundError), _opened(self.agent.spool / folder / name) as root:
                match step.wish:
                    case Wish.EDIT | Wish.BAD_EDIT:
                        _edit(root, step.values)
                        self.facts.edited.add(name)
                    case Wish.RELEASE:
                        os.unlink("HOLD", dir_fd=root)
                    case other:
                        os.close(os.open(other.value, os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=root))
                if step.wish is Wish.CANCEL:
                    self.facts.cancelled[name] = time.monotonic()
                return True
        return False

    def _retry_uncertain(self) -> None:
        names = [name for name, _, _, uncertain, _ in self.jobs() if uncertain]
        if names:
            self.agent.command("retry", "--uncertain", *names)
            self.facts.wishes[Wish.UNCERTAIN.value] += 1

    # --- the agent ------------------------------------------------------------------------------------------------

    def _start(self, failpoint: str | None = None) -> None:
        self._armed = failpoint
        self.agent.start(failpoint=failpoint, wait=False)

    def _end(self, by: Ending) -> None:
        number = signal.SIGKILL if by is Ending.KILL else signal.SIGTERM
        if self.agent.process is None:
            return
        try:
            code = self.agent.stop(number, timeout=SLOW)
        except subprocess.TimeoutExpired:
            self.facts.wrong.append(f"SIGTERM did not end the agent within {SLOW} s")
            code = self.agent.stop(signal.SIGKILL)
        self._ended(code, by)

    def _watch(self) -> None:
        """An agent that has ended by itself is started again; only an armed one may."""
        process = self.agent.process
        if process is not None and process.poll() is not None:
            self._ended(self.agent.died(), None)
            self._start()

    def _ended(self, code: int, by: Ending | None) -> None:
        facts = self.facts
        log = self.agent.log_file
        started = bool(self.agent.events("agent.started"))
        facts.recovered += [event["uncertain"] for event in self.agent.events("agent.recovered")]
        for name in ("agent.task_failed", "agent.failed", "report.failed"):
            facts.wrong += [f"{log.name}: {event}" for event in self.agent.events(name)]
        if b"Traceback" in log.read_bytes():
            facts.wrong.append(f"{log.name}: a traceback")
        if code == -signal.SIGKILL and (by is Ending.KILL or self._armed is not None):
            facts.kills += 1
            facts.ends[Ending.KILL.value if by is Ending.KILL else "failpoint"] += 1
        elif by is Ending.TERM and (code == 0 or (code == -signal.SIGTERM and not started)):
            facts.ends[by.value] += 1
        else:
            facts.wrong.append(f"{log.name}: the agent ended with {code}, armed {self._armed}, told {by}")

    # --- rest -----------------------------------------------------------------------------------------------------

    def jobs(self) -> list[tuple[str, str, str | None, int, int]]:
        """Each accepted job: name, state, reason, how many of its recipients are uncertain, and deferred."""
        with closing(connect(self.agent)) as database:
            return database.execute(
                "SELECT name, state, reason,"
                " coalesce((SELECT n FROM state_tally WHERE job_id = job.id AND state = ?), 0),"
                " coalesce((SELECT n FROM state_tally WHERE job_id = job.id AND state = ?), 0)"
                " FROM job WHERE accepted",
                (UNCERTAIN, DEFERRED),
            ).fetchall()

    def _make_peace(self, deadline: float) -> None:
        """No fault, no limit, no hold any more; wait until nothing more is to be sent by itself."""
        for relay in self.relays.values():
            relay.rules = []
            relay.latency = 0
            relay.max_recipients = None
            relay.release()
        for rule in self._rules:
            if taken := _taken(rule):
                self.facts.faults[f"{rule.command} {type(rule.action).__name__}"] += taken
        for upload in self._uploads:
            upload.result(max(deadline - time.monotonic(), 1))
        if self._armed is not None or self.agent.process is None:
            self._end(Ending.TERM)
            self._start()
        lifted: set[str] = set()
        while not self._at_rest(lifted):
            self._watch()
            if time.monotonic() > deadline:
                self.facts.wrong += [f"not at rest: {line}" for line in self._restless()]
                return
            time.sleep(0.5)  # a poll, bounded by the deadline above

    def _at_rest(self, lifted: set[str]) -> bool:
        """Look once, and hurry what would come by itself later."""
        if any((self.agent.spool / "new").iterdir()):
            return False
        retry = False
        for name, state, reason, uncertain, deferred in self.jobs():
            if state in ("finished", "cancelled", "rejected"):
                continue
            if name not in lifted:
                self.wish(name, Control(Wish.RELEASE, 0))
                if self.wish(name, Control(Wish.EDIT, 0, LIFTED)):
                    lifted.add(name)
            if deferred:
                self.wish(name, Control(Wish.RETRY, 0))
            retry = retry or (uncertain > 0 and reason != "uncertain")
        if retry:
            self._retry_uncertain()
        return not self._restless()

    def _restless(self) -> list[str]:
        lines = [f"new/{path.name}" for path in (self.agent.spool / "new").iterdir()]
        for name, state, reason, uncertain, deferred in self.jobs():
            folder = "done" if state in ("finished", "cancelled", "rejected") else "deferred"
            resting = folder == "done" or (state == "held" and reason == "uncertain")
            if not resting or not (self.agent.spool / folder / name / "report").is_dir():
                lines.append(f"{name} {state} {reason}, {uncertain} uncertain, {deferred} deferred")
        return lines


#: What is edited into a job that shall come to its end.
LIFTED: dict[str, Any] = {
    "windows": [],
    "send_after": None,
    "rate": None,
    "domain_rates": None,
    "retry": {"every": "1s", "for": "1h"},
}


def _taken(rule: Rule) -> int:
    """How often the rule has acted."""
    return min(max(rule.seen - rule.nth + 1, 0), rule.times or 0)


def _waits(rule: Rule) -> bool:
    return _taken(rule) != rule.times


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield root
    finally:
        os.close(root)


def _edit(root: int, values: dict[str, Any]) -> None:
    """Change timing keys of the job.yaml in the folder `root`, as an editor does; None removes one."""
    with open(os.open("job.yaml", os.O_RDONLY, dir_fd=root), "rb") as file:
        manifest = {**json.loads(file.read()), **values}
    text = json.dumps({key: value for key, value in manifest.items() if value is not None}, indent=1) + "\n"
    with open(os.open(".job.yaml", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644, dir_fd=root), "w") as file:
        file.write(text)
    os.rename(".job.yaml", "job.yaml", src_dir_fd=root, dst_dir_fd=root)
