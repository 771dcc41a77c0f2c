"""Envelope addresses: what is accepted, in which form it goes out, and what is said of the rest."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoold.core.recipient.address import Address, AddressError, parse_address

LONG_DOMAIN = ".".join(["d" * 60] * 3) + ".d"


@pytest.mark.parametrize(
    ("text", "envelope"),
    [
        ("ada@example.org", "ada@example.org"),
        ("Ada.Lovelace+news@Example.ORG", "Ada.Lovelace+news@example.org"),
        ("!#$%&'*+/=?^_`{|}~-@example.org", "!#$%&'*+/=?^_`{|}~-@example.org"),
        ("root@localhost", "root@localhost"),
        ("a@b.test", "a@b.test"),
        ("a@1and1.example", "a@1and1.example"),
        ("a@3com.x9", "a@3com.x9"),
        ("a@xn--bcher-kva.example", "a@xn--bcher-kva.example"),
        ("a@[192.0.2.1]", "a@[192.0.2.1]"),
        ("a@[ipv6:2001:DB8:0:0::1]", "a@[IPv6:2001:db8::1]"),
        ('"ada lovelace"@example.org', '"ada lovelace"@example.org'),
        (r'"a\"b\\c@d"@example.org', r'"a\"b\\c@d"@example.org'),
        ('"..,;:"@example.org', '"..,;:"@example.org'),
        ("x" * 64 + "@example.org", "x" * 64 + "@example.org"),
        ("a" * 64 + "@" + LONG_DOMAIN + "ddd", "a" * 64 + "@" + LONG_DOMAIN + "ddd"),
        ("a@" + "d" * 63 + ".example", "a@" + "d" * 63 + ".example"),
    ],
)
def test_ascii_address_is_taken_with_its_domain_in_lower_case(text: str, envelope: str) -> None:
    address = parse_address(text)
    assert address.envelope == envelope
    assert not address.smtputf8


def test_parts_are_kept_apart() -> None:
    assert parse_address('"a@b"@Example.org') == Address('"a@b"', "example.org", smtputf8=False)


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("a@bücher.example", "xn--bcher-kva.example"),
        ("a@BÜCHER.Example", "xn--bcher-kva.example"),
        ("a@straße.example", "xn--strae-oqa.example"),
        ("a@例え.テスト", "xn--r8jz45g.xn--zckzah"),
        ("a@例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("a@نامه\u200cای.example", "xn--mgba3gch31f060k.example"),
    ],
)
def test_foreign_domain_becomes_a_labels_and_needs_no_smtputf8(text: str, domain: str) -> None:
    assert parse_address(text) == Address("a", domain, smtputf8=False)


@pytest.mark.parametrize("local", ["müller", "用户", "δοκιμή.x", '"mü ller"', "u\u0308"])
def test_foreign_local_part_is_kept_as_given_and_needs_smtputf8(local: str) -> None:
    assert parse_address(f"{local}@bücher.example") == Address(local, "xn--bcher-kva.example", smtputf8=True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'' is not an address: it is empty; expected name@domain"),
        ("no", "'no' is not an address: it has no '@'; expected name@domain"),
        ("ada@", "nothing stands after the '@'"),
        ("@example.org", "nothing stands before the '@'"),
        ('""@example.org', "nothing stands between the quotes"),
        ("a@b@example.org", "more than one '@'"),
        ('"a"b@example.org', "after the closing quote comes '@'"),
        ('"a@example.org', "not closed"),
        ('a"b@example.org', "'\"' is not allowed before the '@'"),
        ("Ada <ada@example.org>", "give only the address, without a name and without < >"),
        ("<ada@example.org>", "without < >"),
        ('"a>b"@example.org', "without < >"),
        ("ada@example.org (Ada)", "a space"),
        ("ada lovelace@example.org", "a space"),
        (" ada@example.org", "a space"),
        ("ada@example.org ", "a space"),
        ("ada@example.org,bob@example.org", "several addresses; give one"),
        ("ada@example.org; bob@example.org", "several addresses; give one"),
        ("mailto:ada@example.org", "':' is not allowed"),
        (".ada@example.org", "a dot before the '@'"),
        ("ada.@example.org", "a dot before the '@'"),
        ("a..b@example.org", "a dot before the '@'"),
        ("ada@.example.org", "a dot in the domain"),
        ("ada@example.org.", "a dot in the domain"),
        ("ada@example..org", "a dot in the domain"),
        ("ada@-example.org", "begin or end with '-'"),
        ("ada@example-.org", "begin or end with '-'"),
        ("ada@ex_ample.org", "'_' is not allowed in the domain"),
        ("ada@bü_cher.example", "not"),
        ("ada@192.0.2.1", "goes in brackets"),
        ("ada@192.0.2.1]", "an address literal is written"),
        ("ada@[192.0.2]", "an address literal is written"),
        ("ada@[192.0.2.01]", "an address literal is written"),
        ("ada@[2001:db8::1]", "an address literal is written"),
        ("ada@[IPv6:fe80::1%eth0]", "an address literal is written"),
        ("ada@[]", "an address literal is written"),
        ("ada@" + "d" * 64 + ".example", "64 bytes long; at most 63"),
        ("x" * 65 + "@example.org", "65 bytes long; at most 64"),
        ("ü" * 33 + "@example.org", "66 bytes long; at most 64"),
        ("a" * 64 + "@" + LONG_DOMAIN + "dddddd", "255 bytes long; at most 254"),
        ("a@" + LONG_DOMAIN * 2, "bytes long; at most"),
        ("x" * 5_000_000, "5000000 characters long"),
        ("a\r\nRCPT TO:<eve@example.org>", r"the control character \x0d"),
        ('"a\r\n"@example.org', r"the control character \x0d"),
        ("ada@example.org\n", r"the control character \x0a"),
        ("a\0@example.org", r"the control character \x00"),
        ("a\x7f@example.org", r"the control character \x7f"),
        ("a\x85@example.org", r"the control character \x85"),
        ("a\u200b@example.org", "the invisible character U+200B"),
        ("a\u200d@example.org", "zero-width joiner"),
        ("a\u202e@example.org", "the invisible character U+202E"),
        ("a@exa\u00admple.org", "the invisible character U+00AD"),
        ("a\u00a0b@example.org", "the space character U+00A0"),
        ("a\u2028b@example.org", "the space character U+2028"),
        ("a\U000e0001@example.org", "the invisible character U+E0001"),
        ("a\u0378@example.org", "the invisible character U+0378"),
        ("a\udce4@example.org", "not valid Unicode"),
        ("a@☃.example", "IDNA 2008"),
        ("a@℀.example", "IDNA 2008"),
    ],
)
def test_everything_else_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_address(text)
    assert reason in str(caught.value)
    assert " is not an address: " in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def address_or_reason(text: str) -> Address | str:
    try:
        return parse_address(text)
    except AddressError as error:
        return str(error)


@given(st.text() | st.from_regex(r"[^@]{1,20}@[^@]{1,20}", fullmatch=True))
def test_any_text_is_an_address_or_an_error_of_one_printable_line(text: str) -> None:
    address = address_or_reason(text)
    if isinstance(address, str):
        assert address.isprintable()
        return
    envelope = address.envelope
    assert envelope.isprintable()
    assert not set("<>\r\n") & set(envelope)
    assert len(envelope.encode()) <= 254
    assert address.domain.isascii()
    assert parse_address(envelope) == address


def test_plain_addresses_are_cheap_and_hostile_ones_are_linear() -> None:
    for text in ("a." * 30 + "@" + "a-" * 90, "a" * 200 + "@", "@" * 1000, "ü" * 1000 + "@" + "ü." * 100):
        begin = time.process_time()
        with pytest.raises(AddressError):
            parse_address(text)
        assert time.process_time() - begin < 0.05
