"""Messages made to break out of their data: whatever a server takes for the end of them, it finds only the end."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spoold.core.message import MessageError, prepare, scan, stuff
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
    sent = joined(stuff(prepare(pieces(data, size), facts))) + b".\r\n"
    assert ends_of_data(sent) == [len(sent)]
    received, rest = receive(sent)
    assert rest == b""
    assert received.count(SMUGGLED) == 3


@given(st.sampled_from([end for end in END_OF_DATA if b"\r" in end.replace(b"\r\n", b"")]), st.integers(1, 40))
def test_a_bare_cr_is_never_sent(end: bytes, size: int) -> None:
    with pytest.raises(MessageError, match="carriage return"):
        scan(pieces(HEADER + b"x" + end + SMUGGLED, size), name="m", date="x", message_id="<x>")
