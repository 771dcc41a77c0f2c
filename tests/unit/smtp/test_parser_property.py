"""Replies of any bytes: what comes of them is short, printable, and the same wherever the network cuts."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import target

PIECES = [*(b"250", b"550", b"354", b"421", b"999", b"25"), *(b"-", b" ", b"\r\n", b"\r\n", b"\n", b"\r"), b"5.1.1 ", b"2.0.0 ",
          b"text", b"\x1b[2J", b"\xc2\x9b31m", b"\xe2\x80\xae", b"\xff", b"\0", b"J\xc3\xbcrgen", b"y" * 900, b"STARTTLS"]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 255), st.lists(st.sampled_from(PIECES), max_size=24))
def test_any_bytes_are_replies_and_maybe_an_error(size: int, pieces: list[bytes]) -> None:
    target.reply(bytes([size]) + b"".join(pieces))


LINES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=40), min_size=1, max_size=5)


@settings(max_examples=200, deadline=None)
@given(st.integers(200, 599), LINES, st.integers(0, 255))
def test_a_reply_of_many_lines_is_one(code: int, lines: list[str], size: int) -> None:
    *first, last = lines
    text = "".join(f"{code}-{line}\r\n" for line in first) + f"{code} {last}\r\n"
    target.reply(bytes([size]) + text.encode())
