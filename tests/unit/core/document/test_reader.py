"""Strict YAML: what is typed, what is refused, where, and when a file is only not all there yet."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoold.core.document.reader import MAX_BYTES, Document, DocumentError, load
from tests.unit.core.document import complaint
from tests.unit.core.document.complaint import texts


def refusal(data: bytes) -> DocumentError:
    return complaint.refusal(lambda: load(data, "job.yaml"))


def answer(data: bytes) -> Document | DocumentError:
    try:
        return load(data, "job.yaml")
    except DocumentError as error:
        return error


@pytest.mark.parametrize(
    "word",
    [
        "22:00",
        "no",
        "yes",
        "on",
        "off",
        "014",
        "0x1F",
        "0o17",
        "1_000",
        "2026-12-01",
        "+5",
        "1e5",
        ".inf",
        ".5",
        "True",
        "NULL",
        "1200/h",
        "=",
        "9" * 19,
        "1.",
        "10:20:30",
        "2026-12-01T09:00:00Z",
    ],
)
def test_what_people_misread_stays_text(word: str) -> None:
    document = load(f"key: {word}\nlist: [{word}]".encode(), "job.yaml")
    assert document.value == {"key": word, "list": [word]}


def test_only_plain_numbers_truth_and_nothing_are_typed() -> None:
    document = load(b"a: 10\nb: -3\nc: 1.50\nd: true\ne: false\nf: null\ng: ~\nh:\ni: '10'\nj: \"true\"\nk: 0", "x")
    assert document.value == dict(
        zip("abcdefghijk", (10, -3, 1.5, True, False, None, None, None, "10", "true", 0), strict=True)
    )
    assert isinstance(document.value["d"], bool)


def test_keys_are_always_text() -> None:
    assert load(b"1: a\nno: b\nnull: c\ntrue: d", "x").value == {
        "1": "a",
        "no": "b",
        "null": "c",
        "true": "d",
    }


def test_block_scalars_comments_and_unicode_are_read() -> None:
    data = "\ufeff# Grüße\na: |\n  eins\n  zwei\nb: \"\\u00fc\" # ü\nc: 'it''s'\n---\n".encode()
    assert texts(refusal(data)) == ["job.yaml:7:1: a second document begins here; only one is allowed"]
    document = load(data.removesuffix(b"---\n"), "x")
    assert document.value == {"a": "eins\nzwei\n", "b": "ü", "c": "it's"}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"a: &x 1", "job.yaml:1:4: anchors (&) are not allowed"),
        (b"a: *x", "job.yaml:1:4: aliases (*) are not allowed"),
        (b"b: 1\n<<: {a: 1}", "job.yaml:2:1: merge keys (<<) are not allowed"),
        (b"a: !!str 1", "job.yaml:1:4: tags (!) are not allowed"),
        (b"a: ! x", "job.yaml:1:4: tags (!) are not allowed"),
        (b"!!map {a: 1}", "job.yaml:1:1: tags (!) are not allowed"),
        (b"&a b: 1", "job.yaml:1:1: anchors (&) and tags (!) are not allowed"),
        (b"a: 1\nb: 2\na: 3", "job.yaml:3:1: the key 'a' is there twice, first in line 1"),
        (b"a: {b: 1, b: 2}", "job.yaml:1:11: the key 'b' is there twice, first in line 1"),
        (b"? [a]\n: 1", "job.yaml:1:3: a key must be plain text"),
        (b"%YAML 1.1\n---\na: b", "job.yaml:1:1: directives (%) are not allowed"),
        (b"a: 1\n---\nb: 2", "job.yaml:2:1: a second document begins here"),
        (b"a:\n\tb: 1", "job.yaml:2:1: a tab stands where a key or value should begin"),
        (b"a: b: c", "job.yaml:1:5: a second ': ' here"),
        (b"a: @b\nc: d", "job.yaml:1:4: a value cannot begin with this character; put it in quotes"),
        (b'a: "\\q"\nc: d', "job.yaml:1:6: no such escape"),
        (b'a: "\\UFFFFFFFF"', "job.yaml:1:7: there is no such character"),
        (b'a: "\\ud800"', "job.yaml:1:4: surrogates"),
        (
            b"a:\n  - b\n - c\nd: e",
            "job.yaml:3:2: this does not fit what begins in line 1; check the indentation",
        ),
        (b"a: \xff\n", r"job.yaml:1:4: invalid byte \xff: save the file as UTF-8"),
        ("a: b".encode("utf-16"), r"job.yaml:1:1: invalid byte \xff: save the file as UTF-8"),
        (b"a: b\0\n", "job.yaml:1:5: a NUL byte is not allowed"),
        (b"a: \x1b[31m", r"job.yaml:1:4: the character \x1b is not allowed"),
        (b"- a\n- b\n", "job.yaml:1:1: expected `key: value` lines"),
        (b"a: " + b"x" * MAX_BYTES, "job.yaml:1:1: the file has 65539 bytes; at most 65536"),
        (
            b"a:\n" + b"".join(b" " * n + b"- \n" for n in range(1, 25)),
            "job.yaml:21:21: nested too deep; at most 20",
        ),
    ],
)
def test_traps_are_refused_where_they_stand(data: bytes, problem: str) -> None:
    error = refusal(data)
    assert texts(error)[0].startswith(problem)
    assert not error.incomplete
    assert all(text.isprintable() for text in texts(error))


def test_all_faults_are_told_at_once() -> None:
    error = refusal(b"a: &x 1\nb: *x\na: !t 2\n<<: 3\n")
    assert [text.split(": ")[0] for text in texts(error)] == [
        "job.yaml:1:4",
        "job.yaml:2:4",
        "job.yaml:3:1",
        "job.yaml:3:4",
        "job.yaml:4:1",
    ]


def test_hostile_file_gets_a_short_answer() -> None:
    assert len(refusal(b"a: 1\n" * 13000).problems) == 100


@pytest.mark.parametrize("unit", [b"[", b"{", b"- ", b"? ", b"a: {", b"[[", b"&a ", b"%"])
def test_deep_nesting_stops_early(unit: bytes) -> None:
    data = (unit * MAX_BYTES)[:MAX_BYTES]
    start = time.process_time()
    assert not refusal(data).incomplete
    assert time.process_time() - start < 0.5  # about 5 ms; the rest is for a busy machine


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"# only a comment",
        b"\n\n",
        b"send",
        b'"send',
        b"a: 1\nsend",
        b"a: 'x",
        b'a: "x',
        b'a: "\\u00',
        b"a: [x",
        b"a: {b: [c, d",
        b"a: {b: {c: 'd",
        b"a: x\nb: -",
        b"a: x:",
        b"a: [x, # why",
        b"a: \xc3",
        b"\xef\xbb",
        b'a: "\\',
    ],
)
def test_file_that_breaks_off_is_incomplete(data: bytes) -> None:
    assert refusal(data).incomplete


@pytest.mark.parametrize(
    "data",
    [
        b"send\n",
        b"a: 1\nsend\n",
        b"a: b: c",
        b"a: ]\n",
        b"a: *x\nb: [",
        b"a: 1\na: 2\nb: 'x",
        b"a: \xc3b",
        b"[a, b]",
        b"- a",
        b"a: 'x' y\n",
        b"a: *b\nc: \xc3",
        b"a: \0\xc3",
        b"a: @",
    ],
)
def test_file_that_no_more_bytes_can_cure_is_not_incomplete(data: bytes) -> None:
    assert not refusal(data).incomplete


SAMPLE = """# Ünïcode
sender: "news@example.com"   # "" is the null sender
description: 'it''s
  autumn'
