"""The job's manifest, `job.yaml` (CONTRACT §2): the user's wishes for one job, all of them, and nothing else.

Owns its keys, defaults and rules. Does not look whether the files it names are there, nor validate
recipients: a bad one is that recipient's failure, not the manifest's. An edited manifest is read again by
the same function.
"""

import functools
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from enum import StrEnum
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Discriminator, Tag, WithJsonSchema

from spoold.core.document.field import (
    DomainRates,
    DurationOrMoment,
    Moment,
    RateField,
    RetryField,
    SenderField,
    WindowsField,
    ZoneField,
)
from spoold.core.document.form import Read, Section, key, validate
from spoold.core.document.pattern import PATH
from spoold.core.document.reader import Document, DocumentError, load
from spoold.core.problem import Problem, printable
from spoold.core.schedule.rate import Rate
from spoold.core.schedule.retry import RetryPolicy
from spoold.core.schedule.window import Windows
from spoold.core.state import OnUncertain

DEFAULT_MESSAGE = "message.eml"
DEFAULT_RELAY = "default"
#: A manifest up to this size, in bytes, is kept for when it comes again: many jobs have the same.
SHORT = 4096


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
    return (_parse_again if len(data) <= SHORT else _parse)(data, name, zone)


def _parse(data: bytes, name: str, zone: tzinfo) -> Manifest:
    document = load(data, name)
    form = validate(document, ManifestForm)
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


_parse_again = functools.lru_cache(maxsize=256)(_parse)


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
    address: str = key("Who gets it.")
    message: str | None = key("The file with this recipient's own message.", None)


class _Expect(Section):
    recipients: int | None = key("How many recipients there are.", None, ge=1)
    messages: int | None = key("How many message files there are.", None, ge=1)

    def value(self) -> Expect:
        return Expect(self.recipients, self.messages)


_Path = Annotated[str, AfterValidator(_path), WithJsonSchema(PATH)]
_Inline = Annotated[
    Annotated[str, Tag("text")] | Annotated[_Recipient, Tag("mapping")],
    Discriminator(lambda value: "mapping" if isinstance(value, dict) else "text"),
]
_Recipients = Annotated[
    Annotated[_Path, Tag("file")] | Annotated[list[_Inline], Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, list) else "file"),
]


class ManifestForm(Section):
    """The keys of job.yaml, with the texts that the manual and the JSON Schema have for them."""

    sender: SenderField = key(
        'The envelope sender (MAIL FROM): where bounces go. `""` is the null sender. What people see as the sender is'
        " the From field of the message."
    )
    message: _Path = key("The message for everybody who has none of their own.", DEFAULT_MESSAGE)
    recipients: _Recipients | None = key(
        "A file, .csv with a header line and the column `address`, or .txt with one address a line; or the list itself,"
        " `[ada@example.org, {address: bob@example.org, message: messages/2.eml}]`. Without it recipients.csv or"
        " recipients.txt.",
        None,
    )
    description: str = key("Free text, shown in reports.", "")
    relay: str = key("A relay that the agent's configuration names.", DEFAULT_RELAY, min_length=1)
    expect: Annotated[Expect, Read(_Expect, _Expect.value)] = key(
        "Counts that must be met before the job is taken, so that a list that was cut is not sent to half the people.",
        Expect(),
    )
    send_after: Moment | None = key("Not before this moment.", None)
    expires: DurationOrMoment | None = key(
        "Give up on what is still unsent: so long after the job was taken, or at this moment.", None
    )
    windows: WindowsField = key(
        "When it may be sent: the weekly schedule, read by the clock of `timezone`. An empty list means always.",
        Windows.always(),
        written=[],
    )
    timezone: ZoneField | None = key(
        "For windows, for moments without an offset, and for the report. Without it the agent's.", None
    )
    rate: RateField | None = key("At most so many recipients, evenly.", None)
    domain_rates: DomainRates = key(
        'The same by the recipient\'s domain, sub-domains not included; "*" is every other one.',
        default_factory=dict,
        written={},
    )
    retry: RetryField | None = key("When to try again after a temporary refusal. Without it as the agent does.", None)
    on_uncertain: Annotated[OnUncertain, Read(Literal["resend", "hold"], OnUncertain)] = key(
        "What becomes of recipients of whom nobody can know whether they were sent to: sent again after 15 minutes, or"
        " left for `spoold retry --uncertain JOB`.",
        OnUncertain.RESEND,
    )
    priority: Annotated[Priority, Read(Literal["low", "normal", "high"], Priority)] = key(
        "Which jobs get more turns.", Priority.NORMAL
    )
    strict: bool = key("true: any bad recipient rejects the whole job, instead of failing alone.", False)
    allow_duplicate: bool = key("true: the same content may be sent once more while an earlier job is known.", False)


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
