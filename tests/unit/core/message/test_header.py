"""Reading header fields and address lists: what other mailers take, and hostile input in linear time."""

import time

import pytest

from spoold.core.message.header import addresses, header_fields, recipients_of

LISTS = {
    'Ada <ada@x.y>, bob@x.y (Bob, the), "C, D" <c@d.e>': ["ada@x.y", "bob@x.y", "c@d.e"],
    "undisclosed-recipients:;": [],
    "Friends: a@b, c @ d . e;, z@z": ["a@b", "c@d.e", "z@z"],
    '"q q"@x.y': ['"q q"@x.y'],
    '"a@evil, b" <b@x.y>': ["b@x.y"],
    "<@r.x:u@v.w>": ["u@v.w"],
    "a@b,,c@d,": ["a@b", "c@d"],
    "x@[192.0.2.1], y@[IPv6:::1]": ["x@[192.0.2.1]", "y@[IPv6:::1]"],
    "(only a (nested) comment)": [],
    "Joe (x\\)y) <joe@x.y>": ["joe@x.y"],
    "root": ["root"],
    "": [],
}


@pytest.mark.parametrize(("text", "found"), LISTS.items())
def test_address_lists_are_read_as_they_are_meant(text: str, found: list[str]) -> None:
    assert addresses(text) == found


@pytest.mark.parametrize(
    "text", ["alice@example.org)bob@x.y", "<a@b> junk", "a b@c", '"unclosed a@b', "<a@b> <c@d>", "a@b; <c", "x (y"]
)
def test_nonsense_never_becomes_another_good_address(text: str) -> None:
    for address in addresses(text):
        assert address in text
        assert "," not in address
        assert address not in ("bob@x.y", "b@c", "d", "c@d")


@pytest.mark.parametrize("text", ['("', '"\\', "<", "[", "@:", "a,", "a:", '"a" ', ". ", "\\(", "<a> "])
def test_hostile_lists_cost_linear_time(text: str) -> None:
    begun = time.process_time()
    addresses(text * (60_000 // len(text)))
    assert time.process_time() - begun < 2.0


def test_fields_have_names_values_and_places() -> None:
    data = b"From x y\nTo : a@b\r\nSUBJECT: one\r\n two\nBroken\nCc: no@where\n\nBcc: body@x\n"
    fields = header_fields(data)
    assert [(field.name, field.value) for field in fields] == [("to", "a@b"), ("subject", "one two")]
    assert data[fields[1].start : fields[1].end] == b"SUBJECT: one\r\n two\n"
    assert [field.value for field in header_fields(b"X: \xff\n")] == ["\udcff"]


def test_resent_fields_replace_the_others() -> None:
    plain = header_fields(b"To: a@b\nCc: c@d\nBcc: e@f\nReply-To: g@h\n")
    assert recipients_of(plain) == ["a@b", "c@d", "e@f"]
    resent = header_fields(b"Resent-Cc: x@y\nTo: a@b\n")
    assert recipients_of(resent) == ["x@y"]