text: |
  one
   two: "three

other: >-
  folded
windows: ["Mon-Fri 18:00-08:00", 'Sat,Sun 00:00-24:00']
recipients:
- ada@example.org
- {address: "b\\u00fcb\\x40\\U0001F600\\\\", message: m/2.eml, x: {y: [1, 2.5, ~]}}
-   address: x
    "quoted key": -5
"quoted": [a, {b: c, d}, "e": f]
retry: {after: [5m,20m], for: 5d}
wrapped: one
  two
last: no
"""


@given(st.integers(0, len(SAMPLE.encode())))
def test_every_beginning_of_a_good_file_is_good_or_incomplete(length: int) -> None:
    beginning = answer(SAMPLE.encode()[:length])
    assert isinstance(beginning, Document) or beginning.incomplete, str(beginning)


yamlish = st.lists(
    st.sampled_from([*"[]{},:-?&*!|>%@`'\"\\# \t\n\r~<ab01.", ": ", "- ", "\n  ", "<<", "---\n", "\u2028", "\x85", "ü"])
).map("".join)


@given(st.binary() | yamlish.map(str.encode) | st.text().map(str.encode))
def test_whatever_the_bytes_are_the_answer_is_a_document_or_its_problems(data: bytes) -> None:
    given = answer(data)
    if isinstance(given, Document):
        assert isinstance(given.value, dict)
    else:
        assert given.problems
        assert all(text.isprintable() for text in texts(given))


def test_places_are_those_of_values_and_keys() -> None:
    document = load(b"a: 1\nretry:\n  after: [5m,\n    x]\nnone:\n", "job.yaml")
    assert document.place(()) == "job.yaml:1:1"
    assert document.place(("retry",)) == "job.yaml:3:3"
    assert document.place(("retry", "after", 1)) == "job.yaml:4:5"
    assert document.key_position(("retry", "after")) == (3, 3)
    assert document.key_position(("none",)) == (5, 1)
    assert document.place(("retry", "missing")) == document.place(("retry",))
    assert document.place(("retry", "tag-of-a-union", "after", 0)) == "job.yaml:3:11"
