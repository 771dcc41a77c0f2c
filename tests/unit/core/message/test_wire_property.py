"""Messages made to break out of their data: whatever a server takes for the end of them, it finds only the end."""

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spoold.core.message.wire import MessageError, MessageFacts, prepare, scan, stuff, wire
from tests.fuzz import target
from tests.fuzz.reader import END_OF_DATA, ends_of_data, joined, pieces, receive

SMUGGLED = b"MAIL FROM:<eve@x.example>\r\nRCPT TO:<victim@x.example>\r\nDATA\r\n"
PIECES = [
    *END_OF_DATA,
    b".",
    b"..",
    b"\n",
    b"\r\n",
    b"\r",
    b"x",
    b"\n.",
    b".\n",
    SMUGGLED,
    b"Bcc: a\n",
    b"Date: x\n",
    b"From \n",
]
HEADER = b"From: <a@x.example>\nSubject: x\n\n"


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 255), st.sampled_from([b"", HEADER, b"From x\n"]), st.lists(st.sampled_from(PIECES), max_size=20))
def test_no_server_finds_an_end_of_data_but_the_last(size: int, start: bytes, parts: list[bytes]) -> None:
    target.message(bytes([size]) + start + b"".join(parts))


@given(
    st.sampled_from([end for end in END_OF_DATA if b"\r" not in end.replace(b"\r\n", b"")]),
    st.integers(1, 40),
    st.integers(0, 80),
)
def test_a_dot_on_its_line_at_any_border_of_the_pieces_is_sent_as_two(end: bytes, size: int, shift: int) -> None:
    data = HEADER + b"x" * shift + (end + SMUGGLED) * 3
    facts = scan([data], name="m", date="x", message_id="<x>")
    sent = joined(stuff(prepare(pieces(data, size), facts.added))) + b".\r\n"
    assert ends_of_data(sent) == [len(sent)]
    received, rest = receive(sent)
    assert rest == b""
    assert received.count(SMUGGLED) == 3


@given(st.sampled_from([end for end in END_OF_DATA if b"\r" in end.replace(b"\r\n", b"")]), st.integers(1, 40))
def test_a_bare_cr_is_never_sent(end: bytes, size: int) -> None:
    with pytest.raises(MessageError, match="carriage return"):
        scan(pieces(HEADER + b"x" + end + SMUGGLED, size), name="m", date="x", message_id="<x>")


@given(st.binary(max_size=300), st.sampled_from([b"", b"Date: x\r\nMessage-ID: <y>\r\n", b"Date: x\r\n\r\n"]))
@example(b".\n.", b"")
@example(b"From x\nBcc: a@b\nTo: c\n\n.", b"")
@example(b"A: b\n\n\nbcc: kept\n", b"")
@example(b"bcc: a\n b\n\nx", b"Date: x\r\n")
def test_a_whole_file_at_once_has_the_bytes_of_its_stream(content: bytes, added: bytes) -> None:
    facts = MessageFacts(0, eight_bit=False, eight_bit_header=False, added=added)

    def outcome(make: Callable[[], bytes]) -> bytes | str:
        try:
            return make()
        except MessageError as error:
            return str(error)

    assert outcome(lambda: wire(content, facts.added)) == outcome(
        lambda: b"".join(stuff(prepare((content,), facts.added)))
    )
