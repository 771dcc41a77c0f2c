"""A session leaves its transport alone once that has lost its connection, and closes it once at the most.

Not every Python's TLS transport survives more: some raise AttributeError, in a callback or in whoever called. The transport
here raises of whatever kind the loop is.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
import uvloop

from spoold.core.outcome import Result
from spoold.smtp.relay import Timeouts
from spoold.smtp.session import Envelope, Session
from tests.servers.certificate import Authority
from tests.servers.relay import Drop, DropAfterAccept, Garbage, Hang, Relay, Reply, RstMidBody, Rule

BODY = b"Subject: x\r\n\r\nHello\r\n"
QUICK = Timeouts(connect=2.0, command=0.5, data=0.5, final=0.5)


class Strict:
    """A transport that raises AssertionError when it is used after its end, or closed twice; `faults` remembers that."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._lost = False
        self._closed = False
        self.faults: list[str] = []

    def set_protocol(self, protocol: Any) -> None:
        told = protocol.connection_lost

        def lost(error: Exception | None) -> None:
            self._lost = True
            told(error)

        protocol.connection_lost = lost
        self._transport.set_protocol(protocol)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str) -> object:
        return self._transport.get_extra_info(name)

    def close(self) -> None:
        if self._closed or self._transport.is_closing():
            self._fault("close, which it was already")
        self._closed = True
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        if self._lost:
            self._fault(f"{name}, once it was lost")
        return getattr(self._transport, name)

    def _fault(self, what: str) -> None:
        self.faults.append(what)
        raise AssertionError(what)


class Greeting(asyncio.Protocol):
    """What whoever opened the connection says and hears first; `done` once EHLO was answered."""

    def __init__(self) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self._heard = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(b"EHLO client.example\r\n")

    def data_received(self, data: bytes) -> None:
        self._heard += data
        if b"\r\n250 " in self._heard and not self.done.done():
            self.done.set_result(None)


@contextlib.asynccontextmanager
async def opened(relay: Relay, tls: Authority | None) -> AsyncIterator[tuple[Session, Strict]]:
    transport, greeting = await asyncio.get_running_loop().create_connection(
        Greeting,
        relay.host,
        relay.port,
        ssl=tls.client_context() if tls else None,
        server_hostname=relay.host if tls else None,
    )
    await asyncio.wait_for(greeting.done, 5)
    strict = Strict(transport)
    session = Session(cast("asyncio.Transport", strict), {"pipelining": ""}, relay.host, QUICK)
    yield session, strict
    if not transport.is_closing():
        transport.abort()
    await asyncio.sleep(0.05)  # the transports' own last callbacks


ENDS: dict[str, list[Rule]] = {
    "in order": [],
    "QUIT answered by a drop": [Rule("QUIT", Drop())],
    "QUIT answered by nothing": [Rule("QUIT", Hang())],
    "dropped at MAIL": [Rule("MAIL", Drop())],
    "reset at RCPT": [Rule("RCPT", Drop(reset=True))],
    "reset in the body": [Rule("BODY", RstMidBody())],
    "dropped after the dot": [Rule("DOT", DropAfterAccept())],
    "silent after the dot": [Rule("DOT", Hang())],
    "garbage": [Rule("RCPT", Garbage(b"\x00\xff nonsense\r\n"))],
    "421": [Rule("MAIL", Reply("421 4.3.2 bye"))],
}


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("end", ENDS)
def test_transport_is_not_touched_after_its_end(ca: Authority, end: str, loop: str, secured: bool) -> None:
    factory: Callable[[], asyncio.AbstractEventLoop] = (
        uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    )
    errors: list[dict[str, Any]] = []

    async def play() -> list[str]:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        async with opened(relay, ca if secured else None) as (session, strict):
            envelope = Envelope("a@one.example", ["b@one.example"], len(BODY), False, False)
            (outcome,) = (await asyncio.wait_for(session.transact(envelope, BODY), 5)).outcomes
            assert (outcome.result is Result.SENT) == (end == "in order" or end.startswith("QUIT")), outcome
            await session.close()
            await session.close()  # whoever is not sure says it again
            return strict.faults

    relay = Relay(tls=ca.valid.context() if secured else None, implicit_tls=secured, rules=list(ENDS[end]))
    with relay, asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(play()) == []
    assert errors == []
