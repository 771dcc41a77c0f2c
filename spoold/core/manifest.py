"""The job's manifest, `job.yaml` (CONTRACT §2): the user's wishes for one job, all of them, and nothing else.

Owns its keys, defaults and rules. Does not look whether the files it names are there, nor validate
recipients: a bad one is that recipient's failure, not the manifest's. An edited manifest is read again by
the same function.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from enum import StrEnum
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Discriminator, Field, Tag

from spoold.core.document import Document, DocumentError, load
from spoold.core.field import (
    DomainRates,
    DurationOrMoment,
    Moment,
    RateField,
    RetryField,
    SenderField,
    WindowsField,
    ZoneField,
)
from spoold.core.form import Read, Section, validate
from spoold.core.problem import Problem, printable
from spoold.core.rate import Rate
from spoold.core.retry import RetryPolicy
from spoold.core.schedule import Windows
from spoold.core.state import OnUncertain

DEFAULT_MESSAGE = "message.eml"
DEFAULT_RELAY = "default"


class Priority(StrEnum):
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class InlineRecipient:
    """A recipient written in the manifest, neither part of it checked; `line` is the manifest's."""

    line: int
    address: str
    message: str | None


@dataclass(frozen=True, slots=True)
class Expect:
    """The counts that must be met before the job is taken; None asks for nothing."""

    recipients: int | None = None
    messages: int | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """The keys that may be edited while the job lives.

    `send_after` is aware. `expires` is a moment (aware), or seconds from when the job is taken.
    `timezone` is as written. `domain_rates` has lower-case A-labels, or `*`, for keys.
    None leaves it to the agent.
    """

    send_after: datetime | None
    expires: float | datetime | None
    windows: Windows
    timezone: str | None
    rate: Rate | None
    domain_rates: Mapping[str, Rate]
    retry: RetryPolicy | None
    priority: Priority


@dataclass(frozen=True, slots=True)
class Manifest:
    """One job's manifest. `sender` is the envelope sender, "" the null sender (RFC 5321 §4.5.5).

    `recipients` is a file's name, the list itself, or None for the default files; `message` and a file's
    name are paths that passed `check_path`. `notes` are remarks for the report: what was understood in
    which way.
    """

    sender: str
    sender_smtputf8: bool
    message: str
    recipients: str | tuple[InlineRecipient, ...] | None
    description: str
    relay: str
    expect: Expect
    timing: Timing
    on_uncertain: OnUncertain
    strict: bool
    allow_duplicate: bool
    notes: tuple[str, ...]


def parse_manifest(data: bytes, name: str = "job.yaml", *, zone: tzinfo = UTC) -> Manifest:
    """Read a manifest; raises DocumentError with every problem, each with line and column.

    `zone` is the agent's: a moment without an offset is taken in the job's `timezone`, and without one in
    that.
    """
    document = load(data, name)
    form = validate(document, _Form)
    notes: list[str] = []
    job_zone = form.timezone or zone
    send_after = _aware("send_after", form.send_after, job_zone, notes)
    expires = form.expires
    if isinstance(expires, datetime):
        expires = _aware("expires", expires, job_zone, notes)
        if send_after is not None and expires is not None and expires <= send_after:
            text = f"expected a moment after send_after ({send_after.isoformat()}); got {expires.isoformat()}"
            raise DocumentError((Problem(document.place(("expires",)), text),))
    timing = Timing(
        send_after=send_after,
        expires=expires,
        windows=form.windows,
        timezone=form.timezone.key if form.timezone else None,
        rate=form.rate,
        domain_rates=form.domain_rates,
        retry=form.retry,
        priority=form.priority,
    )
    return Manifest(
        sender=form.sender.envelope if form.sender else "",
        sender_smtputf8=form.sender is not None and form.sender.smtputf8,
        message=form.message,
        recipients=_recipients(document, form.recipients),
        description=form.description,
        relay=form.relay,
        expect=form.expect,
        timing=timing,
        on_uncertain=form.on_uncertain,
        strict=form.strict,
        allow_duplicate=form.allow_duplicate,
        notes=tuple(notes),
    )


