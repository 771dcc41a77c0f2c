"""What became of a recipient in one transaction, and how far a reply reaches.

This module owns the reading of SMTP replies: the one place that decides whether a refusal concerns a recipient, a
message, the session or the whole relay. Replies are values; nothing here raises for what a server says.
"""

import re
from dataclasses import dataclass
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


class FaultKind(StrEnum):
    """What is wrong with a relay; each has its remedy in `REMEDIES`."""

    DNS = "dns"
    CONNECT = "connect"
    GREETING = "greeting"
    TLS = "tls"
    LOGIN = "login"
    BUSY = "busy"
    FULL = "full"
    UNSTABLE = "unstable"
    CONFIGURATION = "configuration"


REMEDIES = {
    FaultKind.DNS: "check the relay's `host` in the configuration and this machine's DNS",
    FaultKind.CONNECT: "check the relay's `host` and `port`, that it runs, and the firewall between",
    FaultKind.GREETING: "check that `host` and `port` lead to an SMTP server that lets this machine in",
    FaultKind.TLS: "check `security`, the relay's certificate and, for a private CA, `ca_file`",
    FaultKind.LOGIN: "check the relay's `username` and its `password_file` or `credential`",
    FaultKind.BUSY: "nothing, if it passes; else lower `connections` or ask the relay's administrator",
    FaultKind.FULL: "the relay's administrator must free disk space there",
    FaultKind.UNSTABLE: "look into the relay's log: it ends or stalls the connection in the middle of a message",
    FaultKind.CONFIGURATION: "compare the relay's settings with what its administrator gave you",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """A relay's trouble: `text` says what happened, `remedy` what to do about it."""

    kind: FaultKind
    text: str

    @property
    def remedy(self) -> str:
        return REMEDIES[self.kind]

    def __str__(self) -> str:
        return f"{self.text}; to do: {self.remedy}"


_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s+|$)")


class Reply(NamedTuple):
    """One SMTP reply (RFC 5321 §4.2): `code`, and the text of all its lines joined by spaces, printable."""

    code: int
    text: str

    @property
    def enhanced(self) -> str | None:
        """The enhanced status code (RFC 2034) when the text begins with one of the reply's own class."""
        match = _ENHANCED.match(self.text)
        return match[1] if match and int(match[1][0]) == self.code // 100 else None

    @property
    def positive(self) -> bool:
        return 200 <= self.code < 300

    def __str__(self) -> str:
        return f"{self.code} {self.text}".rstrip()


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


class Verdict(NamedTuple):
    """The reading of one reply: the recipient's outcome, and what it means beyond that recipient."""

    outcome: Outcome
    fault: Fault | None = None
    """The relay's own trouble: it backs off."""
    close: bool = False
    """The connection must not be used again."""
    too_many: bool = False
    """RFC 5321 §4.5.3.1.10: no more recipients in this transaction; the refused ones go into the next."""


_PUSH_BACK = re.compile(
    r"too many (connections|messages|recipients|requests|errors|concurrent)|rate limit|connection limit|throttl|slow down",
    re.I,
)


def is_push_back(reply: Reply) -> bool:
    """Whether a temporary refusal of a recipient asks for fewer connections rather than for patience with this recipient."""
    return 400 <= reply.code < 500 and _PUSH_BACK.search(reply.text) is not None


#: Python 3.11 takes its time to look up an enumeration's member, and this one is in every accepted message's way.
_SENT = Result.SENT
_AUTH_CODES = frozenset({530, 534, 535, 538})


def read_reply(command: Command, reply: Reply, *, accepted: int = 0, earlier: int = 0) -> Verdict:
    """What `reply` to `command` means; `accepted` is the number of recipients taken before it in the transaction,
    `earlier` that of transactions before it in the session (MAIL), or of recipients answered before it (RCPT).

    A reply that opens the data (354) is not for this function. A reply that no rule foresees is temporary.
    """
    code, enhanced = reply.code, reply.enhanced
    if 200 <= code < 300:
        return Verdict(Outcome(_SENT, enhanced or ("2.1.5" if command is Command.RCPT else "2.0.0"), f"{reply}", code))
    diagnostic = f"{reply}" if command is Command.RCPT else f"{reply} (in reply to {command.value})"
    returned = Outcome(Result.RETURNED, enhanced or f"{str(code)[0]}.0.0", diagnostic, code)
    if command is Command.MAIL and earlier and (code == 421 or (code == 452 and enhanced == "4.5.3")):
        # So many messages a session, and no more: Exim and OpenSMTPD. If it is another trouble, the next session tells.
        return Verdict(returned, close=True)
    if command is Command.RCPT and earlier and code == 421 and "too many errors" in reply.text.lower():
        # Postfix's smtpd_hard_error_limit: so many unknown recipients a session.
        return Verdict(returned, close=True)
    if code == 421:
        return Verdict(returned, Fault(FaultKind.BUSY, f"the relay ends the session: {reply}"), close=True)
    if code in _AUTH_CODES or (code == 454 and (enhanced or "").startswith("4.7.")):
        kind = FaultKind.TLS if "STARTTLS" in reply.text.upper() else FaultKind.LOGIN
        return Verdict(returned, Fault(kind, f"the relay wants a login or TLS first: {reply}"), close=True)
    if enhanced == "4.3.1" or (code == 452 and enhanced is None and command is not Command.RCPT):
        return Verdict(returned, Fault(FaultKind.FULL, f"the relay is short of storage: {reply}"))
    if command is Command.RCPT and accepted and code in (452, 552) and enhanced in ("4.5.3", "5.5.3", None):
        return Verdict(returned, too_many=True)
    if command is Command.RCPT and code == 552 and enhanced == "5.5.3":
        # The old form of 452 (RFC 5321 §4.5.3.1.10): temporary even where no recipient had been taken.
        return Verdict(_refused(Result.DEFERRED, reply, diagnostic, "4.5.3"))
    if code == 503 and (enhanced is None or enhanced.startswith("5.5.")):
        return Verdict(_refused(Result.DEFERRED, reply, diagnostic, "4.5.1"), close=True)
    if 500 <= code < 600:
        default = _DEFAULT_STATUS.get(code, "5.0.0") if command is Command.RCPT else "5.0.0"
        return Verdict(_refused(Result.FAILED, reply, diagnostic, enhanced or default))
    if 400 <= code < 500:
        return Verdict(_refused(Result.DEFERRED, reply, diagnostic, enhanced or "4.0.0"))
    return Verdict(_refused(Result.DEFERRED, reply, diagnostic, "4.5.0"), close=True)


#: What RFC 5321 §4.2.3 says a code means in reply to RCPT; elsewhere it says nothing of the address.
_DEFAULT_STATUS = {550: "5.1.1", 551: "5.1.6", 552: "5.2.2", 553: "5.1.3"}


def _refused(result: Result, reply: Reply, diagnostic: str, status: str) -> Outcome:
    return Outcome(result, status, diagnostic, reply.code, bounce_category(status, reply.text))


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
