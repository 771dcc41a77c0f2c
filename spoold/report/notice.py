"""The summary mail about a job that has ended: what `status.txt` says, why recipients got nothing, and who they are.

It answers nobody and wants no answer: Auto-Submitted (RFC 3834 §5) says so, and whoever sends it gives it the null sender.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from itertools import chain

from spoold.core.moment import for_people
from spoold.core.problem import printable
from spoold.core.quantity import format_duration
from spoold.core.state import JobState, RecipientState
from spoold.report.status import Status
from spoold.storage.ledger import ReplyTally

#: The states of recipients that a summary names: what was sent needs no look.
NAMED = (RecipientState.FAILED, RecipientState.EXPIRED, RecipientState.CANCELLED, RecipientState.UNCERTAIN)
ATTACHMENT = "failures.csv"
_REASONS = 20
_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Failures:
    """Rows as recipients.csv has them, with its header line; `rows` of how many, `total`, found room."""

    csv: bytes
    rows: int
    total: int


def failures(table: Iterable[bytes], total: int, limit: int) -> Failures:
    """As many rows of a table of `total` rows, with its header line, as go into `limit` bytes; little more of it is
    read.
    """
    pieces = iter(table)
    text = bytearray(next(pieces))
    heading = len(text)
    limit = max(limit, heading)
    for rows in pieces:
        text += rows
        if len(text) > limit:
            break
    end = limit
    while len(text) > limit:
        end = text.rfind(b"\r\n", heading - 2, end)
        if text.count(b'"', 0, end) % 2 == 0:  # else it is a cell's
            del text[end + 2 :]
    count = sum(part.count(b"\r\n") for part in bytes(text).split(b'"')[::2]) - 1
    return Failures(bytes(text), count, total)


def notice(
    status: Status, reasons: Sequence[ReplyTally], found: Failures, *, address: tuple[str, str], host: str, token: str
) -> bytes:
    """The message, 7 bit but for an address that is not ASCII.

    `address`, local part and domain, is whom it is for and, for want of another, whom it is from: a domain of the
    reader's own passes every check. `host` is this machine's name, `token` makes the Message-ID one of its kind.
    """
    ascii_only = all(part.isascii() for part in address)
    message = EmailMessage(SMTP.clone(utf8=not ascii_only, cte_type="7bit"))
    mailbox = Address(username=_unquoted(address[0]), domain=address[1])
    message["From"] = Address("spoold", mailbox.username, mailbox.domain)
    message["To"] = mailbox
    message["Subject"] = f"spoold: {status.job.name}: {_outcome(status)}"
    message["Date"] = datetime.fromtimestamp(status.now, status.zone)
    message["Message-ID"] = f"<{token}.spoold@{address[1]}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(_text(status, reasons, found, host))
    if found.rows:
        message.add_attachment(found.csv, "text", "csv", filename=ATTACHMENT, params={"charset": "utf-8"})
    return message.as_bytes()


def _unquoted(local: str) -> str:
    return local[1:-1].replace("\\", "") if local.startswith('"') else local


def _outcome(status: Status) -> str:
    """The end in one line."""
    if status.job.state is JobState.REJECTED:
        return "rejected, nothing was sent"
    parts = [f"{status.counts.get(RecipientState.SENT, 0)} of {status.job.total} sent"]
    parts += [f"{status.counts[state]} {state.label}" for state in NAMED if status.counts.get(state)]
    return f"{status.job.state.value}, {', '.join(parts)}"


def _text(status: Status, reasons: Sequence[ReplyTally], found: Failures, host: str) -> str:
    job, zone = status.job, status.zone
    facts = [
        ("Description", status.description),
        ("Sender", f"<{printable(status.sender)}>"),
        ("Accepted", for_people(job.accepted_at, zone)),
        ("Ended", for_people(job.since, zone)),
        ("Duration", format_duration(max(job.since - job.accepted_at, 0.0))),
        ("Recipients", str(job.total)),
    ]
    if job.state is JobState.REJECTED:
        facts = [fact for fact in facts if fact[0] in ("Accepted", "Ended")]
    lines = [f"{job.name}: {_outcome(status)}", ""]
    lines += [f"{name + ':':13}{value}" for name, value in facts if value]
    if any(status.counts.values()):
        lines += ["", *(f"  {state.label:<10} {count:>9}" for state, count in status.counts.items() if count)]
    why = [reason for reason in reasons if reason.result in {state.label for state in NAMED}]
    if why:
        lines += ["", "Why, most frequent first, with an example:"]
        lines += [
            f"  {reason.count:>9}  {reason.result}: {printable(reason.example, 300)}" for reason in why[:_REASONS]
        ]
        if len(why) > _REASONS:
            lines.append("  … and other reasons")
    for title, problems in (("Errors", job.errors), ("Warnings", job.warnings)):
        if problems:
            lines += ["", f"{title}:", *(f"  {printable(problem, 300)}" for problem in problems[:_PROBLEMS])]
            if len(problems) > _PROBLEMS:
                lines.append(f"  … and {len(problems) - _PROBLEMS} more")
    lines += ["", *_about(found), f"The whole report is in done/{job.name}/report/ of the spool on {host}."]
    return "\n".join(lines) + "\n"


def _about(found: Failures) -> Iterable[str]:
    if not found.total:
        return ()
    if found.rows == found.total:
        return (f"Those who were not sent to are in {ATTACHMENT}.",)
    first = f"The first {found.rows} of " if found.rows else ""
    there = f"are in {ATTACHMENT}; all" if found.rows else "are too many for this mail; all"
    return chain((f"{first}{found.total} recipients who were not sent to {there} are in recipients.csv.",))