def check_path(text: str) -> tuple[str, ...]:
    """The components of a file's name inside the job folder. Raises ValueError with the reason.

    Relative, no component empty, hidden, `.` or `..`, no backslash, no control character: whoever opens it
    walks the components.
    """

    def wrong(reason: str) -> ValueError:
        return ValueError(f"'{printable(text, 100)}' cannot be a file of the job: {reason}")

    if not text:
        raise ValueError("expected the name of a file in the job folder; got nothing")
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in text):
        raise wrong("it has control characters")
    if "\\" in text:
        raise wrong("it has a backslash; folders are separated by /")
    if text.startswith("/"):
        raise wrong("it must be relative to the job folder")
    components = tuple(text.split("/"))
    if ".." in components:
        raise wrong("'..' leads out of it")
    if "" in components:
        raise wrong("it has an empty part; between folders stands one /, and none at the end")
    if any(part.startswith(".") for part in components):
        raise wrong("names that begin with '.' are never looked at")
    if any(len(part.encode()) > 255 for part in components):
        raise wrong("a part of it is longer than 255 bytes")
    return components


def _path(text: str) -> str:
    check_path(text)
    return text


class _Recipient(Section):
    address: str
    message: str | None = None


class _Expect(Section):
    recipients: int | None = Field(default=None, ge=1)
    messages: int | None = Field(default=None, ge=1)

    def value(self) -> Expect:
        return Expect(self.recipients, self.messages)


_Path = Annotated[str, AfterValidator(_path)]
_Inline = Annotated[
    Annotated[str, Tag("text")] | Annotated[_Recipient, Tag("mapping")],
    Discriminator(lambda value: "mapping" if isinstance(value, dict) else "text"),
]
_Recipients = Annotated[
    Annotated[_Path, Tag("file")] | Annotated[list[_Inline], Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, list) else "file"),
]


class _Form(Section):
    sender: SenderField
    message: _Path = DEFAULT_MESSAGE
    recipients: _Recipients | None = None
    description: str = ""
    relay: Annotated[str, Field(min_length=1)] = DEFAULT_RELAY
    expect: Annotated[Expect, Read(_Expect, _Expect.value)] = Expect()
    send_after: Moment | None = None
    expires: DurationOrMoment | None = None
    windows: WindowsField = Windows.always()
    timezone: ZoneField | None = None
    rate: RateField | None = None
    domain_rates: DomainRates = Field(default_factory=dict)
    retry: RetryField | None = None
    on_uncertain: Annotated[OnUncertain, Read(Literal["resend", "hold"], OnUncertain)] = OnUncertain.RESEND
    priority: Annotated[Priority, Read(Literal["low", "normal", "high"], Priority)] = Priority.NORMAL
    strict: bool = False
    allow_duplicate: bool = False


def _aware(key: str, moment: datetime | None, zone: tzinfo, notes: list[str]) -> datetime | None:
    if moment is None or moment.tzinfo is not None:
        return moment
    name = zone.key if isinstance(zone, ZoneInfo) else str(zone)
    aware = moment.replace(tzinfo=zone)
    notes.append(f"{key} has no offset from UTC; taken as {name} time: {aware.isoformat()}")
    return aware


def _recipients(
    document: Document, recipients: str | list[str | _Recipient] | None
) -> str | tuple[InlineRecipient, ...] | None:
    if not isinstance(recipients, list):
        return recipients
    return tuple(
        InlineRecipient(document.position(("recipients", index))[0], item, None)
        if isinstance(item, str)
        else InlineRecipient(document.position(("recipients", index))[0], item.address, item.message)
        for index, item in enumerate(recipients)
    )
