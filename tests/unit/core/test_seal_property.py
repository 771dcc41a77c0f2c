"""Seals of any text: the hashes that were written, or what is missing in one line."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import target

HASH = "0123456789abcdef" * 4
PIECES = [
    *(
        HASH,
        HASH.upper(),
        HASH[1:],
        "  ",
        " *",
        " ",
        "\\",
        "\\n",
        "\\\\",
        "a",
        "./",
        "../x",
        "m/1.eml",
        "SHA256SUMS",
        "\n",
        "\n",
    ),
    *(
        "\r\n",
        "# ",
        "# end 1\n",
        "# end 2\n",
        "# end 0\n",
        "# end " + "9" * 5000 + "\n",
        "\x1b[31m",
        "\u202e",
        "\udcff",
        "\0",
    ),
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=16).map("".join), st.sampled_from(["", "# end 1\n", "\n# end 2\n"]))
def test_any_text_is_a_seal_or_told_what_it_lacks(text: str, end: str) -> None:
    target.seal((text + end).encode(errors="surrogateescape"))
