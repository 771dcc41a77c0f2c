"""A connection that is lost: *uncertain* is exact.

A message is uncertain when, and only when, the last byte of its final dot had left this process and no reply came.
"""

import asyncio
import socket

import pytest

from tests.servers.certificate import Authority
from tests.unit.smtp.dialogue import BODY, LARGE, WAYS, Peer, both_ways, envelope, large, results, session_with


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
        await peer.leave(way, "\x1b[31mwhat?")

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
        await peer.leave(how)

    async with session_with(play, extensions) as session:
        done = await session.transact(envelope(size=LARGE), large())
        assert results(done) == ["deferred"]
        assert done.outcomes[0].status == "4.4.2"


@pytest.mark.parametrize("way", ["reset", "silence"])
async def test_all_but_the_dot_is_out_and_the_connection_is_lost_is_not_uncertain(way: str) -> None:
    # The peer reads nothing: the body fills the kernel's buffers, and its end, dot included, stays in this process.
    async def play(peer: Peer) -> None:
        await peer.stop_at_data()
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
        await peer.leave(way, "354 go on" if way == "nonsense" else "Ok, I think")

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
        await peer.message()
        peer.reset()

    async with session_with(half, tls=ca) as session:
        assert results(await session.transact(envelope(size=LARGE), large())) == ["deferred"]
    async with session_with(whole, tls=ca) as session:
        assert results(await session.transact(envelope(), BODY)) == ["uncertain"]


async def test_over_tls_a_dot_that_is_encrypted_already_counts_as_gone(ca: Authority) -> None:
    # What lies in the buffers below the encryption cannot be seen from above: on the safe side, it has left.
    async def play(peer: Peer) -> None:
        await peer.stop_at_data()
        await asyncio.sleep(0.2)
        peer.reset()

    async with session_with(play, tls=ca) as session:
        done = await session.transact(envelope(), b"x" * 62 + b"\r\n" * 20_000)
        assert results(done) == ["uncertain"]
