"""The notations of the manifest and the configuration as annotated types for pydantic models.

Each reads what strict YAML gives (a str, an int, a list …) into a value of the core, or raises ValueError
with the text that the user sees. Owns the form of moments, retry policies and the maps of domains; the
other notations have modules.
"""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, TypeVar
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)
from pydantic.config import JsonDict

from spoold.core.document import pattern
from spoold.core.document.form import Read, Section, key
from spoold.core.document.pattern import ADDRESS_FORM, DOMAIN_FORM, HOST_FORM, MOMENT_FORM, SENDER_FORM, ZONE_FORM
from spoold.core.problem import shown
from spoold.core.quantity import DURATION_FORM, parse_duration, parse_size
from spoold.core.recipient.address import Address, AddressError, parse_address
from spoold.core.schedule.rate import RATE_FORM, Rate, parse_rate
from spoold.core.schedule.retry import DEFAULT, RetryPolicy
from spoold.core.schedule.window import Windows, parse_windows, parse_zone

_MOMENT = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9}))?(?: ?([Zz]|[+-]\d\d:\d\d))?", re.ASCII
)

T = TypeVar("T")


def parse_moment(text: str) -> datetime:
    """Read an RFC 3339 date-time, to the microsecond.

    A space may stand for the T; seconds may be missing, and the offset: then the moment is naive.
    Raises ValueError naming the right form.
    """
    match = _MOMENT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"expected {MOMENT_FORM}; got {shown(text)}")
    day, time, fraction, offset = match.groups()
    if fraction:
        time = f"{time if len(time) > 5 else time + ':00'}.{fraction[:6]:0<6}"
    try:
        moment = datetime.fromisoformat(f"{day}T{time}{(offset or '').upper()}")
    except ValueError as error:
        raise ValueError(f"expected {MOMENT_FORM}; got {shown(text)}: {error}") from None
    if not 1970 < moment.year < 3000:
        raise ValueError(f"expected {MOMENT_FORM}, in the years 1971 to 2999; got {shown(text)}")
    return moment


def _read(parse: Callable[[str], T], form: str) -> PlainValidator:
    """A validator for what is written as one word, whatever YAML takes it for."""

    def read(value: object) -> T:
        if not isinstance(value, str):
            raise ValueError(f"expected {form}; got {shown(value)}")
        return parse(value)

    return PlainValidator(read)


def _duration_or_moment(text: str) -> float | datetime:
    if re.match(r"\d{4}-", text.strip(), re.ASCII):
        return parse_moment(text)
    try:
        return parse_duration(text)
    except ValueError:
        raise ValueError(f"expected {DURATION_FORM}, or {MOMENT_FORM}; got {shown(text)}") from None


def _address_or_none(text: str) -> Address | None:
    return parse_address(text) if text else None


def _size(value: object) -> int:
    return parse_size(value)  # type: ignore[arg-type]  # it names whatever it gets in its error


def _window(line: str) -> str:
    parse_windows([line])
    return line


def _host(text: str) -> str:
    # Whether there is such a host is for the resolver to say.
    if not re.fullmatch(r"\S+", text) or not text.isprintable():
        raise ValueError(f"expected {HOST_FORM}; got {shown(text)}")
    return text


def _relay_name(text: str) -> str:
    if not text.isprintable() or not text or text != text.strip():
        raise ValueError(f"expected a name for the relay, such as default; got {shown(text)}")
    return text


def _domain(text: str) -> str:
    if text == "*":
        return text
    try:
        return parse_address(f"postmaster@{text}").domain
    except AddressError:
        raise ValueError(f"expected {DOMAIN_FORM}; got {shown(text)}") from None


def _distinct(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    domains = handler(value)
    if len(domains) < len(value):
        raise ValueError("two of these keys are the same domain, written differently")
    return domains


#: Seconds.
Duration = Annotated[float, _read(parse_duration, DURATION_FORM), WithJsonSchema(pattern.DURATION)]
#: Bytes.
Size = Annotated[int, PlainValidator(_size), WithJsonSchema(pattern.SIZE)]
#: Naive where the text has no offset.
Moment = Annotated[datetime, _read(parse_moment, MOMENT_FORM), WithJsonSchema(pattern.MOMENT)]
DurationOrMoment = Annotated[
    float | datetime,
    _read(_duration_or_moment, f"{DURATION_FORM}, or {MOMENT_FORM}"),
    WithJsonSchema(pattern.DURATION_OR_MOMENT),
]
RateField = Annotated[Rate, _read(parse_rate, RATE_FORM), WithJsonSchema(pattern.RATE)]
_Window = Annotated[str, AfterValidator(_window), WithJsonSchema(pattern.WINDOW)]
#: A list in the document; an empty one means always.
WindowsField = Annotated[Windows, Read(list[_Window], parse_windows)]
ZoneField = Annotated[ZoneInfo, _read(parse_zone, ZONE_FORM), WithJsonSchema(pattern.ZONE)]
#: An envelope sender or recipient; None for the null sender `""`.
SenderField = Annotated[Address | None, _read(_address_or_none, SENDER_FORM), WithJsonSchema(pattern.SENDER)]
AddressField = Annotated[Address, _read(parse_address, ADDRESS_FORM), WithJsonSchema(pattern.ADDRESS)]
HostField = Annotated[str, _read(_host, HOST_FORM), WithJsonSchema(pattern.HOST)]
#: The key of a relay: it stands in logs and reports.
RelayName = Annotated[str, AfterValidator(_relay_name)]
#: Keys are lower-case A-labels or "*".
DomainRates = Annotated[
    dict[Annotated[str, AfterValidator(_domain)], RateField],
    WrapValidator(_distinct),
    WithJsonSchema(pattern.DOMAIN_RATES),
]

#: What takes either of two keys, for editors; a key without a value is none.
_EITHER: JsonDict = {
    "oneOf": [
        {"required": ["every"], "properties": {"every": {"type": "string"}}},
        {"required": ["after"], "properties": {"after": {"type": "array"}}},
    ]
}


class RetrySection(Section):
    """`{every: 1h, for: 5d}` or `{after: [5m, 20m, 1h, 4h], for: 5d}`; `for` may be missing."""

    model_config = ConfigDict(json_schema_extra=_EITHER)

    every: Duration | None = key("The time between two attempts.", None)
    after: Annotated[list[Duration], Field(min_length=1, max_length=100)] | None = key(
        "The times to wait after the first, second … attempt; the last repeats.", None
    )
    lifetime: Duration = key(
        "How long to try, from the first attempt on; then the recipient is `expired`.",
        DEFAULT.lifetime,
        written="5d",
        alias="for",
    )

    @model_validator(mode="after")
    def _check(self) -> "RetrySection":
        if (self.every is None) == (self.after is None):
            raise ValueError(
                "expected either `every` or `after`, as in {every: 1h, for: 5d} or {after: [5m, 1h], for: 5d}"
            )
        return self

    def policy(self) -> RetryPolicy:
        """The policy that it describes."""
        return RetryPolicy(tuple(self.after or ()) or (self.every or DEFAULT.delays[0],), self.lifetime)


RetryField = Annotated[RetryPolicy, Read(RetrySection, RetrySection.policy)]
