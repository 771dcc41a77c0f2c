"""The keys of spoold.yaml (CONTRACT §7): their types, limits and defaults, and the manual's texts for them.

What they mean together (a fallback that exists, a password with a username) is `config`'s to say.
"""

from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, PlainValidator, WithJsonSchema

from spoold.core.completeness import IntakePolicy
from spoold.core.document.field import (
    AddressField,
    DomainRates,
    Duration,
    HostField,
    RateField,
    RelayName,
    RetryField,
    Size,
    WindowsField,
    ZoneField,
)
from spoold.core.document.form import Section, key
from spoold.core.document.pattern import KEEP
from spoold.core.problem import shown
from spoold.core.quantity import DURATION_FORM, parse_duration
from spoold.core.schedule.retry import DEFAULT
from spoold.core.schedule.window import Windows
from spoold.smtp.relay import Timeouts


class TimeoutsSection(Section):
    connect: Duration = key("For the connection, TLS and login.", Timeouts().connect, written="30s")
    command: Duration = key("For the answer to a command.", Timeouts().command, written="5m")
    data: Duration = key("For the relay to take more of a message.", Timeouts().data, written="3m")
    final: Duration = key("For the answer to the final dot.", Timeouts().final, written="10m")


class RelaySection(Section):
    host: HostField = key("The relay's name or IP address.")
    port: Annotated[int, Field(ge=1, le=65535)] | None = key("Without it 25, 587 or 465, by `security`.", None)
    security: Literal["none", "starttls", "tls"] = key(
        "How the connection is encrypted. Certificates are verified. A password is never sent in clear to another"
        " machine.",
        "starttls",
    )
    ca_file: str | None = key("A file with certificates of a private authority that is trusted too.", None)
    username: str | None = key("For the login; it needs `password_file` or `credential`.", None)
    password_file: str | None = key("A file with the password, one line, mode 0600.", None)
    credential: str | None = key("Instead of it, under systemd: the name in LoadCredential=.", None)
    connections: int = key("At most so many at a time.", 20, ge=1, le=1000)
    recipients_per_message: int = key(
        "Of those who get the same message, so many in one transaction.", 100, ge=1, le=10000
    )
    rate: RateField | None = key("At most so many recipients through this relay, evenly.", None)
    fallback: str | None = key("Another relay, to use while this one is down.", None)
    timeouts: TimeoutsSection = key("How long to wait for the relay: RFC 5321's times.", TimeoutsSection())


class IntakeSection(Section):
    settle: Duration = key(
        "How long an upload that nobody marked as complete must have been at rest.",
        IntakePolicy().settle,
        written="30s",
    )
    stale: Duration = key(
        "An incomplete upload without change for so long is rejected.", IntakePolicy().stale, written="1d"
    )
    quiet: bool = key(
        "Take uploads that nobody marked as complete, once consistent and at rest. false: only those that are sealed,"
        " READY or renamed in.",
        True,
    )
    max_recipients: int = key("At most so many in one job.", IntakePolicy().max_recipients, ge=1)
    max_message: Size = key("The largest message file.", IntakePolicy().max_message, written="50MB")
    max_time: Duration = key(
        "An upload that takes longer to hash, copy and examine is rejected.", IntakePolicy().max_time, written="1h"
    )


class LogSection(Section):
    format: Literal["auto", "console", "json"] = key("auto: console on a terminal, else JSON.", "auto")
    level: Literal["debug", "info", "warning", "error"] = key("What is logged: this and what is worse.", "info")


def _keep_done(value: object) -> float | None:
    if value == "forever":
        return None
    form = f"{DURATION_FORM}, or forever"
    if not isinstance(value, str):
        raise ValueError(f"expected {form}; got {shown(value)}")
    try:
        return parse_duration(value)
    except ValueError:
        raise ValueError(f"expected {form}; got {shown(value)}") from None


class ReportSection(Section):
    csv_formulas: Literal["escape", "keep"] = key(
        "What begins with = + - @ in a list for a spreadsheet: escape puts an apostrophe before it, so that it is shown and not"
        " worked out; keep leaves it as it is.",
        "escape",
    )


class ConfigForm(Section):
    """The keys of spoold.yaml, with the texts that the manual and the JSON Schema have for them."""

    spool: str = key("The folder with tmp/, new/, active/, deferred/ and done/.", min_length=1)
    relays: dict[RelayName, RelaySection] = key(
        "Where mail goes, by name. A job says `relay: NAME`; without it, it takes the one called `default`.",
        min_length=1,
    )
    timezone: ZoneField = key(
        "For windows, for moments without an offset, and for reports, of jobs that name none.",
        ZoneInfo("UTC"),
        written="UTC",
    )
    rate: RateField | None = key("At most so many recipients, evenly, through all relays together.", None)
    domain_rates: DomainRates = key(
        'The same by the recipient\'s domain, sub-domains not included; "*" is every other one.',
        default_factory=dict,
        written={},
    )
    windows: WindowsField = key(
        "When the agent may send at all, read by the clock of `timezone`. An empty list means always.",
        Windows.always(),
        written=[],
    )
    retry: RetryField = key(
        "When to try again after a temporary refusal, for jobs that do not say.",
        DEFAULT,
        written={"every": "1h", "for": "5d"},
    )
    intake: IntakeSection = key("When an upload is taken, and how large it may be.", IntakeSection())
    keep_done: Annotated[float | None, PlainValidator(_keep_done), WithJsonSchema(KEEP)] = key(
        "Then a finished job's folder is removed; `forever` keeps it.", 30 * 86400.0, written="30d"
    )
    notify: AddressField | None = key("Who gets a summary mail whenever a job ends.", None)
    report: ReportSection = key("What is written back into a job.", ReportSection())
    log: LogSection = key("How the agent logs, on standard error.", LogSection())
