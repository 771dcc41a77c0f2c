"""SMTP replies out of a stream of bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoold.core.reply import Reply
from spoold.smtp.parser import MAX_LINE, MAX_LINES, ReplyError, ReplyParser


@pytest.mark.parametrize(
    ("data", "replies"),
    [
        (b"250 2.1.0 Ok\r\n", [Reply(250, "2.1.0 Ok")]),
        (b"250\r\n", [Reply(250, "")]),
        (b"250 \r\n", [Reply(250, "")]),
        (b"250 bare line feed\n", [Reply(250, "bare line feed")]),
        (b"354 go\r\n250 done\r\n", [Reply(354, "go"), Reply(250, "done")]),
        (b"550-5.1.1 no such user\r\n550 5.1.1 ask the postmaster\r\n", [Reply(550, "5.1.1 no such user ask the postmaster")]),
        (b"250-\r\n250-one\r\n250 two\r\n", [Reply(250, "one two")]),
        (b"550 5.1.1 no 5.1.1 here\r\n", [Reply(550, "5.1.1 no 5.1.1 here")]),
    ],
    ids=["plain", "code only", "code and space", "line feed", "two", "many lines", "an empty line", "code in the text"],
)  # fmt: skip
def test_replies_are_read_whole(data: bytes, replies: list[Reply]) -> None:
    assert ReplyParser().feed(data) == replies


@given(st.lists(st.integers(1, 40), max_size=30))
def test_where_the_network_cuts_the_bytes_makes_no_difference(cuts: list[int]) -> None:
    data = b"250-first\r\n250-second\r\n250 third\r\n421 4.4.2 bye\r\n550-5.7.1 no\r\n550 5.7.1 way\r\n"
    parser, found = ReplyParser(), []
    for size in [*cuts, len(data)]:
        found += parser.feed(data[:size])
        data = data[size:]
    assert found == [Reply(250, "first second third"), Reply(421, "4.4.2 bye"), Reply(550, "5.7.1 no way")]


def test_a_reply_without_its_line_end_is_not_given_yet() -> None:
    parser = ReplyParser()
    assert parser.feed(b"250-first\r\n250 Ok") == []
    assert parser.feed(b"\r") == []
    assert parser.feed(b"\n") == [Reply(250, "first Ok")]


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"25 Ok\r\n",
        b"2500 Ok\r\n",
        b"250_Ok\r\n",
        b"650 Ok\r\n",
        b"-1 Ok\r\n",
        b" 250 Ok\r\n",
        b"\x16\x03\x01\x02\x00\n",
        b"250-one\r\n550 two\r\n",
        b"2\xb2\xb2 Ok\r\n",
    ],
)
def test_what_is_no_reply_is_an_error_that_shows_it_printable(data: bytes) -> None:
    with pytest.raises(ReplyError) as caught:
        ReplyParser().feed(data)
    assert str(caught.value).isprintable()


def test_good_replies_before_garbage_in_the_same_read_do_not_hide_it() -> None:
    with pytest.raises(ReplyError, match="hello"):
        ReplyParser().feed(b"250 Ok\r\nhello\r\n")


def test_a_line_without_end_is_cut_off() -> None:
    parser = ReplyParser()
    for _ in range(MAX_LINE // 16):
        assert parser.feed(b"250 xxxxxxxxxxxx") == []
    with pytest.raises(ReplyError, match=str(MAX_LINE)):
        parser.feed(b"x")


def test_a_line_that_is_too_long_is_refused_although_it_ends() -> None:
    with pytest.raises(ReplyError):
        ReplyParser().feed(b"250 " + b"x" * MAX_LINE + b"\r\n")


def test_a_reply_of_endless_lines_is_cut_off() -> None:
    parser = ReplyParser()
    for _ in range(MAX_LINES):
        assert parser.feed(b"250-and more\r\n") == []
    with pytest.raises(ReplyError, match=str(MAX_LINES)):
        parser.feed(b"250-and more\r\n")


def test_control_characters_and_broken_utf_8_come_out_printable() -> None:
    (reply,) = ReplyParser().feed("550 5.1.1 \x1b[2J\x1b]0;owned\x07 J\u00fcrgen \u202e\r\n".encode() + b"")
    assert reply.text.isprintable()
    assert "J\u00fcrgen" in reply.text
    assert "\x1b" not in reply.text
    (reply,) = ReplyParser().feed(b"550 5.1.1 \xff\xfe\x00 inside\rreturn\r\n")
    assert reply.text.isprintable()
    assert reply.text.endswith("return")


def test_a_text_of_a_megabyte_in_many_lines_is_shortened() -> None:
    (reply,) = ReplyParser().feed(b"550-" + b"y" * 8000 + b"\r\n550-" + b"z" * 8000 + b"\r\n550 end\r\n")
    assert len(reply.text) <= 1010
