"""The session on a real socket, against a peer that the test plays line by line.

What matters most: *uncertain* is exact. A message is uncertain when, and only when, the last byte of its final dot had
left this process and no reply came.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from typing import Any, cast

import pytest

from spoold.core.outcome import FaultKind, Result
from spoold.smtp.relay import Timeouts
from spoold.smtp.session import BodyError, Envelope, Session, Transaction
from tests.servers.certificate import Authority

HOST = "127.0.0.1"
QUICK = Timeouts(connect=0.3, command=0.3, data=0.3, final=0.3)
PIPELINING = {"pipelining": "", "8bitmime": "", "smtputf8": "", "size": "100000000"}
ONE_BY_ONE = {"8bitmime": "", "smtputf8": "", "size": "100000000"}
BODY = b"Subject: x\r\n\r\nHello\r\n"
LARGE = 12_000_000
WAYS = ("close", "reset", "silence", "garbage")
both_ways = pytest.mark.parametrize("extensions", [PIPELINING, ONE_BY_ONE], ids=["pipelining", "one by one"])


class Peer:
    """The server's end of one connection, in the hands of the test. `lines` are the commands that came."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.lines: list[str] = []

    async def line(self) -> str:
        line = (await self.reader.readuntil(b"\r\n")).decode().removesuffix("\r\n")
        self.lines.append(line)
        return line

    def say(self, *replies: str) -> None:
        self.writer.write("".join(f"{reply}\r\n" for reply in replies).encode())

    async def answer(self, *replies: str) -> None:
        """One command, one reply, as often as there are replies."""
        for reply in replies:
            await self.line()
            self.say(reply)

    async def data(self) -> bytes:
        """Everything up to the final dot, as it is on the wire, without it."""
        return (await self.reader.readuntil(b"\r\n.\r\n"))[:-3]

    async def end(self) -> None:
        """Wait until the client has gone."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self.line():
                pass

    def pause(self) -> None:
        """Read no more: what the client sends stays in the sockets, and then with it."""
        cast("asyncio.Transport", self.writer.transport).pause_reading()

    def reset(self) -> None:
        self.writer.transport.abort()


Play = Callable[[Peer], Awaitable[None]]


@contextlib.asynccontextmanager
async def session_with(
    play: Play,
    extensions: dict[str, str] = PIPELINING,
    *,
    timeouts: Timeouts = QUICK,
    tls: Authority | None = None,
) -> AsyncIterator[Session]:
    """A session whose other end `play` plays; what the peer raises comes out here. Kernel buffers are small."""
    played: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await play(Peer(reader, writer))
            played.set_result(None)
        except BaseException as error:  # the test's own, it is raised below
            played.set_exception(error)
        finally:
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    listener.bind((HOST, 0))
    context = tls.valid.context() if tls else None
    server = await asyncio.start_server(serve, sock=listener, ssl=context)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, listener.getsockname())
    transport, _ = await loop.create_connection(
        asyncio.Protocol,
        sock=client,
        ssl=tls.client_context() if tls else None,
        server_hostname=HOST if tls else None,
    )
    session = Session(transport, extensions, HOST, timeouts)
    try:
        yield session
        await session.close()
        async with asyncio.timeout(5):
            await played
    finally:
        if not session._closed.done():
            transport.abort()
        await session._closed
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.01)  # the transports' own last callbacks


def envelope(*recipients: str, size: int = len(BODY), eight_bit: bool = False, smtputf8: bool = False) -> Envelope:
    return Envelope("news@example.com", recipients or ("ada@one.example",), size, eight_bit, smtputf8)


def results(transaction: Transaction) -> list[str]:
    assert transaction.bug is None
    return [outcome.result.value for outcome in transaction.outcomes]


async def pieces(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def large() -> AsyncIterator[bytes]:
    return pieces([b"x" * 62 + b"\r\n"] * (LARGE // 64))


# --- the usual --------------------------------------------------------------------------------------------------------


@both_ways
async def test_a_message_goes_out_with_its_parameters_and_bytes(extensions: dict[str, str]) -> None:
    seen: list[object] = []

    async def play(peer: Peer) -> None:
        await peer.answer("250 2.1.0 Ok", "250 2.1.5 Ok", "251 2.1.5 will forward", "354 go")
        seen.append(await peer.data())
        peer.say("250-2.0.0 thank", "250 2.0.0 you")
        await peer.answer("221 bye")
        seen.append(peer.lines)

    async with session_with(play, extensions) as session:
        done = await session.transact(
            envelope("ada@one.example", "bj\u00f6rn@one.example", eight_bit=True, smtputf8=True), BODY
        )
        assert results(done) == ["sent", "sent"]
        assert done.outcomes[0].diagnostic == "250 2.0.0 thank you"
        assert (done.fault, done.dropped, done.limit) == (None, None, None)
        assert session.usable
    assert seen == [
        BODY,
        [
            f"MAIL FROM:<news@example.com> SIZE={len(BODY)} BODY=8BITMIME SMTPUTF8",
            "RCPT TO:<ada@one.example>",
            "RCPT TO:<bj\u00f6rn@one.example>",
            "DATA",
            "QUIT",
        ],
    ]


async def test_nothing_but_the_sender_is_said_where_the_server_offers_nothing() -> None:
    async def play(peer: Peer) -> None:
        assert await peer.line() == "MAIL FROM:<>"
        peer.say("250 Ok")
        await peer.answer("250 Ok", "354 go")
        await peer.data()
        peer.say("250 Ok")
        await peer.end()

    async with session_with(play, {}) as session:
        done = await session.transact(Envelope("", ["ada@one.example"], 20, False, False), BODY)
        assert results(done) == ["sent"]


async def test_without_pipelining_no_command_leaves_before_the_answer_to_the_last_one() -> None:
    async def play(peer: Peer) -> None:
        for reply in ("250 Ok", "250 Ok", "250 Ok", "354 go"):
            await peer.line()
            await asyncio.sleep(0.02)
            assert not peer.reader._buffer  # type: ignore[attr-defined]  # nothing came before it was asked for
            peer.say(reply)
        await peer.data()
        peer.say("250 Ok")
        await peer.end()

    async with session_with(play, ONE_BY_ONE) as session:
        assert results(await session.transact(envelope("a@x.example", "b@x.example"), BODY)) == ["sent", "sent"]


@both_ways
@pytest.mark.parametrize(
    ("extensions_lost", "wanted", "status"),
    [
        ("8bitmime", envelope(eight_bit=True), "5.6.3"),
        ("smtputf8", envelope(smtputf8=True), "5.6.7"),
        ("", envelope(size=100_000_001), "5.3.4"),
    ],
)
async def test_what_the_relay_lacks_is_refused_here_and_costs_no_transaction(
    extensions: dict[str, str], extensions_lost: str, wanted: Envelope, status: str
) -> None:
    async def play(peer: Peer) -> None:
        assert await peer.line() == "QUIT"
        peer.say("221 bye")

    offered = {name: value for name, value in extensions.items() if name != extensions_lost}
    async with session_with(play, offered) as session:
        done = await session.transact(wanted, BODY)
        assert results(done) == ["failed"]
        assert done.outcomes[0].status == status
        assert done.outcomes[0].code is None
        assert session.usable


@pytest.mark.parametrize("limit", ["\u00b2", "9" * 5000, "-1", "1 2", "", "0", "00", "\udcb2"])
async def test_a_size_that_is_no_number_limits_nothing(limit: str) -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 ok", "250 ok", "354 go")
        await peer.data()
        peer.say("250 taken")
        await peer.answer("221 bye")

    async with session_with(play, {**PIPELINING, "size": limit}) as session:
        assert results(await session.transact(envelope(), BODY)) == ["sent"]


@both_ways
async def test_one_connection_carries_many_transactions_also_after_refused_ones(extensions: dict[str, str]) -> None:
    pipelining = "pipelining" in extensions

    async def play(peer: Peer) -> None:
        # MAIL refused
        await peer.answer("550 5.7.1 not you")
        if pipelining:
            await peer.answer("503 5.5.1 MAIL first", "503 5.5.1 MAIL first")
        assert await peer.line() == "RSET"
        peer.say("250 2.0.0 flushed")
        # every RCPT refused
        await peer.answer("250 Ok", "550 5.1.1 unknown")
        if pipelining:
            await peer.answer("554 5.5.1 no valid recipients")
        assert await peer.line() == "RSET"
        peer.say("250 2.0.0 flushed")
        # every RCPT refused, and the data wanted all the same (RFC 2920 section 3.1)
        await peer.answer("250 Ok", "550 5.1.1 unknown")
        if pipelining:
            await peer.answer("354 go")
            assert await peer.line() == "."
            peer.say("554 5.5.1 no valid recipients")
        assert await peer.line() == "RSET"
        peer.say("250 2.0.0 flushed")
        # DATA refused
        await peer.answer("250 Ok", "250 Ok", "451 4.3.0 later")
        assert await peer.line() == "RSET"
        peer.say("250 2.0.0 flushed")
        # and one that goes through
        await peer.answer("250 Ok", "250 Ok", "354 go")
        assert await peer.data() == BODY
        peer.say("250 2.0.0 Ok")
        await peer.end()

    async with session_with(play, extensions) as session:
        found = []
        for _ in range(5):
            found += results(await session.transact(envelope(), BODY))
            assert session.usable
        assert found == ["failed", "failed", "failed", "deferred", "sent"]


async def test_refused_recipients_are_told_apart_from_those_who_got_the_message() -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "550 5.1.1 unknown", "250 Ok", "450 4.2.0 later", "452 4.5.3 enough", "354 go")
        assert await peer.data() == BODY
        peer.say("250 2.0.0 Ok")
        await peer.end()

    async with session_with(play) as session:
        done = await session.transact(envelope("a@x.example", "b@x.example", "c@x.example", "d@x.example"), BODY)
        assert results(done) == ["failed", "sent", "deferred", "returned"]
        assert [outcome.status for outcome in done.outcomes[:3]] == ["5.1.1", "2.0.0", "4.2.0"]
        assert done.limit == 1
        assert done.fault is None
        assert session.usable


# --- what ends a session ----------------------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_connection_lost_before_the_data_is_temporary_and_never_uncertain(
    extensions: dict[str, str], step: str, way: str
) -> None:
    replies = ["250 Ok", "250 Ok", "250 Ok", "354 go"][: {"MAIL": 0, "RCPT": 2, "DATA": 3}[step]]

    async def play(peer: Peer) -> None:
        await peer.answer(*replies)
        await peer.line()
        match way:
            case "close":
                peer.writer.close()
            case "reset":
                peer.reset()
            case "garbage":
                peer.say("\x1b[31mwhat?")
                await peer.end()
            case _:
                await peer.end()

    async with session_with(play, extensions) as session:
        done = await session.transact(envelope("a@x.example", "b@x.example"), BODY)
        assert results(done) == ["deferred", "deferred"]
        assert {outcome.status for outcome in done.outcomes} == {"4.4.2"}
        assert done.dropped
        assert done.dropped.isprintable()
        assert not session.usable


@both_ways
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_connection_lost_when_half_the_body_is_out_is_not_uncertain(
    extensions: dict[str, str], how: str
) -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok", "354 go")
        await peer.reader.readexactly(100_000)
        peer.writer.close() if how == "close" else peer.reset()

    async with session_with(play, extensions) as session:
        done = await session.transact(envelope(size=LARGE), large())
        assert results(done) == ["deferred"]
        assert done.outcomes[0].status == "4.4.2"


@pytest.mark.parametrize("way", ["reset", "silence"])
async def test_all_but_the_dot_is_out_and_the_connection_is_lost_is_not_uncertain(way: str) -> None:
    # The peer reads nothing: the body fills the kernel's buffers, and its end, dot included, stays in this process.
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok")
        await peer.line()
        peer.pause()
        peer.say("354 go")
        await asyncio.sleep(0.1)
        if way == "silence":
            await asyncio.sleep(0.6)
        peer.reset()

    async with session_with(play) as session:
        done = await session.transact(envelope(), b"x" * 62 + b"\r\n" * 200_000)
        assert results(done) == ["deferred"]
        assert done.outcomes[0].status == "4.4.2"


@pytest.mark.parametrize("kept_back", [1, 2, 3])
async def test_a_dot_whose_last_bytes_are_still_here_has_not_left(kept_back: int) -> None:
    # A kernel that takes everything but the last byte, or two, or three, of `.` CR LF.
    class Narrow:
        """The client's socket, as the transport uses it; `room` bytes fit in."""

        def __init__(self, real: socket.socket, room: int) -> None:
            self._real = real
            self._room = room

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

        def send(self, data: bytes | memoryview) -> int:
            if self._room == 0:
                raise BlockingIOError
            count = self._real.send(data[: self._room])
            self._room -= count
            return count

    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok", "354 go")
        assert await peer.reader.readexactly(len(BODY) + 3 - kept_back) == (BODY + b".\r\n")[:-kept_back]
        peer.reset()

    async with session_with(play) as session:
        commands = len(f"MAIL FROM:<news@example.com> SIZE={len(BODY)}\r\nRCPT TO:<ada@one.example>\r\nDATA\r\n")
        transport = session._transport
        narrow = Narrow(transport._sock, commands + len(BODY) + 3 - kept_back)  # type: ignore[attr-defined]
        transport._sock = narrow  # type: ignore[attr-defined]
        done = await session.transact(envelope(), BODY)
        assert results(done) == ["deferred"]


