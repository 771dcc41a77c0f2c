"""Dots that begin a line are doubled, the first line's too, however a message is cut (RFC 5321 §4.5.2)."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spoold.core.message.wire import stuff, wire

FIELDS = b"Date: x\nMessage-ID: <1@x.example>\n"


def received(data: bytes) -> bytes:
    """What a server makes of it: the first dot of a line goes; nothing may look like the end."""
    lines = data.split(b"\r\n")
    assert b"." not in lines
    return b"\r\n".join(line.removeprefix(b".") for line in lines)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["in one step", "in pieces"])
@pytest.mark.parametrize("first", [b".X: y\n", b"..X: y\n", b".: y\n"])
def test_first_line_of_a_whole_message_is_like_any_other(first: bytes, line_end: bytes) -> None:
    content = (first + FIELDS + b"\n.\nbody\n..\n").replace(b"\n", line_end)
    sent = wire(content, b"")
    assert sent.startswith(b"." + first[:1])
    assert received(sent) == content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


@given(st.lists(st.sampled_from([b".", b"a", b"\r\n", b"..", b"\r\n."]), max_size=12), st.data())
@example([b"."], None)
@example([b".", b"\r\n", b"."], None)
def test_stream_is_the_same_however_it_is_cut(parts: list[bytes], data: st.DataObject | None) -> None:
    whole = b"".join(parts) + b"\r\n"
    cuts = [] if data is None else sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert received(b"".join(stuff(pieces))) == whole
    assert b"".join(stuff(pieces)) == b"\r\n".join(
        b"." + line if line.startswith(b".") else line for line in whole.split(b"\r\n")
    )
