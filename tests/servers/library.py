"""aiosmtpd, the mail server of the Python library, in a thread of the tests' process: it keeps everything in memory.

As installed it offers neither PIPELINING nor enhanced status codes. It refuses the local parts that begin with `gone`
(550 5.1.1) and puts off those that begin with `full` (452 4.2.2).
"""

import errno
from collections.abc import Callable
from types import TracebackType
from typing import Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope
from aiosmtpd.smtp import Session as Connection

from tests.servers.certificate import Certificate
from tests.servers.mailbox import Delivered
from tests.servers.process import HOST, free_port


class Library:
    """A context manager. `certificate` opens STARTTLS, and a second, implicit-TLS port `smtps_port`."""

    def __init__(self, *, certificate: Certificate | None = None) -> None:
        self.host = HOST
        self.port = 0
        #: The implicit-TLS port; 0 without a certificate.
        self.smtps_port = 0
        self._certificate = certificate
        self._running: list[Controller] = []
        self._handler = _Handler()

    def __enter__(self) -> Self:
        given = self._certificate
        context = given.context() if given else None
        self.port = self._run(lambda port: Controller(self._handler, HOST, port, tls_context=context))
        if given:
            inner = given.context()
            self.smtps_port = self._run(lambda port: Controller(self._handler, HOST, port, ssl_context=inner))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for controller in self._running:
            controller.stop()

    def settle(self, timeout: float = 20) -> list[Delivered]:
        """Everything accepted, one entry a recipient: there is no queue to wait for."""
        return list(self._handler.kept)

    def log(self) -> str:
        """What went wrong since the start or `reset`."""
        return "\n".join(self._handler.errors)

    def reset(self) -> None:
        """Back to the state after the start."""
        self._handler.kept.clear()
        self._handler.errors.clear()

    def _run(self, make: Callable[[int], Controller]) -> int:
        """Start one more listener; returns its port."""
        for _ in range(5):
            port = free_port()
            controller = make(port)
            try:
                controller.start()
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            self._running.append(controller)
            return port
        raise RuntimeError("aiosmtpd found no free port")


class _Handler:
    def __init__(self) -> None:
        self.kept: list[Delivered] = []
        self.errors: list[str] = []

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Connection, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("gone"):
            return "550 5.1.1 no such user"
        if address.startswith("full"):
            return "452 4.2.2 mailbox full"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Connection, envelope: Envelope
    ) -> str:
        content = envelope.content
        assert isinstance(content, bytes)
        encrypted = server.transport is not None and server.transport.get_extra_info("ssl_object") is not None
        added = b"with ESMTPS" if encrypted else b"with ESMTP"
        for recipient in envelope.rcpt_tos:
            data = content.replace(b"\r\n", b"\n")
            self.kept.append(Delivered(recipient, envelope.mail_from or "", data, added))
        return "250 OK"

    async def handle_exception(self, error: Exception) -> str:
        self.errors.append(f"{type(error).__name__}: {error}")
        return "451 4.3.0 internal error"