@both_ways
@pytest.mark.parametrize("way", [*WAYS, "nonsense"])
async def test_a_connection_lost_after_the_dot_is_uncertain(extensions: dict[str, str], way: str) -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "550 5.1.1 unknown", "250 Ok", "354 go")
        assert await peer.data() == BODY
        match way:
            case "close":
                peer.writer.close()
            case "reset":
                peer.reset()
            case "garbage":
                peer.say("Ok, I think")
                await peer.end()
            case "nonsense":
                peer.say("354 go on")
                await peer.end()
            case _:
                await peer.end()

    async with session_with(play, extensions) as session:
        done = await session.transact(envelope("a@x.example", "b@x.example"), BODY)
        # The refused one is certain all the same.
        assert results(done) == ["failed", "uncertain"]
        assert not session.usable


@both_ways
async def test_a_large_message_lost_after_the_dot_is_uncertain(extensions: dict[str, str]) -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok", "354 go")
        end = b""
        while not end.endswith(b"\r\n.\r\n"):
            end = (end + await peer.reader.read(1 << 16))[-5:]
        peer.reset()

    async with session_with(play, extensions) as session:
        assert results(await session.transact(envelope(size=LARGE), large())) == ["uncertain"]


async def test_over_tls_too_the_outcome_is_uncertain_only_after_the_dot(ca: Authority) -> None:
    async def half(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok", "354 go")
        await peer.reader.readexactly(100_000)
        peer.reset()

    async def whole(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok", "354 go")
        await peer.data()
        peer.reset()

    async with session_with(half, tls=ca) as session:
        assert results(await session.transact(envelope(size=LARGE), large())) == ["deferred"]
    async with session_with(whole, tls=ca) as session:
        assert results(await session.transact(envelope(), BODY)) == ["uncertain"]


async def test_over_tls_a_dot_that_is_encrypted_already_counts_as_gone(ca: Authority) -> None:
    # What lies in the buffers below the encryption cannot be seen from above: on the safe side, it has left.
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok")
        await peer.line()
        peer.pause()
        peer.say("354 go")
        await asyncio.sleep(0.2)
        peer.reset()

    async with session_with(play, tls=ca) as session:
        done = await session.transact(envelope(), b"x" * 62 + b"\r\n" * 20_000)
        assert results(done) == ["uncertain"]


async def test_the_answer_to_the_dot_may_take_long_after_a_large_body_that_a_slow_peer_reads() -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok", "354 go")
        size = 0
        while size < 2_000_000 + 3:
            size += len(await peer.reader.read(1 << 15))
        peer.say("250 2.0.0 Ok")
        await peer.answer("250 Ok", "250 Ok", "354 go")
        await peer.data()
        peer.say("250 2.0.0 Ok")
        await peer.end()

    async with session_with(play, timeouts=Timeouts(1, 1, 1, 5)) as session:
        assert results(await session.transact(envelope(size=2_000_000), b"x" * 1_999_998 + b"\r\n")) == ["sent"]
        # Back-pressure is as it was.
        assert results(await session.transact(envelope(), BODY)) == ["sent"]


@pytest.mark.parametrize(
    ("reply", "result"),
    [("552 5.3.4 too big", Result.FAILED), ("451 4.3.0 later", Result.DEFERRED), ("421 4.3.2 bye", Result.RETURNED)],
)
@pytest.mark.parametrize("reads_on", [True, False])
async def test_an_answer_in_the_middle_of_the_data_counts_and_ends_the_session(
    reply: str, result: Result, reads_on: bool
) -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok", "354 go")
        await peer.reader.readexactly(50_000)
        if not reads_on:
            peer.pause()
            await asyncio.sleep(0.1)  # the client's sends fill up
        peer.say(reply)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(2):
                while reads_on and await peer.reader.read(1 << 16):
                    pass
        await asyncio.sleep(0.05)

    async with session_with(play, timeouts=Timeouts(1, 1, 1, 1)) as session:
        done = await session.transact(envelope(size=LARGE), large())
        assert [outcome.result for outcome in done.outcomes] == [result]
        assert reply in done.outcomes[0].diagnostic
        assert not session.usable


async def test_a_peer_that_stops_reading_is_left_after_the_timeout_and_nothing_is_uncertain() -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok")
        await peer.line()
        peer.pause()
        peer.say("354 go")
        await asyncio.sleep(0.8)

    async with session_with(play) as session:
        done = await session.transact(envelope(size=LARGE), large())
        assert results(done) == ["deferred"]
        assert "did not answer in time" in done.outcomes[0].diagnostic


@pytest.mark.parametrize(("at", "result"), [("MAIL", "deferred"), ("dot", "uncertain")])
async def test_a_reply_that_trickles_in_must_be_whole_within_the_timeout(at: str, result: str) -> None:
    """Its octets come in time, each by itself; the limit is one for the whole reply."""

    async def trickle(peer: Peer) -> None:
        for octet in b"250 Ok\r\n":
            peer.writer.write(bytes([octet]))
            await asyncio.sleep(0.15)

    async def play(peer: Peer) -> None:
        if at == "dot":
            await peer.answer("250 Ok", "250 Ok", "354 go")
            await peer.data()
        else:
            await peer.line()
        with contextlib.suppress(ConnectionError):
            await trickle(peer)

    async with session_with(play, ONE_BY_ONE) as session:
        done = await session.transact(envelope(), BODY)
        assert results(done) == [result]
        assert "did not answer in time" in done.outcomes[0].diagnostic
        assert not session.usable


async def test_a_body_that_cannot_be_read_to_its_end_is_never_finished_with_a_dot() -> None:
    got = bytearray()

    async def torn() -> AsyncIterator[bytes]:
        yield b"Subject: x\r\n\r\n"
        yield b"one line\r\n"
        raise BodyError("message.eml was changed after the job was taken")

    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "550 5.1.1 unknown", "250 Ok", "354 go")
        with contextlib.suppress(ConnectionError):
            while chunk := await peer.reader.read(1000):
                got.extend(chunk)

    async with session_with(play) as session:
        done = await session.transact(envelope("a@x.example", "b@x.example"), torn())
        assert results(done) == ["failed", "deferred"]
        assert done.outcomes[1].status == "4.3.0"
        assert "was changed" in done.outcomes[1].diagnostic
        assert done.dropped is None
        assert not session.usable
    assert b"\r\n.\r\n" not in got


@both_ways
async def test_421_in_the_middle_gives_everybody_back_who_had_no_answer_of_his_own(
    extensions: dict[str, str],
) -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "550 5.1.1 unknown", "250 Ok", "421 4.3.2 shutting down")
        peer.writer.close()

    async with session_with(play, extensions) as session:
        done = await session.transact(envelope("a@x.example", "b@x.example", "c@x.example", "d@x.example"), BODY)
        assert results(done) == ["failed", "returned", "returned", "returned"]
        assert done.fault is not None
        assert done.fault.kind is FaultKind.BUSY
        assert done.dropped is None
        assert not session.usable


