"""One recipient's delivery status as a message: multipart/report of RFC 3464 and 6522.

What the relay's next hops could tell is not known here: this is the report of the agent, to whoever sent the job, of
what the relay said to it. Lines are CRLF and everything is 7 bit; an address that is not ASCII is written in the 7-bit
form of RFC 6533 §3.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, tzinfo
from email import policy
from email.message import Message
from email.mime.text import MIMEText
from email.utils import format_datetime
from hashlib import sha256
from quopri import encodestring
from textwrap import wrap

from spoold.core.moment import for_people
from spoold.core.problem import printable
from spoold.core.recipient.address import AddressError, parse_address
from spoold.core.state import RecipientState
from spoold.storage.archive import Undelivered

#: Each line of what is generated, but for one word that is longer.
_WIDTH = 76
_POLICY = policy.compat32.clone(linesep="\r\n", max_line_length=_WIDTH)
_STATUS = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}")
_IN_REPLY = re.compile(r" \(in reply to [^()]*\)$")
#: RFC 6533 §3, QCHAR: what stands for itself.
_PLAIN = re.compile(r"[!-*,-<>-\[\]-~]")


@dataclass(frozen=True, slots=True)
class Origin:
    """What the reports of a job have in common. `host` is this machine's name, `accepted_at` in POSIX seconds."""

    job: str
    sender: str
    host: str
    accepted_at: float
    zone: tzinfo


def delivery_status(origin: Origin, recipient: Undelivered, header: bytes | None, until: float | None) -> bytes:
    """The message about one recipient that is failed, expired or deferred.

    `header` is the header block as it was sent, None where it is not known; `until` is when a deferred recipient is
    given up.
    """
    delayed = recipient.state is RecipientState.DEFERRED
    whole = Message(policy=_POLICY)
    at = recipient.last_attempt_at or origin.accepted_at
    whole["From"] = f"Mail Delivery System <MAILER-DAEMON@{origin.host}>"
    whole["To"] = _raw(origin.sender)
    whole["Subject"] = "Mail is delayed" if delayed else "Mail could not be delivered"
    whole["Date"] = _date(at, origin.zone)
    token = sha256(f"{origin.job} {recipient.number} {recipient.attempts}".encode()).hexdigest()[:24]
    whole["Message-ID"] = f"<{token}.dsn@{origin.host}>"
    whole["Auto-Submitted"] = "auto-replied"
    whole["MIME-Version"] = "1.0"
    whole.add_header("Content-Type", "multipart/report", **{"report-type": "delivery-status"})
    whole.preamble = "This is a delivery status notification in MIME format."
    whole.attach(MIMEText(_words(origin, recipient, until if delayed else None), "plain", _charset(recipient)))

    status = Message(policy=_POLICY)
    status["Content-Type"] = "message/delivery-status"
    status["Content-Description"] = "Delivery status"
    about = Message(policy=_POLICY)
    about["Reporting-MTA"] = f"dns; {origin.host}"
    about["Arrival-Date"] = _date(origin.accepted_at, origin.zone)
    about["X-Spoold-Job"] = origin.job
    fields = Message(policy=_POLICY)
    fields["Final-Recipient"] = _final(recipient.address)
    fields["Action"] = "delayed" if delayed else "failed"
    fields["Status"] = _status(recipient)
    if recipient.remote_mta:
        fields["Remote-MTA"] = f"dns; {_ascii_text(recipient.remote_mta)}"
    if recipient.diagnostic:
        fields["Diagnostic-Code"] = _diagnostic(recipient)
    if recipient.last_attempt_at is not None:
        fields["Last-Attempt-Date"] = _date(recipient.last_attempt_at, origin.zone)
    if delayed and until is not None:
        fields["Will-Retry-Until"] = _date(until, origin.zone)
    fields["X-Spoold-Line"] = str(recipient.line)
    status.set_payload([about, fields])
    whole.attach(status)

    if header is not None:
        whole.attach(_original(header))
    return whole.as_bytes()


def _words(origin: Origin, recipient: Undelivered, until: float | None) -> str:
    address = printable(recipient.address, 400)
    if recipient.state is RecipientState.DEFERRED:
        lines = ["Your mail has not been delivered yet to", "", f"    <{address}>", ""]
        lines += [f"It is tried again until {for_people(until, origin.zone)}." if until else "It is tried again."]
        lines += ["You need not send it again."]
    else:
        lines = ["Your mail could not be delivered to", "", f"    <{address}>", "", "It is not tried again."]
    if recipient.diagnostic:
        who = f"{printable(recipient.remote_mta)} said" if recipient.remote_mta else "The reason"
        said = wrap(printable(recipient.diagnostic, 900), _WIDTH - 4, break_long_words=False, break_on_hyphens=False)
        lines += ["", f"{who}:", "", *(f"    {line}" for line in said)]
    lines += ["", f"It belongs to the job {origin.job} (line {recipient.line} of its recipients)."]
    return "\n".join(lines) + "\n"


def _date(seconds: float, zone: tzinfo) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, zone))


def _charset(recipient: Undelivered) -> str:
    texts = (recipient.address, recipient.diagnostic or "", recipient.remote_mta or "")
    return "us-ascii" if all(text.isascii() for text in texts) else "utf-8"


def _status(recipient: Undelivered) -> str:
    """RFC 3464 §2.3.4."""
    if recipient.status and _STATUS.fullmatch(recipient.status):
        return recipient.status
    return "4.0.0" if recipient.state is RecipientState.DEFERRED else "5.0.0"


def _diagnostic(recipient: Undelivered) -> str:
    """RFC 3464 §2.3.6: of type *smtp* if it is what the relay said, else in our own words."""
    text = _ascii_text(recipient.diagnostic or "")
    if recipient.code and text.startswith(str(recipient.code)):
        return f"smtp; {_IN_REPLY.sub('', text)}"
    return f"X-Spoold; {text}"


def _original(header: bytes) -> Message:
    """RFC 6522 §4: the header block alone; quoted-printable where it is not ASCII."""
    part = Message(policy=_POLICY)
    part["Content-Type"] = "text/rfc822-headers"
    part["Content-Description"] = "Header of the undelivered message"
    text = header.replace(b"\r\n", b"\n")
    if text.isascii():
        part.set_payload(text.decode("ascii"))
        return part
    part.replace_header("Content-Type", 'text/rfc822-headers; charset="utf-8"')
    part["Content-Transfer-Encoding"] = "quoted-printable"
    part.set_payload(encodestring(text).decode("ascii"))
    return part


def _final(address: str) -> str:
    """RFC 3464 §2.3.2; of type *utf-8* (RFC 6533 §3) if it is not ASCII; a type of our own for what is no address."""
    try:
        parse_address(address)
    except AddressError:
        return f"X-Invalid; {_ascii_text(address)}"
    return f"rfc822; {address}" if address.isascii() else f"utf-8; {''.join(_xtext(address))}"


def _xtext(text: str) -> Iterator[str]:
    for char in text:
        yield char if _PLAIN.fullmatch(char) else f"\\x{{{ord(char):02X}}}"


def _ascii_text(text: str) -> str:
    return printable(text, 900).encode("ascii", "backslashreplace").decode("ascii")


def _raw(address: str) -> str:
    """An address for a header field; UTF-8 goes out as it is (RFC 6532 §3.2)."""
    return address.encode().decode("ascii", "surrogateescape")
