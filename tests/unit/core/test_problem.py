"""Every problem is one short line that acts on no terminal."""

from hypothesis import given
from hypothesis import strategies as st

from spoold.core.problem import Problem, printable, shown


@given(st.text() | st.binary())
def test_printable_is_one_short_printable_line(text: str | bytes) -> None:
    assert printable(text).isprintable()
    assert len(printable(text, 20)) <= 20


def test_printable_escapes_what_could_harm_a_terminal_and_keeps_the_rest() -> None:
    assert printable("Grüße\r\n\x1b[31m\u202e\u2028\ud800\udcff") == r"Grüße\x0d\x0a\x1b[31m\u202e\u2028\ud800\xff"
    assert printable("ü\xa0".encode() + b"\xff\0") == r"ü\xa0\xff\x00"
    assert printable("x" * 300) == "x" * 199 + "…"
    assert printable("x" * 200) == "x" * 200
    assert shown([1]) == "a list"


def test_problem_without_a_place_is_its_text() -> None:
    assert str(Problem("", "text")) == "text"
    assert str(Problem("a:1:2", "text")) == "a:1:2: text"