async def test_421_after_the_dot_is_no_acceptance_and_costs_nothing() -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok", "354 go")
        await peer.data()
        peer.say("421 4.3.2 shutting down")
        peer.writer.close()

    async with session_with(play) as session:
        done = await session.transact(envelope(), BODY)
        assert results(done) == ["returned"]
        assert done.fault is not None


# --- between transactions ---------------------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("farewell", ["421 4.4.2 idle too long", None])
async def test_a_connection_that_the_relay_closes_between_transactions_is_seen_and_costs_nothing(
    extensions: dict[str, str], farewell: str | None
) -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok", "354 go")
        await peer.data()
        peer.say("250 Ok")
        await asyncio.sleep(0.05)
        if farewell:
            peer.say(farewell)
        peer.writer.close()

    async with session_with(play, extensions) as session:
        assert results(await session.transact(envelope(), BODY)) == ["sent"]
        assert session.usable
        async with asyncio.timeout(5):
            while session.usable:
                await asyncio.sleep(0.01)
        done = await session.transact(envelope(), BODY)
        assert results(done) == ["returned"]
        assert (done.fault, done.dropped) == (None, None)


async def test_a_connection_closed_while_the_next_mail_is_under_way_is_no_attempt() -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok", "354 go")
        await peer.data()
        peer.say("250 Ok")
        await peer.line()
        peer.reset()

    async with session_with(play) as session:
        assert results(await session.transact(envelope(), BODY)) == ["sent"]
        done = await session.transact(envelope("b@x.example"), BODY)
        assert results(done) == ["returned"]
        assert done.dropped is None


