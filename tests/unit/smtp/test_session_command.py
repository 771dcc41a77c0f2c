"""What a session says, command by command, and what it makes of the answers."""

import asyncio

import pytest

from spoold.smtp.relay import Timeouts
from spoold.smtp.session import Envelope
from tests.unit.smtp.dialogue import BODY, ONE_BY_ONE, PIPELINING, Peer, both_ways, envelope, results, session_with


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
        await peer.take()
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
        assert await peer.take() == BODY
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
