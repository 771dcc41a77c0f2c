"""The truth about what a relay was told and what it took, kept outside of what any client believes."""

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message that the relay took responsibility for, whether or not the client got to know.

    `data` is exact, with CRLF, dots unstuffed, without the final dot. `mail_params` and `rcpt_params` (one
    tuple a recipient) are the words after the address, as sent. `at` is the monotonic clock, the same for all
    processes.
    """

    recipients: tuple[str, ...]
    mail_from: str
    mail_params: tuple[str, ...]
    rcpt_params: tuple[tuple[str, ...], ...]
    data: bytes
    connection: int
    at: float
    tls: bool
    user: str | None


@dataclass(frozen=True, slots=True)
class Line:
    """A line that a client sent outside of message data, without line end; invalid bytes as surrogates."""

    connection: int
    text: str
    at: float


class Ledger:
    """Filled by a relay's thread, read by the test's. With `journal`, accepted messages are also appended to
    a file.

    The journal gets one JSON line a message in one unbuffered write (`data` decoded as Latin-1), so that it
    is complete whatever happens to the process afterwards.
    """

    def __init__(self, journal: Path | None) -> None:
        self.accepted: list[Accepted] = []
        self.commands: list[Line] = []
        #: What a client did against the standards, one line of text each; tests assert that it stays empty.
        self.violations: list[str] = []
        #: Reasons of failed TLS handshakes.
        self.handshake_failures: list[str] = []
        #: TCP connections accepted so far, open now, and open at most at one time.
        self.connections = 0
        self.open = 0
        self.peak = 0
        #: Messages whose final dot has come, whatever is answered to it.
        self.bodies = 0
        self._changed = threading.Condition()
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) if journal else -1

    def connected(self) -> int:
        """Count a new connection; returns its number, from 1."""
        with self._changed:
            self.connections += 1
            self.open += 1
            self.peak = max(self.peak, self.open)
            self._changed.notify_all()
            return self.connections

    def disconnected(self) -> None:
        with self._changed:
            self.open -= 1
            self._changed.notify_all()

    def command(self, connection: int, text: str) -> None:
        with self._changed:
            self.commands.append(Line(connection, text, time.monotonic()))
            self._changed.notify_all()

    def body(self) -> None:
        with self._changed:
            self.bodies += 1
            self._changed.notify_all()

    def violation(self, connection: int, text: str) -> None:
        with self._changed:
            self.violations.append(f"connection {connection}: {text}")
            self._changed.notify_all()

    def handshake_failed(self, connection: int, error: Exception) -> None:
        with self._changed:
            self.handshake_failures.append(f"connection {connection}: {error}")
            self._changed.notify_all()

    def accept(self, message: Accepted) -> None:
        """Keep `message`; when this returns it is in the list and in the journal."""
        if self._journal >= 0:
            line = json.dumps({**asdict(message), "data": message.data.decode("latin-1")}) + "\n"
            rest = line.encode()
            while rest:
                rest = rest[os.write(self._journal, rest) :]
        with self._changed:
            self.accepted.append(message)
            self._changed.notify_all()

    def wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until `condition`, looked at after each change, holds; False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    def clear(self) -> None:
        """Forget everything but the open connections and the journal; counting goes on from zero."""
        with self._changed:
            self.accepted.clear()
            self.commands.clear()
            self.violations.clear()
            self.handshake_failures.clear()
            self.connections = 0
            self.peak = self.open
            self.bodies = 0

    def close(self) -> None:
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1


def read_journal(path: Path) -> list[Accepted]:
    """The messages in a journal; a last line without its end, of a relay killed while it wrote, was not
    accepted.
    """
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_parse(line) for line in lines]


def _parse(line: bytes) -> Accepted:
    fields = json.loads(line)
    return Accepted(
        recipients=tuple(fields["recipients"]),
        mail_from=fields["mail_from"],
        mail_params=tuple(fields["mail_params"]),
        rcpt_params=tuple(tuple(params) for params in fields["rcpt_params"]),
        data=fields["data"].encode("latin-1"),
        connection=fields["connection"],
        at=fields["at"],
        tls=fields["tls"],
        user=fields["user"],
    )


def without_added(mail: Accepted) -> bytes:
    """The bytes of a message without the fields that intake adds where they are missing."""
    lines = mail.data.split(b"\r\n")
    while lines[0].startswith((b"Date: ", b"Message-ID: ")):
        lines.pop(0)
    return b"\r\n".join(lines)
