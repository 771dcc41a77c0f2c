"""The real agent as a process of its own, in a spool under a temporary folder, with what tests want to know of it."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.servers.nursery import Forked, nursery

T = TypeVar("T")

#: What stands in a spool.
FOLDERS = ("tmp", "new", "active", "deferred", "done")
#: Where a job in this state stands, if not in done/.
FOLDER_OF = {"sending": "active", "scheduled": "deferred", "waiting": "deferred", "held": "deferred"}
MESSAGE = b"From: <news@example.com>\nTo: undisclosed-recipients:;\nSubject: News\n\nHello,\n.a line with a dot\nbye\n"


def wait_for(look: Callable[[], T | None], timeout: float = 15.0, what: str = "") -> T:
    """What `look` returns as soon as that is true; AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s in vain for {what or look}")
        time.sleep(0.02)  # a poll, bounded by the deadline above


def wait_replaced(path: Path, timeout: float) -> tuple[os.stat_result, os.stat_result]:
    """What the file was, and what it is as soon as another one has taken its place."""
    before = path.stat()
    wait_for(lambda: path.stat().st_ino != before.st_ino, timeout, f"a new {path.name}")
    return before, path.stat()


#: A test that puts a program before Python wants it run.
_PYTHON = sys.executable


class Agent:
    """`port` is the default relay's. `config` is merged into the configuration's top level, `relay` into the relay's."""

    #: Whether it comes from the nursery. Benches, which look at its start and its memory, want it from the beginning.
    forks = True

    def __init__(
        self,
        root: Path,
        port: int,
        *,
        relay: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.root = root
        self.spool = root / "spool"
        self.config = root / "spoold.yaml"
        self.process: subprocess.Popen[bytes] | Forked | None = None
        self._environ = dict(environ or {})
        self._logs = 0
        self.configure(port, relay=relay, config=config)
        for name in FOLDERS:
            (self.spool / name).mkdir(parents=True, exist_ok=True)
        (self.spool / ".spoold").mkdir(mode=0o700, exist_ok=True)

    def configure(
        self, port: int, *, relay: Mapping[str, Any] | None = None, config: Mapping[str, Any] | None = None
    ) -> None:
        """Write the configuration (JSON is YAML)."""
        document: dict[str, Any] = {
            "spool": str(self.spool),
            "relays": {"default": {"host": "127.0.0.1", "port": port, "security": "none", **(relay or {})}},
            "intake": {"settle": "1s"},
            "log": {"format": "json", "level": "debug"},
            **(config or {}),
        }
        self.config.write_text(json.dumps(document, indent=1))

    # --- the process --------------------------------------------------------------------------------------------------

    def start(self, *, failpoint: str | None = None, wait: bool = True, arguments: Sequence[str] = ()) -> Self:
        self._logs += 1
        environ = {**os.environ, **self._environ}
        environ.pop("SPOOLD_FAILPOINT", None)
        if failpoint is not None:
            environ["SPOOLD_FAILPOINT"] = failpoint
        with self.log_file.open("wb") as log:
            command = ["--config", str(self.config), "run", *arguments]
            early = any(name.startswith(("LD_", "PYTHON")) for name in self._environ)
            if early or not self.forks or sys.executable != _PYTHON:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "spoold", *command],
                    stderr=log,
                    stdout=log,
                    stdin=subprocess.DEVNULL,
                    env=environ,
                )
            else:
                with open(os.devnull, "rb") as nothing:
                    self.process = nursery().start(command, environ, nothing.fileno(), log.fileno(), log.fileno())
        if wait:
            wait_for(lambda: self.events("agent.started") or self.process.poll() is not None, what="the agent's start")  # type: ignore[union-attr]
            assert self.process.poll() is None, self.log_file.read_text()
        return self

    @property
    def log_file(self) -> Path:
        """The log of the process started last."""
        return self.root / f"agent-{self._logs}.log"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The log events of the process started last."""
        found = []
        for line in self.log_file.read_bytes().splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if name is None or event.get("event") == name:
                found.append(event)
        return found

    def stop(self, number: int = signal.SIGTERM, timeout: float = 20.0) -> int:
        """End the process by a signal; returns its exit code (negative: killed by that signal)."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout)
        self.process = None
        return code

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def died(self, timeout: float = 20.0) -> int:
        """Wait for the process to end by itself; returns its exit code."""
        assert self.process is not None
        code = self.process.wait(timeout)
        self.process = None
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGKILL)

    def command(self, *arguments: str, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run another `spoold` command on the same configuration."""
        command = ["--config", str(self.config), *arguments]
        with (
            open(os.devnull, "rb") as nothing,
            tempfile.TemporaryFile() as stdout,
            tempfile.TemporaryFile() as stderr,
        ):
            files = nothing.fileno(), stdout.fileno(), stderr.fileno()
            process = nursery().start(command, {**os.environ, **self._environ}, *files)
            try:
                code = process.wait(timeout)
            finally:
                process.kill()
            texts = [os.pread(file.fileno(), 1 << 24, 0).decode() for file in (stdout, stderr)]
        return subprocess.CompletedProcess(command, code, *texts)

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def write_job(
        self,
        folder: Path,
        recipients: Sequence[str] | str = ("ada@one.example",),
        *,
        manifest: Mapping[str, Any] | None = None,
        message: bytes | None = MESSAGE,
        files: Mapping[str, bytes] | None = None,
    ) -> Path:
        """A job folder: `recipients` are addresses, or a whole recipients.csv; `manifest` is merged over a sender."""
        folder.mkdir(parents=True)
        if message is not None:
            (folder / "message.eml").write_bytes(message)
        text = recipients if isinstance(recipients, str) else "address\n" + "".join(f"{to}\n" for to in recipients)
        if text:
            (folder / "recipients.csv").write_text(text, newline="")
        for name, content in (files or {}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        (folder / "job.yaml").write_text(
            json.dumps({"sender": "news@example.com", **(manifest or {})}, indent=1) + "\n"
        )
        return folder

    def drop(self, name: str, *arguments: Any, **options: Any) -> str:
        """Write a job below tmp/ and rename it into new/. Takes what `write_job` takes."""
        self.write_job(self.spool / "tmp" / name, *arguments, **options)
        (self.spool / "tmp" / name).rename(self.spool / "new" / name)
        return name

    def find(self, name: str) -> Path | None:
        """The job's folder, wherever it stands."""
        for folder in ("new", "active", "deferred", "done"):
            if (self.spool / folder / name).is_dir():
                return self.spool / folder / name
        return None

    def names(self, folder: str = "new") -> list[str]:
        """What stands in a folder of the spool, hidden or not."""
        return sorted(path.name for path in (self.spool / folder).iterdir())

    def report(self, name: str, file: str) -> bytes | None:
        """A report file's content, None where there is none (yet)."""
        for folder in ("active", "deferred", "done"):
            try:
                return (self.spool / folder / name / "report" / file).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                continue
        return None

    def status(self, name: str) -> dict[str, Any] | None:
        data = self.report(name, "status.json")
        return None if data is None else json.loads(data)

    def recipients(self, name: str) -> list[dict[str, str]]:
        data = self.report(name, "recipients.csv")
        return [] if data is None else list(csv.DictReader(io.StringIO(data.decode(), newline="")))

    def attempts(self, name: str) -> list[dict[str, Any]]:
        data = self.report(name, "attempts.jsonl")
        return [] if data is None else [json.loads(line) for line in data.splitlines()]

    def state(self) -> dict[str, Any] | None:
        """SPOOL/status.json."""
        try:
            found: dict[str, Any] = json.loads((self.spool / "status.json").read_bytes())
        except FileNotFoundError:
            return None
        return found

    def wait_state(self, name: str, state: str, timeout: float = 20.0) -> dict[str, Any]:
        """The job's status once it is in this state and its folder is the one that belongs to it."""
        folder = FOLDER_OF.get(state, "done")

        def look() -> dict[str, Any] | None:
            if not (self.spool / folder / name).is_dir():
                return None
            status = self.status(name)
            return status if status is not None and status["state"] == state else None

        try:
            return wait_for(look, timeout, f"{name} {state}")
        except AssertionError:
            raise AssertionError(
                f"{name} did not become {state} in {timeout:g} s: {self.status(name)}\n{self.log_file.read_text()[-3000:]}"
            ) from None

    def clear(self) -> None:
        shutil.rmtree(self.spool)
