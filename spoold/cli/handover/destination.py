"""Where a job is handed over: a spool on this machine, or one on another by rsync and ssh.

Both copy into `tmp/` first and rename the whole into `new/` in one step: never is there half a job in new/. Of what a
user gave, only the checked name of a job and quoted paths come into a remote shell's sight.
"""

import contextlib
import hashlib
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import orjson

from spoold.cli.command import UsageError
from spoold.cli.handover.cargo import LEFT_BEHIND, Cargo
from spoold.core.folder import SEAL
from spoold.core.problem import printable
from spoold.storage.draft import Draft, NameTakenError, entrance, modes_below
from spoold.storage.files import Files
from spoold.storage.spooldir import FOLDERS, SpoolError, valid_name

_REMOTE = re.compile(r"(?P<host>(?:[^/:@\s]+@)?(?:\[[0-9A-Fa-f:.%\w]+\]|[^/:@\s\[\]]+)):(?P<path>.*)", re.DOTALL)
_PERCENT = re.compile(rb"(\d{1,3})%")
_LIMIT = 1 << 20
#: Seconds without a byte after which rsync gives a connection up.
_SILENCE = 120
_STAGING = "tmp"

Progress = Callable[[int, int], None]


class TransferError(Exception):
    """The job was not handed over; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job stands: `folder/name`, and its report's status.json, None as long as there is none."""

    folder: str
    name: str
    status: dict[str, Any] | None


class Destination(Protocol):
    """A spool to hand jobs over to. Methods raise TransferError, SpoolError or OSError."""

    label: str

    def names(self, name: str) -> dict[str, str]:
        """The jobs of this name, and of this name with a number behind it: the folder of each."""

    def hand_over(self, cargo: Cargo, name: str, progress: Progress) -> None:
        """Copy, and rename into new/."""

    def find(self, name: str, digest: str) -> list[Place]:
        """The jobs of this name, numbered ones too, whose seal has this SHA-256."""


def destination(text: str) -> Destination:
    """A spool from how people write it: a path, or host:path as rsync and scp take it. Raises UsageError."""
    match = _REMOTE.fullmatch(text)
    if match is None:
        return LocalSpool(text)
    host, path = match["host"], match["path"]
    if host.startswith("-") or not host.isprintable():
        raise UsageError(
            f"{printable(text)}: a host's name does not begin with '-'; expected host:spool or user@host:spool"
        )
    if path.startswith(":") or not path.isprintable():
        raise UsageError(f"{printable(text)}: expected host:spool, by ssh; a spool's path has no control characters")
    if path.startswith("~") and path != "~" and not path.startswith("~/"):
        raise UsageError(f"{printable(text)}: expected a path, absolute or from the home directory")
    return RemoteSpool(host, path.removeprefix("~").removeprefix("/") if path.startswith("~") else path)


class LocalSpool:
    """A spool on this machine."""

    def __init__(self, path: str) -> None:
        self.label = path
        self._path = Path(path)

    def names(self, name: str) -> dict[str, str]:
        with entrance(Files(), str(self._path)):
            return {path.name: folder for folder, path in self._jobs(name)}

    def _jobs(self, name: str) -> Iterator[tuple[str, Path]]:
        for folder in FOLDERS:
            for path in (self._path / folder / name, *(self._path / folder).glob(f"{name}.*")):
                # Who may only drop jobs need not be able to look at those that were taken.
                with contextlib.suppress(PermissionError):
                    if path.is_dir():
                        yield folder, path

    def hand_over(self, cargo: Cargo, name: str, progress: Progress) -> None:
        files = Files()
        done = 0

        def counted(path: tuple[str, ...]) -> Iterator[bytes]:
            nonlocal done
            for chunk in files.chunks(root, path, known=True):
                yield chunk
                done += len(chunk)
                progress(done, cargo.size)

        with (
            files.closing(files.open_directory(None, str(cargo.path))) as root,
            entrance(files, str(self._path)) as (tmp, new),
            Draft(files, tmp, name) as draft,
        ):
            for entry in cargo.entries:
                draft.add(entry.path, counted(entry.path))
            if draft.seal() != cargo.seal:
                raise TransferError("the folder changed while it was copied; nothing was handed over")
            try:
                draft.publish(new, name)
            except NameTakenError:
                raise _taken(name) from None

    def find(self, name: str, digest: str) -> list[Place]:
        found = []
        for folder, path in self._jobs(name):
            try:
                if hashlib.sha256((path / SEAL).read_bytes()).hexdigest() != digest:
                    continue
            except OSError:
                continue
            try:
                status = orjson.loads((path / "report" / "status.json").read_bytes())
            except (OSError, orjson.JSONDecodeError):
                status = None
            found.append(Place(folder, path.name, status))
        return found


