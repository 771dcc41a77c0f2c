"""SHA256SUMS, as sha256sum writes it and as it may be broken."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoold.core.seal import Seal, parse_seal

HASH = "a" * 64


@given(
    st.dictionaries(
        st.text(
            st.characters(codec="utf-8", exclude_categories=["Cs"], exclude_characters="\0\r\n"),
            min_size=1,
            max_size=20,
        ).filter(lambda name: name == str(PurePosixPath(name)) and name != "SHA256SUMS" and "\\" not in name),
        st.binary(min_size=32, max_size=32).map(bytes.hex),
        max_size=5,
    ),
    st.sampled_from(["  ", " *"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_seal_gives_back_what_sha256sum_wrote(hashes: dict[str, str], separator: str, end: str) -> None:
    lines = [f"{value}{separator}{name}" for name, value in hashes.items()]
    text = end.join([*lines, f"# end {len(hashes)}", ""])
    assert parse_seal(text) == Seal(hashes)
    # Cut anywhere before its last line is whole, it is not complete.
    for cut in range(len(text) - len(end)):
        assert parse_seal(text[:cut]).problem is not None


@pytest.mark.parametrize(
    ("text", "hashes"),
    [
        (f"{HASH}  ./a\n# end 1\n", {"a": HASH}),
        (f"{HASH.upper()} *a\n# end 1\n", {"a": HASH}),
        (f"\\{HASH}  a\\nb\\\\c\n# end 1\n", {"a\nb\\c": HASH}),
        (f"# made by hand\n\n{HASH}  a\n# end 1\n\n", {"a": HASH}),
        (f"{HASH}  SHA256SUMS\n{HASH}  a\n# end 1\n", {"a": HASH}),
    ],
)
def test_seal_is_read_as_sha256sum_writes_it(text: str, hashes: dict[str, str]) -> None:
    assert parse_seal(text) == Seal(hashes)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the last line of SHA256SUMS, `# end N`"),
        (f"{HASH}  a\n", "the last line of SHA256SUMS, `# end N`"),
        (f"{HASH}  a\n# end 1", "the last line of SHA256SUMS, `# end N`"),
        (f"{HASH}  a\n# end {1:05000}\n", "the last line of SHA256SUMS, `# end N`"),
        (f"{HASH}  a\n# end \u0661\n", "the last line of SHA256SUMS, `# end N`"),
        (f"{HASH}  a\n# end 2\n", "SHA256SUMS to be mended: it ends with `# end 2` and lists 1 files"),
        (f"{HASH[1:]}  a\n# end 1\n", "SHA256SUMS to be mended: line 1 is not `HASH  NAME`"),
        (f"{HASH}  a\nrubbish\n# end 2\n", "SHA256SUMS to be mended: line 2 is not `HASH  NAME`"),
    ],
)
def test_seal_that_is_wrong_or_cut_says_so(text: str, problem: str) -> None:
    assert parse_seal(text).problem == problem