@both_ways
@pytest.mark.parametrize("limit", ["421 too many messages in this connection", "452 4.5.3 Too many messages sent"])
async def test_a_relay_that_takes_so_many_messages_a_session_is_not_at_fault(
    extensions: dict[str, str], limit: str
) -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok", "354 go")
        await peer.data()
        peer.say("250 Ok")
        await peer.line()
        peer.say(limit)  # and, as Exim does, no reply to the rest of the group
        peer.writer.close()

    async with session_with(play, extensions) as session:
        assert results(await session.transact(envelope(), BODY)) == ["sent"]
        done = await session.transact(envelope("b@x.example"), BODY)
        assert results(done) == ["returned"]
        assert (done.fault, done.dropped) == (None, None)
        assert not session.usable


async def test_a_reply_that_nobody_asked_for_ends_the_session_before_it_can_answer_the_wrong_command() -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok", "354 go")
        await peer.data()
        peer.say("250 Ok", "250 and once more")
        await peer.end()

    async with session_with(play) as session:
        assert results(await session.transact(envelope(), BODY)) == ["sent"]
        async with asyncio.timeout(5):
            while session.usable:
                await asyncio.sleep(0.01)
        assert results(await session.transact(envelope(), BODY)) == ["returned"]


async def test_a_server_that_does_not_reset_is_left() -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("550 5.7.1 no", "503 5.5.1 no", "503 5.5.1 no", "502 5.5.1 RSET?")
        await peer.end()

    async with session_with(play) as session:
        assert results(await session.transact(envelope(), BODY)) == ["failed"]
        assert not session.usable


