"""A really large job is looked through in a process of its own: those who send keep the interpreter to themselves.

The agent starts the process, hands it the folder's descriptor, and gets back what it finds in frames: messages, chunks
of recipients ready for the database, and at last the findings. The process only reads; it ends with its pipe, and so
with the agent.
"""

import contextlib
import errno
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Container, Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import IO, BinaryIO, Protocol

import orjson

from spoold.core.compact import pack, unpack
from spoold.core.completeness import IntakePolicy
from spoold.core.manifest import Manifest
from spoold.core.message.wire import MessageFacts
from spoold.intake.examination import Examination, Findings
from spoold.intake.time_limit import TimeLimit
from spoold.storage.admission import rows_of
from spoold.storage.entry import Entry, Kind
from spoold.storage.files import Files
from spoold.storage.record import NewRecipient

#: The process finds its modules where this one does, whatever the working directory.
_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); import spoold.intake.worker as e; e.main()"
_HEAD = struct.Struct(">cI")
_MESSAGE, _ROWS, _FINDINGS, _FAULT = b"M", b"R", b"F", b"E"
_NICE = 5


class Store(Protocol):
    """Where the agent puts what comes back."""

    def add_message(self, path: str, facts: MessageFacts | None) -> int: ...
    def add_rows(self, count: int, rows: bytes) -> None: ...


def examine_apart(
    root: int,
    entries: Mapping[str, Entry],
    manifest: Manifest,
    policy: IntakePolicy,
    store: Store,
    time_limit: TimeLimit,
    *,
    absent: Container[str] = (),
    date: datetime,
    token: str,
) -> Findings:
    """What `Examination` finds in the taken folder `root`, `entries` being all that was uploaded, some of it `absent` there.

    Raises OSError.
    """
    order = {
        "manifest": pack(manifest).decode(),
        "policy": asdict(policy),
        "seconds": min(time_limit.left, policy.max_time),
        # They were not taken, or need not be read, and are told of.
        "others": [
            entry
            for entry in entries.values()
            if entry.kind not in (Kind.FILE, Kind.DIRECTORY) or entry.size > policy.max_message or entry.name in absent
        ],
        "date": date.isoformat(),
        "token": token,
    }
    environ = {name: value for name, value in os.environ.items() if name != "SPOOLD_FAILPOINT"}
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-P", "-c", _PROGRAM, orjson.dumps(sys.path).decode(), str(root)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=(root,), env=environ,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - they are pipes
    try:
        with process.stdin:
            process.stdin.write(orjson.dumps(order, option=orjson.OPT_PASSTHROUGH_DATACLASS, default=_plain))
        for kind, data in _frames(process.stdout):
            if kind == _MESSAGE:
                path, facts = orjson.loads(data)
                store.add_message(path, _facts(facts))
            elif kind == _ROWS:
                store.add_rows(int.from_bytes(data[:4]), data[4:])
            elif kind == _FINDINGS:
                return Findings(**orjson.loads(data))
            else:
                raise RuntimeError(data.decode())
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
    raise OSError(errno.EIO, "the process that looked through it ended early")


def _facts(plain: tuple[int, bool, bool, str] | None) -> MessageFacts | None:
    if plain is None:
        return None
    size, eight_bit, eight_bit_header, added = plain
    return MessageFacts(size, eight_bit, eight_bit_header, added.encode("latin-1"))


def _plain(value: object) -> object:
    if isinstance(value, Entry):
        return value.name, value.kind.name, value.size
    raise TypeError


def _frames(stream: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    while len(head := stream.read(_HEAD.size)) == _HEAD.size:
        kind, size = _HEAD.unpack(head)
        data = stream.read(size)
        if len(data) < size:
            return
        yield kind, data


# --- in the process -------------------------------------------------------------------------------------------------


class _Pipe:
    """The examination's sink."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._messages = 0

    def send(self, kind: bytes, data: bytes) -> None:
        self._stream.write(_HEAD.pack(kind, len(data)) + data)

    def add_message(self, path: str, facts: MessageFacts | None) -> int:
        self._messages += 1
        plain = facts and (facts.size, facts.eight_bit, facts.eight_bit_header, facts.added.decode("latin-1"))
        self.send(_MESSAGE, orjson.dumps((path, plain)))
        return self._messages

    def add_recipients(self, recipients: list[NewRecipient]) -> None:
        self.send(_ROWS, len(recipients).to_bytes(4) + rows_of(recipients))
        self._stream.flush()


def main() -> None:
    """The process: `sys.argv` names the folder's descriptor, the order comes by standard input."""
    # The agent decides when it ends, by closing the pipe; a terminal's or a service manager's signals are for the agent.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    pipe = _Pipe(sys.stdout.buffer)
    with contextlib.suppress(BrokenPipeError):
        try:
            findings = _examine(int(sys.argv[2]), orjson.loads(sys.stdin.buffer.read()), pipe)
            pipe.send(_FINDINGS, orjson.dumps(findings))
        except BrokenPipeError:
            raise
        except Exception as error:  # noqa: BLE001 - told by the agent
            pipe.send(_FAULT, repr(error).encode())
        sys.stdout.flush()
    os._exit(0)


def _examine(root: int, order: dict[str, object], pipe: _Pipe) -> Findings:
    files = Files()
    policy = IntakePolicy(**order["policy"])  # type: ignore[arg-type]
    found = files.walk(root, max_entries=policy.max_recipients + 1000, max_depth=100)
    entries = {entry.name: entry for entry in found}
    for name, kind, size in order["others"]:  # type: ignore[attr-defined]
        entries[name] = Entry(name, Kind[kind], size, 0, 0, 0, 0)
    time_limit = TimeLimit(spent=policy.max_time - float(str(order["seconds"])))
    with time_limit.within(policy.max_time):
        return Examination(
            files, root, entries, unpack(str(order["manifest"]).encode()), policy, pipe, time_limit,
            date=datetime.fromisoformat(str(order["date"])), token=str(order["token"]),
        ).run()  # fmt: skip
