"""Recipient files: rows with their physical lines, and faults where they are."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoold.core.recipient.list import ROW_LIMIT, RecipientsError, Row, read_csv, read_txt
from tests.fuzz.reader import cut

NAME = "recipients.csv"
Reader = Callable[[Iterable[bytes], str], Iterator[Row]]


def rows(data: bytes, read: Reader = read_csv) -> list[Row]:
    return list(read([data], NAME))


def outcome(chunks: Iterable[bytes], read: Reader) -> tuple[list[Row], str]:
    """Every row that came out, and the error that ended it."""
    taken = []
    try:
        for row in read(chunks, NAME):
            taken.append(row)
    except RecipientsError as error:
        return taken, str(error)
    return taken, ""


def refusal(data: bytes, read: Reader = read_csv) -> str:
    with pytest.raises(RecipientsError) as caught:
        rows(data, read)
    assert str(caught.value) == str(caught.value.problem)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_columns_are_found_by_name_and_the_others_are_kept() -> None:
    data = (
        b"Name, ADDRESS ,Message,City\r\n"
        b'"Lovelace, Ada", ada@example.org ,messages/1.eml,\r\n'
        b"Bob,bob@example.org,,Wien\r\n"
        b",eve@example.org\r\n"
    )
    assert rows(data) == [
        Row(2, "ada@example.org", "messages/1.eml", {"Name": "Lovelace, Ada"}),
        Row(3, "bob@example.org", None, {"Name": "Bob", "City": "Wien"}),
        Row(4, "eve@example.org", None, None),
    ]


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("final", [True, False])
def test_byte_order_mark_and_line_ends_make_no_difference(bom: bytes, end: bytes, final: bool) -> None:
    data = bom + end.join([b"address", "jürgen@example.org".encode()]) + (end if final else b"")
    assert rows(data) == [Row(2, "jürgen@example.org", None, None)]


def test_line_is_where_the_row_starts_whatever_its_fields_contain() -> None:
    data = b'address,note\na@x.test,"1\n2\r\n3"\n\n   \n,\nb@x.test,"\xe2\x80\xa8\x0c"\n'
    assert rows(data) == [
        Row(2, "a@x.test", None, {"note": "1\n2\r\n3"}),
        Row(8, "b@x.test", None, {"note": "\u2028\x0c"}),
    ]


def test_row_with_content_but_no_address_is_a_row_for_its_own_error() -> None:
    assert rows(b"name,address\nAda\n") == [Row(2, "", None, {"name": "Ada"})]


def test_nameless_column_is_kept_by_its_number() -> None:
    assert rows(b"address,,\na@x.test,1,\n") == [Row(2, "a@x.test", None, {"column 2": "1"})]


@pytest.mark.parametrize("data", [b"", b"\n\r\n", b"\xef\xbb\xbf", b"\xef\xbb", b"address\n", b"address,message"])
def test_file_without_rows_has_no_rows(data: bytes) -> None:
    if data == b"\xef\xbb":
        assert "byte 1 (0xef) is not UTF-8" in refusal(data)
    else:
        assert rows(data) == []


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"email,name\n", ":1: the header has no column 'address'; found 'email', 'name'"),
        (b"\nemail\n", ":2: the header has no column 'address'; found 'email'"),
        (b"ad\x07dress\n", r"found 'ad\x07dress'"),
        (b"ada@example.org\n", ":1: this is an address already; the first line must be a header"),
        (b"Ada,ada@example.org\n", "the first line must be a header with the column 'address'"),
        (b"address;name\n", "separated by ';'"),
        (b"address\tname\n", "separated by a tab"),
        (b"address,Name,NAME\n", "the column 'NAME' is there twice"),
        (b"address,Address\n", "the column 'Address' is there twice"),
        (b"address\na@x.test,b\n", ":2: 2 fields, but the header has 1"),
        (b'address\n"a"b\n', ":2: text follows a closing double quote"),
        (b'address\na "b"\n', ":2: a double quote inside a field that does not begin with one"),
        (b'address,n\na@x.test, "b, c"\n', ":2: a double quote inside a field"),
        (b'address\n\n"a\n\n', ":3: a double quote opens here and is not closed"),
        (b'address,n\na@x.test,"b\nb@x.test,c\nc@x.test,"d"\n', ":2: text follows a closing double quote"),
        (b"address\ra@x.test\r", ":1: a carriage return (CR) within the line"),
        (b"address\na\0b\n", ":2: a NUL byte"),
        (b"address\nok@x.test\nj\xfcrgen@x.test\n", ":3: byte 2 (0xfc) is not UTF-8; save the file as UTF-8"),
        (b"address\na@x.test\xc3", ":2: byte 9 (0xc3) is not UTF-8"),
        ("address\na@x.test\n".encode("utf-16"), ":1: the file is UTF-16; save it as UTF-8"),
        (b"\xfe\xff\0a", ":1: the file is UTF-16; save it as UTF-8"),
        ("address\n".encode("utf-16-le"), ":1: a NUL byte"),
    ],
)
def test_fault_of_the_file_is_named_with_its_line(data: bytes, text: str) -> None:
    message = refusal(data)
    assert message.startswith("recipients.csv:")
    assert text in message


def test_broken_quote_in_the_middle_is_reported_on_its_row() -> None:
    lines = [b"address,name\n"] + [b'u%d@example.org,"n"\n' % number for number in range(2, 10_001)]
    lines[4710] = b'u4711@example.org,"n\n'
    assert refusal(b"".join(lines)).startswith("recipients.csv:4711: text follows a closing double quote")


def test_unclosed_quote_swallows_a_bounded_part_of_the_rest() -> None:
    given_out = 0

    def endless() -> Iterator[bytes]:
        nonlocal given_out
        yield b'address,name\na@x.test,b\nb@x.test,"c\n'
        while True:
            given_out += 1000
            yield b"someone@x.test,name\n" * 50

    taken, error = outcome(endless(), read_csv)
    assert taken == [Row(2, "a@x.test", None, {"name": "b"})]
    assert error.startswith("recipients.csv:3: the row is longer than 64 KiB; is a double quote left open")
    assert given_out < 2 * ROW_LIMIT


@pytest.mark.parametrize("read", [read_csv, read_txt])
def test_line_without_end_is_refused_before_it_fills_the_memory(read: Reader) -> None:
    def endless() -> Iterator[bytes]:
        yield b"address\nb\n"
        while True:
            yield b"x" * 10_000

    assert outcome(endless(), read)[1].startswith("recipients.csv:3: the row is longer than 64 KiB")


def test_row_at_the_limit_passes_and_one_more_character_does_not() -> None:
    widest = "ü" * (ROW_LIMIT - 1)
    assert rows(f"address\n{widest}\n".encode()) == [Row(2, widest, None, None)]
    assert "longer than 64 KiB" in refusal(f"address\n{widest}ü\n".encode())


def test_text_list_has_one_address_a_line() -> None:
    data = '\ufeff ada@example.org \r\n\r\n\tjürgen@example.org\n"a,b"@example.org'.encode()
    assert rows(data, read_txt) == [
        Row(1, "ada@example.org", None, None),
        Row(3, "jürgen@example.org", None, None),
        Row(4, '"a,b"@example.org', None, None),
    ]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a@x.test\rb@x.test\r", ":1: a carriage return (CR) within the line"),
        (b"a@x.test\n\xe4@x.test\n", ":2: byte 1 (0xe4) is not UTF-8"),
        (b"a@x.test\n\0\n", ":2: a NUL byte"),
        (b"\xff\xfea\0", ":1: the file is UTF-16"),
    ],
)
def test_fault_of_a_text_list_is_named_with_its_line(data: bytes, text: str) -> None:
    assert text in refusal(data, read_txt)


PIECES = [
    *(b"address", b"a@x.test", b",", b",", b'"', b'""', b"\n", b"\n", b"\r\n", b"\r", b" ", b"message", b"n"),
    *(b"\xc3\xbc", b"\xe2\x80\xa8", b"\xfc", b"\0", b"\xef\xbb\xbf", b"\xff\xfe"),
]


@pytest.mark.parametrize("read", [read_csv, read_txt])
@given(
    start=st.sampled_from([b"", b"address,message,n\n", b"\xef\xbb\xbfaddress,n\r\n"]),
    pieces=st.lists(st.sampled_from(PIECES)),
    sizes=st.lists(st.integers(0, 12)),
)
def test_chunk_borders_change_neither_rows_nor_error(
    read: Reader, start: bytes, pieces: list[bytes], sizes: list[int]
) -> None:
    data = start + b"".join(pieces)
    assert outcome(cut(data, sizes), read) == outcome([data], read)
    assert outcome((data[i : i + 1] for i in range(len(data))), read) == outcome([data], read)


FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=20)


@given(st.lists(st.tuples(st.from_regex(r"[a-z]{1,9}@x\.test", fullmatch=True), FIELD, FIELD)))
def test_what_a_csv_writer_writes_is_read_back(table: list[tuple[str, str, str]]) -> None:
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["address", "one", "two"])
    expected = []
    for address, one, two in table:
        line = 1 + file.getvalue().count("\n")
        writer.writerow([address, one, two])
        extra = {name: value for name, value in (("one", one), ("two", two)) if value}
        expected.append(Row(line, address, None, extra or None))
    assert rows(file.getvalue().encode()) == expected