async def test_closing_says_quit_and_waits_for_a_silent_peer_only_briefly() -> None:
    async def play(peer: Peer) -> None:
        assert await peer.line() == "QUIT"
        await peer.end()

    started = asyncio.get_running_loop().time()
    async with session_with(play) as session:
        await session.close()
        assert asyncio.get_running_loop().time() - started < 1.5
        assert not session.usable


@both_ways
async def test_replies_come_out_printable(extensions: dict[str, str]) -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "550 5.1.1 \x1b[2J\x07nobody\u202e here", "250 Ok", "354 go")
        await peer.data()
        peer.say("250-2.0.0 \x1b]0;owned\x07", "250 2.0.0 done")
        await peer.end()

    async with session_with(play, extensions) as session:
        done = await session.transact(envelope("a@x.example", "b@x.example"), BODY)
        assert results(done) == ["failed", "sent"]
        assert all(outcome.diagnostic.isprintable() for outcome in done.outcomes)
        assert "nobody" in done.outcomes[0].diagnostic


def test_the_default_timeouts_are_those_of_the_standard() -> None:
    # RFC 5321 section 4.5.3.2: MAIL and RCPT 5 minutes, a block of data 3, the reply to the dot 10.
    assert (Timeouts().command, Timeouts().data, Timeouts().final) == (300, 180, 600)


