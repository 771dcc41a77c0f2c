"""One TCP or TLS connection of a scripted relay: lines and bodies in, replies out, and exact ways to break it
off.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from typing import cast

_LONGEST_LINE = 12_288  # RFC 4954 section 4: AUTH lines may be that long


class ClosedError(Exception):
    """The connection is over, by whichever side; nothing more can be read or sent."""


class Wire(asyncio.Protocol):
    """Replies collect until the client's input is used up, then go out in one write after `latency` seconds.

    So a pipelined group costs its client one latency, as a group costs one round trip on a long line.
    """

    def __init__(self) -> None:
        #: Input that nobody has read yet.
        self.pending = bytearray()
        self.latency = 0.0
        self.lost = asyncio.Event()
        self._outgoing = bytearray()
        self._arrived = asyncio.Event()
        self._ended = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.pending += data
        self._arrived.set()

    def eof_received(self) -> bool:
        self._ended = True
        self._arrived.set()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._arrived.set()
        self.lost.set()

    @property
    def transport(self) -> asyncio.Transport:
        if self._transport is None:
            raise ClosedError
        return self._transport

    def send(self, data: bytes) -> None:
        self._outgoing += data

    async def flush(self) -> None:
        """Send what was collected."""
        if not self._outgoing:
            return
        if self.latency:
            await asyncio.sleep(self.latency)
        if self.transport.is_closing():
            raise ClosedError
        self.transport.write(bytes(self._outgoing))
        self._outgoing.clear()

    async def fill(self) -> None:
        """Send what was collected, then wait for more input; ClosedError when there will be none."""
        # What arrives while the latency passes counts as well.
        self._arrived.clear()
        size = len(self.pending)
        await self.flush()
        if self._ended and len(self.pending) == size:
            raise ClosedError
        await self._arrived.wait()
        if len(self.pending) == size:
            raise ClosedError

    async def line(self) -> bytes:
        """The next line with its line end; ClosedError, too, for a line without end."""
        while (end := self.pending.find(b"\n")) < 0:
            if len(self.pending) > _LONGEST_LINE:
                raise ClosedError
            await self.fill()
        line = bytes(self.pending[: end + 1])
        del self.pending[: end + 1]
        return line

    async def body(self) -> bytes:
        """Message data up to the final dot, dots unstuffed (RFC 5321 section 4.5.2); lines end in CRLF."""
        # With the CRLF of the command before it, the first line is like all others.
        self.pending[:0] = b"\r\n"
        start = 0
        while (end := self.pending.find(b"\r\n.\r\n", start)) < 0:
            start = max(0, len(self.pending) - 4)
            await self.fill()
        data = bytes(self.pending[: end + 2])
        del self.pending[: end + 5]
        return data.replace(b"\r\n.", b"\r\n")[2:]

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Send what was collected and shake hands as the server; ssl.SSLError and OSError when the client
        will not.
        """
        await self.flush()
        loop = asyncio.get_running_loop()
        transport = await loop.start_tls(
            self.transport, self, context, server_side=True, ssl_handshake_timeout=10, ssl_shutdown_timeout=1
        )
        if transport is None:
            raise ClosedError
        self._transport = transport

    def pause(self) -> None:
        """Read nothing more: the client's sends fill up the kernel's buffers, then block."""
        self.transport.pause_reading()

    def resume(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    async def close(self, reset: bool = False) -> None:
        """Send what was collected and end the connection: in order, or with a TCP reset."""
        with contextlib.suppress(ClosedError):
            await self.flush()
        if reset:
            self.abort(reset=True)
            return
        if self.transport.can_write_eof() and not self.transport.is_closing():
            # Closed with input unread, the kernel would send a reset after all: let the client finish first.
            self.transport.write_eof()
            await self._lose(1)
        if not self.transport.is_closing():
            # A second time, asyncio's TLS transport forgets what it needs for anything that comes after it.
            self.transport.close()
        await self._lose(1)

    async def _lose(self, timeout: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.lost.wait(), timeout)

    def abort(self, reset: bool = False) -> None:
        """End the connection at once, as the kernel does for a killed process, or with a TCP reset."""
        if self._transport is None or self.lost.is_set():
            return
        if reset and not self._transport.is_closing():
            peer = self._transport.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
