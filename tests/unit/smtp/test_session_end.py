"""What ends a session without anybody's fault: 421, a relay that closes, replies that come late or unasked, QUIT."""

import asyncio
import contextlib

import pytest

from spoold.core.fault import FaultKind
from tests.unit.smtp.dialogue import BODY, ONE_BY_ONE, Peer, both_ways, envelope, gone, results, session_with


@pytest.mark.parametrize(("at", "result"), [("MAIL", "deferred"), ("dot", "uncertain")])
async def test_a_reply_that_trickles_in_must_be_whole_within_the_timeout(at: str, result: str) -> None:
    """Its octets come in time, each by itself; the limit is one for the whole reply."""

    async def trickle(peer: Peer) -> None:
        for octet in b"250 Ok\r\n":
            peer.writer.write(bytes([octet]))
            await asyncio.sleep(0.15)

    async def play(peer: Peer) -> None:
        if at == "dot":
            await peer.message()
        else:
            await peer.line()
        with contextlib.suppress(ConnectionError):
            await trickle(peer)

    async with session_with(play, ONE_BY_ONE) as session:
        done = await session.transact(envelope(), BODY)
        assert results(done) == [result]
        assert "did not answer in time" in done.outcomes[0].diagnostic
        assert not session.usable


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
        await peer.take("421 4.3.2 shutting down")
        peer.writer.close()

    async with session_with(play) as session:
        done = await session.transact(envelope(), BODY)
        assert results(done) == ["returned"]
        assert done.fault is not None


@both_ways
@pytest.mark.parametrize("farewell", ["421 4.4.2 idle too long", None])
async def test_a_connection_that_the_relay_closes_between_transactions_is_seen_and_costs_nothing(
    extensions: dict[str, str], farewell: str | None
) -> None:
    async def play(peer: Peer) -> None:
        await peer.take("250 Ok")
        await asyncio.sleep(0.05)
        if farewell:
            peer.say(farewell)
        peer.writer.close()

    async with session_with(play, extensions) as session:
        assert results(await session.transact(envelope(), BODY)) == ["sent"]
        assert session.usable
        await gone(session)
        done = await session.transact(envelope(), BODY)
        assert results(done) == ["returned"]
        assert (done.fault, done.dropped) == (None, None)


async def test_a_connection_closed_while_the_next_mail_is_under_way_is_no_attempt() -> None:
    async def play(peer: Peer) -> None:
        await peer.take("250 Ok")
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
        await peer.take("250 Ok")
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
        await peer.message()
        peer.say("250 Ok", "250 and once more")
        await peer.end()

    async with session_with(play) as session:
        assert results(await session.transact(envelope(), BODY)) == ["sent"]
        await gone(session)
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
