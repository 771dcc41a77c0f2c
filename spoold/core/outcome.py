"""What became of a recipient in one transaction, and in which category a refusal is counted."""

import re
from enum import Enum, StrEnum
from typing import NamedTuple

from spoold.core.problem import printable


class Command(StrEnum):
    """The step of a transaction that a reply belongs to (RFC 5321 §3.3); DOT is the end of the data."""

    CONNECT = "connection"
    MAIL = "MAIL FROM"
    RCPT = "RCPT TO"
    DATA = "DATA"
    DOT = "end of data"


class Result(Enum):
    """What one transaction means for one recipient."""

    SENT = "sent"
    FAILED = "failed"
    DEFERRED = "deferred"
    UNCERTAIN = "uncertain"
    RETURNED = "returned"
    """Back to the queue at no cost: the fault is not the recipient's, and it does not count as an attempt."""


class Outcome(NamedTuple):
    """What one transaction says of one recipient.

    `status` is an enhanced status code (RFC 3463); `code` the SMTP reply code or None for a reason found here;
    `diagnostic` one printable line; `category` a bounce category in PowerMTA's words, None when nothing bounced.
    """

    result: Result
    status: str
    diagnostic: str
    code: int | None = None
    category: str | None = None


def lost(command: Command, reason: str) -> Outcome:
    """The connection broke before the final dot had left: the message cannot have been taken (RFC 5321 §4.1.1.4)."""
    return Outcome(Result.DEFERRED, "4.4.2", f"{reason} (after {command.value})", None, category="bad-connection")


def unknown(reason: str) -> Outcome:
    """The final dot had left and no reply came: whether the relay took the message cannot be known."""
    return Outcome(
        Result.UNCERTAIN,
        "4.4.2",
        f"{reason} (after the end of data; it may have been sent)",
        None,
        "bad-connection",
    )


def returned(reason: str) -> Outcome:
    """Nothing was tried."""
    return Outcome(Result.RETURNED, "4.4.1", reason)


def failed(status: str, reason: str) -> Outcome:
    """A reason found here, before any relay was asked."""
    return Outcome(Result.FAILED, status, printable(reason, 500), None, bounce_category(status, reason))


def deferred(status: str, reason: str) -> Outcome:
    """A temporary reason found here."""
    return Outcome(Result.DEFERRED, status, printable(reason, 500), None, bounce_category(status, reason))


_BY_TEXT = (
    (re.compile(r"spam|blacklist|block ?list|dnsbl|rbl|reputation|bulk", re.I), "spam-related"),
    (re.compile(r"virus|malware|infected", re.I), "virus-related"),
    (re.compile(r"relay(ing)?\b.{0,20}(denied|not permitted|not allowed|prohibited)|not relay", re.I), "relaying-issues"),
    (re.compile(r"quota|mailbox (is )?full|over ?quota|insufficient storage", re.I), "quota-issues"),
    (re.compile(r"(disabled|inactive|suspended|deactivated)", re.I), "inactive-mailbox"),
    (re.compile(r"gr[ea]ylist|try again later|rate limit|too many", re.I), "policy-related"),
    (re.compile(r"(user|mailbox|recipient|address).{0,40}(unknown|not found|does ?n.t exist|no such)|no such user", re.I), "bad-mailbox"),
)  # fmt: skip

_BY_STATUS = (
    ("1.2", "bad-domain"), ("1.7", "invalid-sender"), ("1.8", "invalid-sender"), ("1.10", "bad-domain"),
    ("1", "bad-mailbox"), ("2.1", "inactive-mailbox"), ("2.2", "quota-issues"), ("2.3", "content-related"),
    ("2", "bad-mailbox"), ("3.4", "content-related"), ("3.5", "bad-configuration"), ("3", "other"),
    ("4.1", "no-answer-from-host"), ("4.2", "bad-connection"), ("4.7", "message-expired"), ("4", "routing-errors"),
    ("5", "protocol-errors"), ("6", "content-related"), ("7", "policy-related"),
)  # fmt: skip


def bounce_category(status: str, text: str) -> str:
    """PowerMTA's word for a refusal: by its text where that is telling, else by its enhanced status code."""
    for pattern, category in _BY_TEXT:
        if pattern.search(text):
            return category
    detail = status.partition(".")[2]
    for prefix, category in _BY_STATUS:
        if detail == prefix or detail.startswith(prefix + "."):
            return category
    return "other"
