"""Envelope addresses: what may stand between the angle brackets of MAIL FROM and RCPT TO.

Owns the one check that every sender and recipient passes before anything else sees it. It decides by syntax
alone: whether a domain or a mailbox exists is the relay's to say. Display names, comments and source routes
belong to header fields and are refused here.
"""

import ipaddress
import re
import unicodedata
from dataclasses import dataclass

import idna

from spoold.core.problem import printable

#: Octets, RFC 5321 §4.5.3.1.1, §4.5.3.1.2 and §4.5.3.1.3 (a path of 256 includes the two angle brackets).
LOCAL_LIMIT = 64
DOMAIN_LIMIT = 255
PATH_LIMIT = 254

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?+"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*+"
# Possessive quantifiers keep hostile input linear.
_plain = re.compile(rf"({_ATEXT}++(?:\.{_ATEXT}++)*+)@({_DOMAIN})").fullmatch
_domain = re.compile(_DOMAIN).fullmatch
_atext = re.compile(rf"{_ATEXT}|[^\x00-\x7f]").fullmatch
# Quoted-string, RFC 5321 §4.1.2, with the non-ASCII of RFC 6531 §3.3.
_quoted = re.compile(r'"(?:[^"\\\x00-\x1f\x7f]|\\[ -~])*+"').match
_label = re.compile(_LABEL).fullmatch
_several = re.compile(r"@[^@]*[,;]\s*[^@]*@").search

# Joiners that IDNA 2008 allows between certain letters (RFC 5892, appendix A).
_JOINERS = "\u200c\u200d"


class AddressError(ValueError):
    """Not an address; the text is one line: the offender, escaped, and why."""


@dataclass(frozen=True, slots=True)
class Address:
    """A valid envelope address.

    `local` is kept as it was given, with its quotes where it has them; `domain` is lower-case ASCII: a host
    name with A-labels, or an address literal with its brackets. `smtputf8` says that the relay must offer
    SMTPUTF8 (RFC 6531), which only a non-ASCII local part needs.
    """

    local: str
    domain: str
    smtputf8: bool

    @property
    def envelope(self) -> str:
        """What goes between `<` and `>`; UTF-8 on the wire."""
        return f"{self.local}@{self.domain}"


def parse_address(text: str) -> Address:
    """Return the address that `text` is, all of it; raises AddressError.

    Mailbox of RFC 5321 §4.1.2, extended by RFC 6531 §3.3. Single-label domains and
    reserved ones (`.test`) pass.
    """
    match = _plain(text)
    if match is not None:
        local, domain = match.groups()
        # A last label that is a number goes the slow way: it is an address literal without its brackets.
        if len(text) <= PATH_LIMIT and len(local) <= LOCAL_LIMIT and not domain[-1].isdigit():
            return Address(local, domain.lower(), False)
    try:
        return _parse_unusual(text)
    except ValueError as error:
        raise AddressError(f"'{printable(text, 100)}' is not an address: {error}") from None


def _parse_unusual(text: str) -> Address:
    """The same for every address that is not plain ASCII; raises ValueError with the reason alone."""
    if not text:
        raise ValueError("it is empty; expected name@domain")
    # Before anything that costs more than linear time; an A-label may be shorter than its U-label in UTF-8.
    if len(text) > 4 * PATH_LIMIT:
        raise ValueError(f"it is {len(text)} characters long; at most {PATH_LIMIT} bytes are allowed")
    _refuse_invisible(text)
    if "<" in text or ">" in text:
        raise ValueError("give only the address, without a name and without < >")
    local, domain = _split(text)
    _check_local(local)
    domain = _parse_domain(domain)
    size = len(local.encode()) + 1 + len(domain)
    if size > PATH_LIMIT:
        raise ValueError(f"it is {size} bytes long; at most {PATH_LIMIT} are allowed")
    return Address(local, domain, not local.isascii())


def _refuse_invisible(text: str) -> None:
    for character in text:
        category = unicodedata.category(character)
        if category == "Cc":
            raise ValueError(f"it contains the control character {printable(character)}")
        if category == "Cs":
            raise ValueError(f"it contains {printable(character)}, which is not valid Unicode")
        if category[0] == "C" and character not in _JOINERS:
            raise ValueError(f"it contains the invisible character U+{ord(character):04X}")
        if category[0] == "Z" and character != " ":
            raise ValueError(f"it contains the space character U+{ord(character):04X}")


