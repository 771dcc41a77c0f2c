"""A body on its way: peers that read slowly, or no more, or answer before its end; one that cannot be read to its end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from spoold.core.outcome import Result
from spoold.smtp.relay import Timeouts
from spoold.smtp.session import BodyError
from tests.unit.smtp.dialogue import BODY, LARGE, Peer, envelope, large, results, session_with


async def test_the_answer_to_the_dot_may_take_long_after_a_large_body_that_a_slow_peer_reads() -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok", "354 go")
        size = 0
        while size < 2_000_000 + 3:
            size += len(await peer.reader.read(1 << 15))
        peer.say("250 2.0.0 Ok")
        await peer.take()
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
        await peer.stop_at_data()
        await asyncio.sleep(0.8)

    async with session_with(play) as session:
        done = await session.transact(envelope(size=LARGE), large())
        assert results(done) == ["deferred"]
        assert "did not answer in time" in done.outcomes[0].diagnostic


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
