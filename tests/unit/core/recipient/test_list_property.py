"""Recipient lists of any bytes: rows that know their lines, or one line that says what is wrong and where."""

import csv
import io

from hypothesis import given, settings
from hypothesis import strategies as st

from spoold.core.recipient.list import read_csv
from tests.fuzz import target

PIECES = [
    *(b"address", b"Address,name\n", b"ada@x.example", b"<b@x.example>", b'"q q"@x.example', b"\xc3\xbc@\xc3\xbc.example", b","),
    *(b'"', b'""', b"\n", b"\r\n", b"\r", b" ", b"\t", b";", b"\xe2\x80\xae", b"\x1b[2J", b"\0", b"\xff", b"\xef\xbb\xbf"),
    *(b"@", b"a@[192.0.2.1]", b"RCPT TO:<eve@x.example>", b"\xe2\x80\xa8", b"\xc2\x85", b"x" * 300),
]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 255), st.sampled_from([b"", b"address,message,n\r\n"]), st.lists(st.sampled_from(PIECES)))
def test_whatever_the_bytes_every_problem_has_its_line(choice: int, start: bytes, pieces: list[bytes]) -> None:
    target.recipients(bytes([choice]) + start + b"".join(pieces))


@settings(deadline=None)
@given(
    st.integers(1, 400), st.sampled_from(["\n", "\r\n"]), st.lists(st.integers(1, 5), max_size=20), st.integers(1, 70)
)
def test_a_row_is_where_an_editor_shows_it(first: int, end: str, heights: list[int], size: int) -> None:
    # A row of several lines moves all that follow; blank lines count.
    text, wanted = "address,note" + end + end * (first - 1), []
    for number, height in enumerate(heights):
        wanted.append((1 + text.count("\n"), f"to{number}@x.example"))
        file = io.StringIO()
        csv.writer(file, lineterminator=end).writerow([f"to{number}@x.example", end.join(["x"] * height)])
        text += file.getvalue()
    data = text.encode()
    pieces = (data[at : at + size] for at in range(0, len(data), size))
    assert [(row.line, row.address) for row in read_csv(pieces, "recipients.csv")] == wanted


@settings(max_examples=200, deadline=None)
@given(
    st.text()
    | st.builds(
        lambda frame, local, domain: frame.format(local) + "@" + domain,
        st.sampled_from(["{}", '"{}"']),
        st.text(st.characters(codec="utf-8"), max_size=4) | st.text(st.sampled_from('ab<>\r\n\0 "\\.'), max_size=6),
        st.just("x.example")
        | st.text(st.sampled_from("ab.-[]:>< \r\n\u00df\u3002\u200d\u2028x1"), min_size=1, max_size=12),
    )
)
def test_no_address_can_end_its_command(text: str) -> None:
    target.address(text)