class RemoteSpool:
    """A spool on another machine; `$RSYNC_RSH` may name another program than ssh, or give it options."""

    def __init__(self, host: str, path: str) -> None:
        self.label = f"{host}:{path or '.'}"
        self._host = host
        # A path that begins with a dash is none for the programs there.
        self._path = f"./{path}" if path.startswith("-") else path or "."
        self._mode = 0o700
        self._shell = shlex.split(os.environ.get("RSYNC_RSH") or "ssh")

    def names(self, name: str) -> dict[str, str]:
        """Also whether there is a spool at all."""
        found: dict[str, str] = {}
        for line in self._run(f"stat -c %a tmp; {_each(name)} printf '%s\\n' \"$j\"; done").splitlines():
            folder, slash, job = line.partition("/")
            if slash:
                found[job] = folder
            elif line.isdigit():
                self._mode = int(line, 8)
        return found

    def hand_over(self, cargo: Cargo, name: str, progress: Progress) -> None:
        # The same content under the same name goes on where a broken upload ended; any other begins anew.
        staging = f".submit-{name}-{cargo.digest[:16]}"
        folder_mode, file_mode = modes_below(self._mode)
        with tempfile.TemporaryDirectory(prefix="spoold-submit-") as own:
            seal = Path(own) / SEAL
            seal.write_bytes(cargo.seal)
            self._rsync(
                [
                    "-rtpz", "--partial", "--delete-excluded", "--protect-args", "--no-inc-recursive", f"--timeout={_SILENCE}",
                    f"--chmod=D{folder_mode:o},F{file_mode:o}", "--outbuf=N", "--info=progress2",
                    "--exclude=.*", *(f"--exclude=/{left}" for left in LEFT_BEHIND if left != SEAL),
                    # The seal comes first: it wins against one that the folder has.
                    "--", str(seal), f"{cargo.path}/", f"{self._host}:{self._path}/{_STAGING}/{staging}/",
                ],
                cargo.size,
                progress,
            )  # fmt: skip
        answer = self._run(
            f"if [ -e new/{name} ]; then echo taken; else sync -f tmp/{staging} 2>/dev/null;"
            f" mv -T -- tmp/{staging} new/{name} && echo moved; fi",
            "the job may be in new/ or not: look with `spoold status`, or run the same command again; what was taken"
            " already is not taken twice",
        )
        if answer.strip() == "taken":
            raise _taken(name)

    def find(self, name: str, digest: str) -> list[Place]:
        script = (
            f'{_each(name)} set -- $(sha256sum 2>/dev/null < "$j/{SEAL}"); [ "$1" = {digest} ] || continue;'
            " printf '@%s\\n' \"$j\"; cat -- \"$j/report/status.json\" 2>/dev/null; printf '\\n'; done"
        )
        found = []
        for part in f"\n{self._run(script)}".split("\n@")[1:]:
            place, _, text = part.partition("\n")
            folder, _, job = place.partition("/")
            try:
                status = orjson.loads(text)
            except orjson.JSONDecodeError:
                status = None
            found.append(Place(folder, job, status))
        return found

    def _run(self, script: str, remedy: str = "") -> str:
        """Run shell commands in the spool there; returns their output."""
        here = f"cd -- {shlex.quote(self._path)} 2>/dev/null && [ -d tmp ] && [ -d new ] || exit 44; {script}"
        end = ["--"] if os.path.basename(self._shell[0]) == "ssh" else []
        # Whatever the login shell there is, sh reads it.
        command = [*self._shell, *end, self._host.replace("[", "").replace("]", ""), f"exec sh -c {shlex.quote(here)}"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603
        if done.returncode == 44:
            raise SpoolError(
                f"{printable(self.label)}: no spool there (tmp/ and new/ are missing); make one: spoold init"
            )
        if done.returncode:
            what = "cannot be reached" if done.returncode == 255 else "does not do what it is asked to"
            words = _last_line(done.stderr) or f"exit code {done.returncode}"
            raise TransferError(f"{printable(self.label)}: {what}: {words}" + (f"; {remedy}" if remedy else ""))
        return done.stdout[:_LIMIT].decode(errors="replace")

    def _rsync(self, arguments: list[str], size: int, progress: Progress) -> None:
        try:
            process = subprocess.Popen(  # noqa: S603
                ["rsync", *arguments],  # noqa: S607
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
            )  # fmt: skip
        except FileNotFoundError:
            raise TransferError("rsync is not installed; it is needed to submit to another machine") from None
        with process:
            assert process.stdout is not None  # noqa: S101 - a pipe was asked for
            assert process.stderr is not None  # noqa: S101 - as above
            try:
                while chunk := process.stdout.read(4096):
                    if told := _PERCENT.findall(chunk):
                        progress(size * int(told[-1]) // 100, size)
                words = _last_line(process.stderr.read())
            except BaseException:
                process.terminate()
                raise
        if process.returncode:
            raise TransferError(
                f"{printable(self.label)}: the copy ended early (rsync, exit code {process.returncode}): {words};"
                " nothing is in new/; run the same command again, it goes on where it was"
            )


def _each(name: str) -> str:
    """The beginning of a shell's loop over the jobs of this name, numbered ones too."""
    if not valid_name(name):  # from here on it stands in a shell's command
        raise ValueError(f"no job's name: {name!r}")
    places = " ".join(f"{folder}/{name} {folder}/{name}.*" for folder in FOLDERS)
    return f'for j in {places}; do [ -d "$j" ] || continue;'


def _taken(name: str) -> TransferError:
    return TransferError(f"new/{name}: an upload of this name waits there already; wait, or give another --name")


def _last_line(text: bytes) -> str:
    lines = [line for line in text[-4000:].splitlines() if line.strip()]
    # rsync's last line only says where in its source the end was noticed.
    told = [line for line in lines if not line.startswith(b"rsync error:")] or lines
    return printable(told[0].strip(), 300) if told else "no reason given"