def _split(text: str) -> tuple[str, str]:
    """Cut at the `@` that separates the parts; both are non-empty."""
    quoted = _quoted(text)
    if quoted is not None:
        local, rest = quoted.group(), text[quoted.end() :]
        if not rest.startswith("@"):
            raise ValueError("after the closing quote comes '@' and the domain, nothing else")
        domain = rest[1:]
    else:
        if text.startswith('"'):
            raise ValueError("the quote that opens it is not closed before the '@'")
        if _several(text):
            raise ValueError("these are several addresses; give one")
        local, separator, domain = text.partition("@")
        if not separator:
            raise ValueError("it has no '@'; expected name@domain")
        if not local:
            raise ValueError("nothing stands before the '@'")
    if "@" in domain:
        raise ValueError("it has more than one '@'")
    if not domain:
        raise ValueError("nothing stands after the '@'")
    return local, domain


def _check_local(local: str) -> None:
    size = len(local.encode())
    if size > LOCAL_LIMIT:
        raise ValueError(f"the part before the '@' is {size} bytes long; at most {LOCAL_LIMIT} are allowed")
    if any(joiner in local for joiner in _JOINERS):
        raise ValueError("it contains an invisible character (a zero-width joiner) before the '@'")
    if local == '""':
        raise ValueError("nothing stands between the quotes")
    if local.startswith('"'):
        return
    for character in local:
        if character == " ":
            raise ValueError("it contains a space")
        if character != "." and not _atext(character):
            raise ValueError(f"'{character}' is not allowed before the '@'")
    if local.startswith(".") or local.endswith(".") or ".." in local:
        raise ValueError("a dot before the '@' must stand between two other characters")


def _parse_domain(domain: str) -> str:
    """The domain as it goes over the wire."""
    if domain.startswith("[") or domain.endswith("]"):
        return _parse_literal(domain)
    if " " in domain:
        raise ValueError("it contains a space")
    if not domain.isascii():
        try:
            # RFC 5891 after the mapping of UTS 46; the result is checked below like any other.
            ascii_domain = idna.encode(domain, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError) as error:
            raise ValueError(f"the domain is not valid (IDNA 2008): {printable(str(error))}") from None
    else:
        ascii_domain = domain
    ascii_domain = ascii_domain.lower()
    if not _domain(ascii_domain):
        raise ValueError(_domain_fault(ascii_domain))
    if len(ascii_domain) > DOMAIN_LIMIT:
        raise ValueError(f"the domain is {len(ascii_domain)} bytes long; at most {DOMAIN_LIMIT} are allowed")
    # RFC 3696 §2: no top-level domain is all digits.
    if ascii_domain.rpartition(".")[2].isdigit():
        raise ValueError("the domain ends in a number; an IP address goes in brackets, as in [192.0.2.1]")
    return ascii_domain


def _domain_fault(domain: str) -> str:
    """Why a domain that `_domain` refused is none."""
    for label in domain.split("."):
        if not label:
            return "a dot in the domain must stand between two labels"
        if _label(label):
            continue
        if len(label) > 63:
            return f"a label of the domain is {len(label)} bytes long; at most 63 are allowed"
        if label.startswith("-") or label.endswith("-"):
            return "a label of the domain must not begin or end with '-'"
        for character in label:
            if not (character.isalnum() or character == "-"):
                return f"'{character}' is not allowed in the domain"
    return "the domain is not valid"


def _parse_literal(domain: str) -> str:
    """`[192.0.2.1]` or `[IPv6:2001:db8::1]` in canonical form, RFC 5321 §4.1.3."""
    content = domain[1:-1]
    try:
        if not (domain.startswith("[") and domain.endswith("]")):
            raise ValueError
        if content[:5].lower() != "ipv6:":
            return f"[{ipaddress.IPv4Address(content)}]"
        # A zone index names an interface of this host and means nothing to the relay.
        if "%" in content:
            raise ValueError
        return f"[IPv6:{ipaddress.IPv6Address(content[5:])}]"
    except ValueError:
        raise ValueError("an address literal is written [192.0.2.1] or [IPv6:2001:db8::1]") from None
