"""One real agent with many scripted relays, and a job for each: many faults in the time of one."""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.servers.agent import Agent
from tests.servers.relay import Relay

#: A relay's timeouts so short that silence does not make a test long.
IMPATIENT = {"connect": "2s", "command": "3s", "data": "3s", "final": "3s"}
PATIENCE = 30.0


class Fleet:
    """A context manager. Relays are known by name; a job that goes through a relay has the relay's name.

    `errors` keeps every `relay_error` that was seen in a job's status, by job, while the fleet waited for something.
    """

    def __init__(
        self,
        root: Path,
        relays: Mapping[str, Relay],
        *,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        config: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.relays = dict(relays)
        self.errors: dict[str, list[str]] = {name: [] for name in relays}
        self._settings = {name: dict((settings or {}).get(name, {})) for name in relays}
        self._config = dict(config or {})
        self._stack = contextlib.ExitStack()
        self.agent = Agent(root, 0, config=self._document(), environ=environ)

    def _document(self) -> dict[str, Any]:
        return {
            "retry": {"every": "2s", "for": "1h"},
            **self._config,
            "relays": {
                name: {
                    "host": "127.0.0.1",
                    "port": relay.port,
                    "security": "none",
                    "timeouts": IMPATIENT,
                    **self._settings[name],
                }
                for name, relay in self.relays.items()
            },
        }

    def reconfigure(self, name: str, **settings: Any) -> None:
        """Change a relay's settings in the configuration file; None takes one away. SIGHUP is the caller's."""
        self._settings[name].update(settings)
        self._settings[name] = {key: value for key, value in self._settings[name].items() if value is not None}
        self.agent.configure(0, config=self._document())

    def __enter__(self) -> Self:
        for relay in self.relays.values():
            self._stack.enter_context(relay)
        self._stack.enter_context(self.agent)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def look(self) -> dict[str, dict[str, Any]]:
        """The status of every job that has one; remembers what it says of the relays."""
        found = {}
        for name, errors in self.errors.items():
            status = self.agent.status(name)
            if status is None:
                continue
            found[name] = status
            assert sum(status["counts"].values()) == status["total"], status
            fault = status["relay_error"]
            if fault and fault not in errors:
                errors.append(fault)
        return found

    def follow(self, names: Iterable[str], done: Callable[[dict[str, Any]], object], timeout: float = PATIENCE) -> None:
        """Look at all jobs until `done` holds for the status of each of `names`; AssertionError tells which lag."""
        deadline = time.monotonic() + timeout
        missing = set(names)
        while True:
            statuses = self.look()
            missing -= {name for name in missing if name in statuses and done(statuses[name])}
            if not missing:
                return
            if time.monotonic() > deadline:
                lag = "\n".join(f"{name}: {statuses.get(name)}" for name in sorted(missing))
                raise AssertionError(f"not in {timeout:g} s: {lag}\n{self.agent.log_file.read_text()[-3000:]}")
            time.sleep(0.05)  # a poll, bounded by the deadline above

    def finish(self, names: Iterable[str], timeout: float = PATIENCE) -> None:
        """Follow until these jobs are finished and in done/, where their reports are exact."""
        done = self.agent.spool / "done"
        self.follow(names, lambda status: status["state"] == "finished" and (done / status["job"]).is_dir(), timeout)

    def history(self, job: str) -> dict[str, list[str]]:
        """What attempts.jsonl says of each recipient, by its local part: `sent 2.0.0`, in order."""
        found: dict[str, list[str]] = {}
        for attempt in self.agent.attempts(job):
            local = attempt["address"].partition("@")[0]
            found.setdefault(local, []).append(f"{attempt['result']} {attempt['dsn_status']}")
            assert attempt["attempt"] == len(found[local]), attempt
        return found
