"""The next in line: what leaves behind a dot before its answer, and what becomes of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from spoold.smtp.relay import Timeouts
from spoold.smtp.session import Session, Transaction
from tests.unit.smtp.dialogue import (
    BODY,
    LARGE,
    ONE_BY_ONE,
    PIPELINING,
    QUICK,
    WAYS,
    Peer,
    Play,
    envelope,
    large,
    results,
    session_with,
)

#: What the second in line says before its body.
GROUP = [f"MAIL FROM:<news@example.com> SIZE={len(BODY)}", "RCPT TO:<b@x.example>", "DATA"]


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


@contextlib.asynccontextmanager
async def two_in_line(
    play: Play,
    extensions: dict[str, str] = PIPELINING,
    *,
    timeouts: Timeouts = QUICK,
    body: bytes | AsyncIterator[bytes] = BODY,
    size: int = len(BODY),
) -> AsyncIterator[Sends]:
    """A session in which a message to a@x.example has begun, and right behind it one to b@x.example."""
    async with session_with(play, extensions, timeouts=timeouts) as session:
        sends = Sends(session)
        sends.begin("a@x.example", body=body, size=size)
        sends.begin("b@x.example")
        yield sends


async def first_and_next(peer: Peer) -> None:
    """The first message with its dot, and behind it, while that waits for its answer, the next in line."""
    assert await peer.message() == BODY
    assert [await peer.line() for _ in GROUP] == GROUP, "all this came before the dot was answered"


async def answer_both(peer: Peer, first: str = "250 2.0.0 first") -> None:
    """The answer to the first dot and to the group behind it; then the second message is taken."""
    peer.say(first, "250 Ok", "250 Ok", "354 go")
    assert await peer.data() == BODY
    peer.say("250 2.0.0 second")
    await peer.end()


async def test_the_next_group_leaves_behind_the_dot_before_its_answer() -> None:
    async def play(peer: Peer) -> None:
        await first_and_next(peer)
        await answer_both(peer)

    async with two_in_line(play) as sends:
        assert await sends.all(2) == [("a@x.example", ["sent"]), ("b@x.example", ["sent"])]
        assert [done.outcomes[0].diagnostic.split()[2] for _, done in sends.ended] == ["first", "second"]


async def test_a_group_begun_after_the_dot_leaves_at_once() -> None:
    async def play(peer: Peer) -> None:
        assert await peer.message() == BODY
        dotted.set()
        assert [await peer.line() for _ in GROUP] == GROUP
        await answer_both(peer)

    dotted = asyncio.Event()
    async with session_with(play) as session:
        sends = Sends(session)
        sends.begin("a@x.example")
        await dotted.wait()
        sends.begin("b@x.example")
        assert await sends.all(2) == [("a@x.example", ["sent"]), ("b@x.example", ["sent"])]


async def test_one_by_one_nothing_leaves_before_the_dot_was_answered() -> None:
    async def play(peer: Peer) -> None:
        await peer.message()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await peer.line()
        peer.say("250 2.0.0 first")
        await peer.take("250 2.0.0 second")
        await peer.end()

    async with two_in_line(play, ONE_BY_ONE) as sends:
        assert await sends.all(2) == [("a@x.example", ["sent"]), ("b@x.example", ["sent"])]


@pytest.mark.parametrize("way", WAYS)
async def test_a_connection_lost_after_the_dot_leaves_the_next_in_line_untried(way: str) -> None:
    async def play(peer: Peer) -> None:
        await first_and_next(peer)
        await peer.leave(way, "what?")

    async with two_in_line(play) as sends:
        assert await sends.all(2) == [("a@x.example", ["uncertain"]), ("b@x.example", ["returned"])]
        assert sends.ended[1][1].dropped is None, "the relay is not to blame twice"


async def test_a_relay_that_ends_the_session_with_its_answer_leaves_the_next_in_line_untried() -> None:
    async def play(peer: Peer) -> None:
        await first_and_next(peer)
        peer.say("421 4.7.0 enough")
        await peer.end()

    async with two_in_line(play) as sends:
        assert await sends.all(2) == [("a@x.example", ["returned"]), ("b@x.example", ["returned"])]
        assert not sends.session.usable


async def test_a_message_refused_after_its_dot_does_not_touch_the_next_in_line() -> None:
    async def play(peer: Peer) -> None:
        await first_and_next(peer)
        await answer_both(peer, "554 5.7.1 spam")

    async with two_in_line(play) as sends:
        assert await sends.all(2) == [("a@x.example", ["failed"]), ("b@x.example", ["sent"])]


async def test_the_next_group_leaves_behind_the_reset_of_one_whose_recipients_were_all_refused() -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "550 5.1.1 no", "554 5.5.1 no valid recipients")
        assert [await peer.line() for _ in range(4)] == ["RSET", *GROUP]
        await answer_both(peer, "250 Ok")

    async with two_in_line(play) as sends:
        assert await sends.all(2) == [("a@x.example", ["failed"]), ("b@x.example", ["sent"])]


async def test_what_is_withdrawn_while_it_is_next_in_line_never_sends_its_body() -> None:
    async def play(peer: Peer) -> None:
        await first_and_next(peer)
        sends.allowed = False
        peer.say("250 2.0.0 first", "250 Ok", "250 Ok", "354 go")
        rest = await peer.reader.read()
        assert rest == b""

    async with two_in_line(play) as sends:
        assert await sends.all(2) == [("a@x.example", ["sent"]), ("b@x.example", ["returned"])]
        assert not sends.session.usable


async def test_a_streamed_body_is_followed_by_the_next_group_too() -> None:
    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok", "354 go")
        assert (await peer.reader.readexactly(LARGE // 64 * 64 + 3)).endswith(b"\r\n.\r\n")
        assert [await peer.line() for _ in GROUP] == GROUP
        await answer_both(peer)

    timeouts = Timeouts(command=5, data=5, final=5)
    async with two_in_line(play, timeouts=timeouts, body=large(), size=LARGE) as sends:
        assert await sends.all(2) == [("a@x.example", ["sent"]), ("b@x.example", ["sent"])]


@pytest.mark.parametrize("kept_back", [1, 4, 30])
async def test_a_group_that_is_still_here_behind_the_dot_does_not_hide_whether_the_dot_has_left(kept_back: int) -> None:
    # The kernel takes all but the last bytes of what was written: with a next group behind it the dot has left.
    body = b"x" * 62 + b"\r\n" * 200_000

    async def play(peer: Peer) -> None:
        await peer.answer("250 Ok", "250 Ok", "354 go")
        peer.pause()
        await asyncio.sleep(0.05)
        transport = sends.session._transport
        whole = transport.get_write_buffer_size()
        assert whole > 100
        peer.reset()

    async with two_in_line(play, body=body, size=len(body)) as sends:
        assert await sends.all(2) == [("a@x.example", ["deferred"]), ("b@x.example", ["returned"])]
