"""A client of raw bytes that pipelines as far as RFC 2920 allows: one round trip a message.

What follows a body is written in the same stroke as its final dot: the next transaction's MAIL, RCPT and DATA, or
QUIT. The client shows what a server thinks of that, apart from the agent and its session.
"""

import socket
import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import BinaryIO, Self

from tests.servers.process import HOST


class Pipeline:
    """A context manager: one connection, after EHLO. With `context` it is encrypted, by STARTTLS unless `implicit`."""

    def __init__(self, port: int, *, context: ssl.SSLContext | None = None, implicit: bool = False) -> None:
        self._socket: socket.socket = socket.create_connection((HOST, port), timeout=20)
        if context is not None and implicit:
            self._socket = context.wrap_socket(self._socket, server_hostname=HOST)
        self._file: BinaryIO = self._socket.makefile("rb")
        self.reply()
        self.extensions = self._hello()
        if context is not None and not implicit:
            assert self.ask(b"STARTTLS\r\n").startswith("220")
            self._socket = context.wrap_socket(self._socket, server_hostname=HOST)
            self._file = self._socket.makefile("rb")
            self.extensions = self._hello()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._socket.close()

    def write(self, data: bytes) -> None:
        """All in one `send`, for TLS in one record if it is short enough."""
        self._socket.sendall(data)

    def ask(self, data: bytes) -> str:
        self.write(data)
        return self.reply()

    def reply(self) -> str:
        """The next reply, its lines joined by LF; "" when the server has closed."""
        lines = []
        while True:
            try:
                line = self._file.readline().decode().rstrip("\r\n")
            except ConnectionResetError:
                line = ""
            lines.append(line)
            if line[3:4] != "-":
                return "\n".join(lines)

    def codes(self, count: int) -> list[str]:
        """The codes of the next `count` replies; "" for each that does not come because the server has closed."""
        return [self.reply()[:3] for _ in range(count)]

    def _hello(self) -> list[str]:
        return [line[4:] for line in self.ask(b"EHLO probe.example\r\n").splitlines()[1:]]


def group(recipients: Sequence[str], sender: str = "news@example.com") -> bytes:
    """MAIL, every RCPT, and DATA, to be written at once."""
    return b"".join(
        line.encode() + b"\r\n" for line in (f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{to}>" for to in recipients), "DATA")
    )
