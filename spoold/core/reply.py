"""SMTP replies, and how far each reaches.

The one place that decides whether a refusal concerns a recipient, a message, the session or the whole relay. Replies are values;
nothing here raises for what a server says.
"""

import re
from typing import NamedTuple

from spoold.core.fault import Fault, FaultKind
from spoold.core.outcome import Command, Outcome, Result, bounce_category

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
