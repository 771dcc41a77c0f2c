"""What is written as a manifest is read again as the very same."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoold.core.document.reader import load
from spoold.core.document.writer import manifest_text

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,12}", fullmatch=True), _VALUES, min_size=1, max_size=5), _TEXT)
def test_every_value_survives(values: dict[str, object], comment: str) -> None:
    assert load(manifest_text(values, comment).encode(), "job.yaml").value == values


@pytest.mark.parametrize(
    "text", ["no", "On", "22:00", "014", "1e3", "~", "", "a: b", "# x", "-", "null", "1.5", "\u2028", "\x7f\ufeff"]
)
def test_text_that_looks_like_something_else_stays_text(text: str) -> None:
    assert load(manifest_text({"key": text}).encode(), "job.yaml").value == {"key": text}


def test_form_is_plain_where_it_can_be() -> None:
    values = {
        "sender": "a@b.example",
        "expires": datetime(2030, 1, 1, tzinfo=UTC),
        "windows": ("Mon 00:00-24:00",),
        "strict": True,
    }
    assert manifest_text(values, "made\nby hand") == (
        '# made?by hand\nsender: a@b.example\nexpires: "2030-01-01T00:00:00+00:00"\nwindows: ["Mon 00:00-24:00"]\nstrict: true\n'
    )


@pytest.mark.parametrize("value", [object(), "\ud800", [1, object()], b"bytes"])
def test_what_has_no_form_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        manifest_text({"key": value})