# --- on uvloop --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extensions", [PIPELINING, ONE_BY_ONE], ids=["pipelining", "one by one"])
@pytest.mark.parametrize(
    ("test", "arguments"),
    [
        (test_a_message_goes_out_with_its_parameters_and_bytes, ()),
        (test_one_connection_carries_many_transactions_also_after_refused_ones, ()),
        *((test_a_connection_lost_before_the_data_is_temporary_and_never_uncertain, ("DATA", way)) for way in WAYS),
        *((test_a_connection_lost_when_half_the_body_is_out_is_not_uncertain, (how,)) for how in ("close", "reset")),
        *((test_a_connection_lost_after_the_dot_is_uncertain, (way,)) for way in (*WAYS, "nonsense")),
        (test_a_large_message_lost_after_the_dot_is_uncertain, ()),
    ],
)
def test_on_uvloop_too(test: Callable[..., Any], arguments: tuple[object, ...], extensions: dict[str, str]) -> None:
    on_uvloop(test(extensions, *arguments))


@pytest.mark.parametrize(
    ("test", "arguments"),
    [
        *((test_all_but_the_dot_is_out_and_the_connection_is_lost_is_not_uncertain, (way,)) for way in ("reset", "silence")),
        (test_the_answer_to_the_dot_may_take_long_after_a_large_body_that_a_slow_peer_reads, ()),
        (test_an_answer_in_the_middle_of_the_data_counts_and_ends_the_session, ("552 5.3.4 no", Result.FAILED, True)),
        (test_an_answer_in_the_middle_of_the_data_counts_and_ends_the_session, ("552 5.3.4 no", Result.FAILED, False)),
        (test_a_peer_that_stops_reading_is_left_after_the_timeout_and_nothing_is_uncertain, ()),
        (test_a_connection_closed_while_the_next_mail_is_under_way_is_no_attempt, ()),
    ],
)  # fmt: skip
def test_on_uvloop_too_where_there_is_but_one_way(test: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    on_uvloop(test(*arguments))


def test_on_uvloop_too_over_tls(ca: Authority) -> None:
    on_uvloop(test_over_tls_too_the_outcome_is_uncertain_only_after_the_dot(ca))


def on_uvloop(test: Coroutine[Any, Any, None]) -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test)


