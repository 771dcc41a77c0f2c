"""A planned job as files, and its way into new/: slowly, in any order, whatever the agent is doing meanwhile."""

import contextlib
import json
import shutil
import subprocess
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from tests.servers.agent import MESSAGE
from tests.servers.upload import seal_of, write
from tests.soak.plan import Job, Kind, Way, Window

DOMAINS = ("one.example", "two.example", "three.example", "four.example")
#: Seconds without a change after which the agent takes an upload that says nothing; a cut is longer than that.
SETTLE = 2.0
CUT = SETTLE + 0.7


@dataclass(frozen=True, slots=True)
class Content:
    """A job's files by name. `good` are the addresses that it sends to, `bad` those that fail at intake."""

    files: Mapping[str, bytes]
    good: tuple[str, ...]
    bad: tuple[str, ...] = ()

    def body(self, number: int) -> bytes:
        """What the relay gets for the n-th good address, from 0, behind the header."""
        file = self.files.get(f"messages/{number}.eml") or self.files["message.eml"]
        return file.replace(b"\n", b"\r\n").partition(b"\r\n\r\n")[2]


def content(job: Job, now: datetime) -> Content:
    """What the upload consists of; `now` is where its window and its `send_after` count from."""
    chance = Random(f"{job.salt}/content")
    good = tuple(f"j{job.number}-r{n}@{chance.choice(DOMAINS)}" for n in range(job.recipients))
    bad: tuple[str, ...] = ()
    manifest: dict[str, Any] = {"sender": "news@example.com", **job.manifest, **_timing(job, now)}
    files: dict[str, bytes] = {}
    personal = job.kind in (Kind.PERSONAL, Kind.INVOICE)
    if personal:
        files |= {f"messages/{n}.eml": _message(job, f"for {to}") for n, to in enumerate(good)}
        lines = [f"{to},messages/{n}.eml" for n, to in enumerate(good)]
    else:
        files["message.eml"] = _message(job, "for everybody")
        lines = [f"{to}," for to in good]
    manifest["expect"] = {"recipients": len(good), "messages": len(files)}
    if job.kind is Kind.PARTLY_BAD:
        bad = tuple(f"j{job.number}-b{n}@{'x' * 70}.example" for n in range(3))
        lines = [*lines[:2], *(f"{to}," for to in bad), *lines[2:], lines[0]]
        del manifest["expect"]
    if job.kind is Kind.BAD:
        del manifest["expect"]
        if chance.random() < 0.5:
            manifest["sendr"] = "twice"
        else:
            files["message.eml"] += b"a NUL \0 in it\n"
    files["recipients.csv"] = "\n".join(["address,message", *lines, ""]).encode()
    files["job.yaml"] = json.dumps(manifest, indent=1).encode() + b"\n"
    return Content(files, good, bad)


def _message(job: Job, line: str) -> bytes:
    return MESSAGE + f"{job.number}: {line}\n".encode() + b".\n" * (job.number % 3) + b"x" * 70 + b"\n"


def _timing(job: Job, now: datetime) -> dict[str, Any]:
    timing: dict[str, Any] = {"timezone": "UTC"}
    minute = timedelta(minutes=1)
    if job.send_after is not None:
        timing["send_after"] = (now + timedelta(seconds=job.send_after)).isoformat()
    match job.window:
        case Window.OPEN:
            timing["windows"] = [_window(now - minute, now + 60 * minute)]
        case Window.CLOSES:
            timing["windows"] = [_window(now, now + minute), _window(now + 2 * minute, now + 30 * minute)]
        case Window.OPENS:
            timing["windows"] = [_window(now + minute, now + 30 * minute)]
    return timing


def _window(start: datetime, end: datetime) -> str:
    return f"{start:%H:%M}-{end:%H:%M}"


class Uploader:
    """Puts jobs below `spool`. Each upload is for a thread of its own; `stopped` cuts the pauses in it short."""

    def __init__(self, spool: Path, stopped: threading.Event) -> None:
        self._spool = spool
        self._stopped = stopped
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def upload(self, job: Job, name: str, files: Mapping[str, bytes]) -> None:
        """Return when the upload is as complete as it will ever be."""
        # Two uploads into one folder at once, or into one that was not taken yet, would be one job of both.
        with self._locks[name]:
            while (self._spool / "new" / name).exists() and not self._stopped.is_set():
                self._stopped.wait(0.1)
            self._upload(job, name, files)

    def _upload(self, job: Job, name: str, files: Mapping[str, bytes]) -> None:
        chance = Random(f"{job.salt}/{name}")
        staged = self._spool / "tmp" / name
        target = self._spool / "new" / name
        if job.way is Way.RENAMED:
            write(staged, files)
            staged.rename(target)
            return
        pieces = list(files.items())
        chance.shuffle(pieces)
        pauses = [chance.uniform(0, 0.15) if chance.random() < 0.1 else 0.0 for _ in range(len(pieces) + 1)]
        match job.way:
            case Way.SEALED:
                pieces.insert(chance.randint(0, len(pieces)), ("SHA256SUMS", seal_of(files)))
                self._pieces(target, pieces, pauses)
            case Way.READY:
                self._pieces(target, pieces, pauses)
                with contextlib.suppress(FileNotFoundError):  # quiet for long enough: it was taken already
                    (target / "READY").touch()
            case Way.COPIED:
                self._pieces(target, pieces, pauses)
            case Way.CUT:
                half = max(1, len(pieces) // 2)
                self._pieces(target, pieces[:half], pauses)
                self._stopped.wait(CUT)
                self._pieces(target, pieces[half:], pauses)
            case Way.RSYNC:
                write(staged, files)
                subprocess.run(["rsync", "-a", f"{staged}/", f"{target}/"], check=True, capture_output=True, timeout=60)
                shutil.rmtree(staged)

    def _pieces(self, target: Path, pieces: list[tuple[str, bytes]], pauses: list[float]) -> None:
        for (name, data), pause in zip(pieces, pauses, strict=False):
            write(target, {name: data})
            if pause:
                self._stopped.wait(pause)
