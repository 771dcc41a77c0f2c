"""The notations of job.yaml and spoold.yaml as JSON Schema knows them, for editors: patterns, and the text for a miss.

Each says in one expression what the notation's own module reads, as far as an expression can: it never refuses what is
read there, and takes what is wrong only by its meaning (30 February, a zone that does not exist). The expressions are
those of ECMA 262 and of Python alike, searched for anywhere, hence the anchors.
"""

from typing import Any

from spoold.core.quantity import DURATION_FORM, MAX_SIZE, SIZE_FORM
from spoold.core.schedule.rate import RATE_FORM
from spoold.core.schedule.window import WINDOW_FORM

#: One JSON Schema.
Schema = dict[str, Any]

MOMENT_FORM = "a moment such as 2026-12-01T09:00:00+01:00"
ZONE_FORM = "a time zone such as Europe/Vienna"
SENDER_FORM = 'an address such as news@example.com, or "" for the null sender'
ADDRESS_FORM = "an address such as news@example.com"
HOST_FORM = "a host name such as smtp.example.com, or an IP address"
DOMAIN_FORM = "a domain such as gmail.com, or * for every other"
PATH_FORM = "the name of a file in the job folder"

#: `$` also matches before a last newline in Python.
_END = r"(?![\s\S])"
_DAYS = (
    "Mon(?:day)?",
    "Tue(?:sday)?",
    "Wed(?:nesday)?",
    "Thu(?:rsday)?",
    "Fri(?:day)?",
    "Sat(?:urday)?",
    "Sun(?:day)?",
)
_DURATION = "(?:[0-9]+w)? ?(?:[0-9]+d)? ?(?:[0-9]+h)? ?(?:[0-9]+m)? ?(?:[0-9]+s)?"
_CLOCK = "(?:[01]?[0-9]|2[0-3]):[0-5][0-9]"
_MOMENT = (
    r"(?:197[1-9]|19[89][0-9]|2[0-9]{3})-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])[Tt ]"
    r"(?:[01][0-9]|2[0-4]):[0-5][0-9](?::[0-5][0-9])?(?:\.[0-9]{1,9})?(?: ?(?:[Zz]|[+-][0-9]{2}:[0-9]{2}))?"
)
_ATEXT = r"(?:[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]|[^\x00-\x7f])"
_LOCAL = rf'(?:{_ATEXT}+(?:\.{_ATEXT}+)*|"(?:[^"\\\x00-\x1f\x7f]|\\[ -~])+")'
_HOST = r"(?:(?:[A-Za-z0-9.-]|[^\x00-\x7f])+|\[[^\[\]\s@]+\])"
_PART = r"[^./\\\x00-\x1f\x7f-\x9f\u2028\u2029][^/\\\x00-\x1f\x7f-\x9f\u2028\u2029]*"


def _either_case(text: str) -> str:
    """The expression for both cases of its letters: ECMA 262 has no flag inside an expression."""
    return "".join(f"[{char.upper()}{char.lower()}]" if char.isalpha() else char for char in text)


def _pattern(form: str, pattern: str, **more: Any) -> Schema:
    return {"type": "string", "pattern": pattern, "patternErrorMessage": f"expected {form}", **more}


_DAY = f"(?: *(?:{'|'.join(map(_either_case, _DAYS))}) *)"
_WEEK = f"{_DAY}(?:-{_DAY})?(?:,{_DAY}(?:-{_DAY})?)*"

DURATION = _pattern(DURATION_FORM, rf"^\s*(?=[0-9 a-z]*[1-9]){_DURATION}\s*$")
MOMENT = _pattern(MOMENT_FORM, rf"^\s*{_MOMENT}\s*$")
DURATION_OR_MOMENT = {"anyOf": [DURATION, MOMENT]}
RATE = _pattern(RATE_FORM, r"^\s*(?!0+ ?/)[0-9]{1,9} ?/ ?(?!0+[smhd])[0-9]{0,4}[smhd]\s*$")
SIZE = {
    "anyOf": [
        _pattern(SIZE_FORM, r"^\s*(?=[0-9]*[1-9])[0-9]{1,15} ?(?:(?:[KkMmGgTt][Ii]?)?[Bb])?\s*$"),
        {"type": "integer", "minimum": 1, "maximum": MAX_SIZE},
    ]
}
WINDOW = _pattern(WINDOW_FORM, rf"^\s*(?:{_WEEK} )?{_CLOCK} ?- ?(?:{_CLOCK}|24:00)\s*$", maxLength=200)
ZONE = _pattern(ZONE_FORM, rf"^[A-Za-z0-9_+-]{{1,40}}(?:/[A-Za-z0-9_+-]{{1,40}}){{0,3}}{_END}")
ADDRESS = _pattern(ADDRESS_FORM, rf"^{_LOCAL}@{_HOST}{_END}")
SENDER = _pattern(SENDER_FORM, rf"^(?:{_LOCAL}@{_HOST})?{_END}")
PATH = _pattern(PATH_FORM, rf"^{_PART}(?:/{_PART})*{_END}")
HOST = _pattern(HOST_FORM, rf"^[^\s\x00-\x1f\x7f-\x9f]+{_END}")
DOMAIN_RATES = {
    "type": "object",
    "propertyNames": {"pattern": rf"^(?:\*|{_HOST}){_END}", "patternErrorMessage": f"expected {DOMAIN_FORM}"},
    "additionalProperties": RATE,
}
KEEP = {"anyOf": [DURATION, {"const": "forever"}]}