# --- the next in line -------------------------------------------------------------------------------------------------


class Sends:
    """Transactions begun one behind the other, and what came of each, in the order in which they ended."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.ended: list[tuple[str, Transaction]] = []
        self.allowed = True
        self._done = asyncio.Event()

    def begin(self, *recipients: str, body: bytes | AsyncIterator[bytes] = BODY, size: int = len(BODY)) -> None:
        def done(transaction: Transaction) -> None:
            self.ended.append((recipients[0], transaction))
            self._done.set()

        self.session.begin(envelope(*recipients, size=size), body, done, lambda: self.allowed)

    async def all(self, count: int) -> list[tuple[str, list[str]]]:
        async with asyncio.timeout(5):
            while len(self.ended) < count:
                self._done.clear()
                await self._done.wait()
        return [(name, results(transaction)) for name, transaction in self.ended]


GROUP = [f"MAIL FROM:<news@example.com> SIZE={len(BODY)}", "RCPT TO:<b@x.example>", "DATA"]


async def test_the_next_group_leaves_behind_the_dot_before_its_answer() -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok", "354 go")
        assert await peer.data() == BODY
        assert [await peer.line() for _ in GROUP] == GROUP, "all this came before the dot was answered"
        peer.say("250 2.0.0 first", "250 Ok", "250 Ok", "354 go")
        assert await peer.data() == BODY
        peer.say("250 2.0.0 second")
        await peer.end()

    async with session_with(play) as session:
        sends = Sends(session)
        sends.begin("a@x.example")
        sends.begin("b@x.example")
        assert await sends.all(2) == [("a@x.example", ["sent"]), ("b@x.example", ["sent"])]
        assert [done.outcomes[0].diagnostic.split()[2] for _, done in sends.ended] == ["first", "second"]


async def test_a_group_begun_after_the_dot_leaves_at_once() -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok", "354 go")
        assert await peer.data() == BODY
        dotted.set()
        assert [await peer.line() for _ in GROUP] == GROUP
        peer.say("250 2.0.0 first", "250 Ok", "250 Ok", "354 go")
        await peer.data()
        peer.say("250 2.0.0 second")
        await peer.end()

    dotted = asyncio.Event()
    async with session_with(play) as session:
        sends = Sends(session)
        sends.begin("a@x.example")
        await dotted.wait()
        sends.begin("b@x.example")
        assert await sends.all(2) == [("a@x.example", ["sent"]), ("b@x.example", ["sent"])]


async def test_one_by_one_nothing_leaves_before_the_dot_was_answered() -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok", "354 go")
        await peer.data()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await peer.line()
        peer.say("250 2.0.0 first")
        await peer.answer("250 Ok", "250 Ok", "354 go")
        await peer.data()
        peer.say("250 2.0.0 second")
        await peer.end()

    async with session_with(play, ONE_BY_ONE) as session:
        sends = Sends(session)
        sends.begin("a@x.example")
        sends.begin("b@x.example")
        assert await sends.all(2) == [("a@x.example", ["sent"]), ("b@x.example", ["sent"])]


@pytest.mark.parametrize("way", WAYS)
async def test_a_connection_lost_after_the_dot_leaves_the_next_in_line_untried(way: str) -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok", "354 go")
        await peer.data()
        for _ in GROUP:
            await peer.line()
        match way:
            case "reset":
                peer.reset()
            case "silence":
                await peer.end()
            case "garbage":
                peer.say("what?")

    async with session_with(play) as session:
        sends = Sends(session)
        sends.begin("a@x.example")
        sends.begin("b@x.example")
        assert await sends.all(2) == [("a@x.example", ["uncertain"]), ("b@x.example", ["returned"])]
        assert sends.ended[1][1].dropped is None, "the relay is not to blame twice"


async def test_a_relay_that_ends_the_session_with_its_answer_leaves_the_next_in_line_untried() -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok", "354 go")
        await peer.data()
        for _ in GROUP:
            await peer.line()
        peer.say("421 4.7.0 enough")
        await peer.end()

    async with session_with(play) as session:
        sends = Sends(session)
        sends.begin("a@x.example")
        sends.begin("b@x.example")
        assert await sends.all(2) == [("a@x.example", ["returned"]), ("b@x.example", ["returned"])]
        assert not session.usable


async def test_a_message_refused_after_its_dot_does_not_touch_the_next_in_line() -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok", "354 go")
        await peer.data()
        for _ in GROUP:
            await peer.line()
        peer.say("554 5.7.1 spam", "250 Ok", "250 Ok", "354 go")
        await peer.data()
        peer.say("250 2.0.0 second")
        await peer.end()

    async with session_with(play) as session:
        sends = Sends(session)
        sends.begin("a@x.example")
        sends.begin("b@x.example")
        assert await sends.all(2) == [("a@x.example", ["failed"]), ("b@x.example", ["sent"])]


async def test_the_next_group_leaves_behind_the_reset_of_one_whose_recipients_were_all_refused() -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "550 5.1.1 no", "554 5.5.1 no valid recipients")
        assert [await peer.line() for _ in range(4)] == ["RSET", *GROUP]
        peer.say("250 Ok", "250 Ok", "250 Ok", "354 go")
        await peer.data()
        peer.say("250 2.0.0 second")
        await peer.end()

    async with session_with(play) as session:
        sends = Sends(session)
        sends.begin("a@x.example")
        sends.begin("b@x.example")
        assert await sends.all(2) == [("a@x.example", ["failed"]), ("b@x.example", ["sent"])]


async def test_what_is_withdrawn_while_it_is_next_in_line_never_sends_its_body() -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok", "354 go")
        await peer.data()
        for _ in GROUP:
            await peer.line()
        sends.allowed = False
        peer.say("250 2.0.0 first", "250 Ok", "250 Ok", "354 go")
        rest = await peer.reader.read()
        assert rest == b""

    async with session_with(play) as session:
        sends = Sends(session)
        sends.begin("a@x.example")
        sends.begin("b@x.example")
        assert await sends.all(2) == [("a@x.example", ["sent"]), ("b@x.example", ["returned"])]
        assert not session.usable


async def test_a_streamed_body_is_followed_by_the_next_group_too() -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok", "354 go")
        assert (await peer.reader.readexactly(LARGE // 64 * 64 + 3)).endswith(b"\r\n.\r\n")
        assert [await peer.line() for _ in GROUP] == GROUP
        peer.say("250 2.0.0 first", "250 Ok", "250 Ok", "354 go")
        await peer.data()
        peer.say("250 2.0.0 second")
        await peer.end()

    async with session_with(play, timeouts=Timeouts(command=5, data=5, final=5)) as session:
        sends = Sends(session)
        sends.begin("a@x.example", body=large(), size=LARGE)
        sends.begin("b@x.example")
        assert await sends.all(2) == [("a@x.example", ["sent"]), ("b@x.example", ["sent"])]


@pytest.mark.parametrize("kept_back", [1, 4, 30])
async def test_a_group_that_is_still_here_behind_the_dot_does_not_hide_whether_the_dot_has_left(kept_back: int) -> None:
    # The kernel takes all but the last bytes of what was written: with a next group behind it the dot has left.
    body = b"x" * 62 + b"\r\n" * 200_000

    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok", "354 go")
        peer.pause()
        await asyncio.sleep(0.05)
        transport = session._transport
        whole = transport.get_write_buffer_size()
        assert whole > 100
        peer.reset()

    async with session_with(play) as session:
        sends = Sends(session)
        sends.begin("a@x.example", body=body, size=len(body))
        sends.begin("b@x.example")
        assert await sends.all(2) == [("a@x.example", ["deferred"]), ("b@x.example", ["returned"])]
