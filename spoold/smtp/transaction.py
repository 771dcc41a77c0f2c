"""One mail transaction as it stands between two replies (RFC 5321 §3.3): what to say next, and what came of whom.

No socket and no clock: a session tells a transaction every reply in the order of its commands and does what that answers.
Pipelined (RFC 2920), MAIL, every RCPT and DATA are one group, and the replies only decide whether the body follows.
"""

import functools
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NamedTuple

from spoold.core.fault import Fault, FaultKind
from spoold.core.outcome import Command, Outcome, deferred, failed, lost, returned, unknown
from spoold.core.reply import Reply, Verdict, is_push_back, read_reply
from spoold.failpoint import failpoint

DOT = b".\r\n"


class Envelope(NamedTuple):
    """Who a message is from and for. `size` is the message's size on the wire in bytes (RFC 1870)."""

    sender: str
    recipients: Sequence[str]
    size: int
    eight_bit: bool
    smtputf8: bool


@dataclass(slots=True)
class Transaction:
    """What came of one transaction: an outcome for each recipient, in order, and what it says of the relay."""

    outcomes: list[Outcome]
    fault: Fault | None = None
    dropped: str | None = None
    """Why the connection broke or fell out of step in the middle, None if it did not."""
    limit: int | None = None
    """The relay takes no more than this many recipients in a transaction."""
    pushed_back: bool = False
    """The relay wants less at a time."""
    bug: Exception | None = None
    """An error that nobody foresaw; the recipients were treated as if the connection had broken."""


class Turn(Enum):
    """What a session does after a reply, where that is not to send a command."""

    WAIT = auto()
    """Another reply is still to come."""
    BODY = auto()
    """Send the body and the final dot."""
    DONE = auto()


class At:
    """Which reply is waited for: in BODY none, until the dot is written; VOID is that to a dot without recipients."""

    MAIL: Final = 0
    RCPT: Final = 1
    DATA: Final = 2
    BODY: Final = 3
    DOT: Final = 4
    VOID: Final = 5
    RSET: Final = 6
    OVER: Final = 7


#: Python 3.11 takes longer to look up a member of an enumeration than to do what a reply asks for (so `At` is none).
WAIT: Final = Turn.WAIT
BODY: Final = Turn.BODY
DONE: Final = Turn.DONE


class Exchange:
    """See the module. `body`, `done` and `may_go` are the session's; `number` counts the connection's transactions from 1."""

    __slots__ = (
        "_accepted", "_envelope", "_index", "_mail", "_mail_taken", "_pipelining", "_pushed_back",
        "answered", "at", "body", "close", "done", "dot_written", "fault", "limit", "may_go", "number", "outcomes", "step",
    )  # fmt: skip

    def __init__(
        self,
        envelope: Envelope,
        extensions: dict[str, str],
        pipelining: bool,
        body: bytes | AsyncIterator[bytes],
        done: Callable[[Transaction], None],
        may_go: Callable[[], bool],
    ) -> None:
        self._envelope = envelope
        self._mail = _mail(envelope, extensions)
        self._pipelining = pipelining
        self._mail_taken = False
        self._accepted: list[int] = []
        self._index = 0
        self._pushed_back = False
        self.body = body
        self.done = done
        self.may_go = may_go
        self.number = 0
        self.at: int = At.MAIL
        self.step = Command.MAIL
        """How far the transaction has come, for people."""
        self.answered = False
        self.dot_written = False
        self.close = False
        """The connection must not be used again."""
        self.fault: Fault | None = None
        self.limit: int | None = None
        self.outcomes: list[Outcome | None] = [None] * len(envelope.recipients)

    def opening(self) -> bytes:
        """What is said first: the whole group, or MAIL alone."""
        if not self._pipelining:
            return self._mail
        recipients = "".join([f"RCPT TO:<{to}>\r\n" for to in self._envelope.recipients]).encode()
        return b"%b%bDATA\r\n" % (self._mail, recipients)

    @property
    def next_may_open(self) -> bool:
        """Whether the next transaction's group may be written behind this one (RFC 2920 §3.1)."""
        return self.at == At.DOT or self.at == At.RSET

    def body_written(self) -> None:
        """The final dot was handed to the transport."""
        self.at = At.DOT
        self.step = Command.DOT
        self.dot_written = True

    def take(self, reply: Reply) -> "Turn | bytes":
        """What follows from the next reply: a turn, or a command to send."""
        return _TAKES[self.at](self, reply)

    def _mail_reply(self, reply: Reply) -> "Turn | bytes":
        failpoint("after-mail")
        self.answered = True
        self._mail_taken = reply.positive
        if reply.positive:
            self.step = Command.RCPT
        else:
            verdict = read_reply(Command.MAIL, reply, earlier=self.number - 1)
            self._settle(range(len(self.outcomes)), verdict)
            if self.close:
                # The relay may well close now: the replies to the rest of the group are not worth waiting for.
                return DONE
            self._pushed_back = 400 <= reply.code < 500
        self.at = At.RCPT
        if self._pipelining:
            return WAIT
        return self._next_recipient() if reply.positive else self._reset()

    def _recipient_reply(self, reply: Reply) -> "Turn | bytes":
        index = self._index
        self._index += 1
        if self._mail_taken:
            if reply.positive:
                self._accepted.append(index)
            else:
                self._refused(index, reply)
        if not self._pipelining:
            return self._next_recipient()
        if self._index == len(self.outcomes):
            self.at = At.DATA
            if self._mail_taken:
                self.step = Command.DATA
        return WAIT

    def _next_recipient(self) -> "Turn | bytes":
        """One by one: the next command, once MAIL has been taken."""
        if self.close:
            return DONE
        if self._index < len(self.outcomes):
            return f"RCPT TO:<{self._envelope.recipients[self._index]}>\r\n".encode()
        if not self._accepted:
            return self._reset()
        self.at = At.DATA
        self.step = Command.DATA
        return b"DATA\r\n"

    def _refused(self, index: int, reply: Reply) -> None:
        verdict = read_reply(Command.RCPT, reply, accepted=len(self._accepted), earlier=index)
        self._settle([index], verdict)
        self._pushed_back = self._pushed_back or is_push_back(reply)
        if verdict.too_many and self.limit is None:
            self.limit = len(self._accepted)

    def _data_reply(self, reply: Reply) -> "Turn | bytes":
        if reply.code == 354:
            if self._accepted:
                failpoint("after-354")
                self.at = At.BODY
                return BODY
            # RFC 2920 §3.1: every recipient was refused and the server wants data all the same.
            self.at = At.VOID
            return DOT
        if self._accepted:
            self._settle(self._accepted, _refusal(reply))
        return self._reset()

    def _early_reply(self, reply: Reply) -> "Turn | bytes":
        """An answer before the end of the data: the message cannot have been taken."""
        self.close = True
        self._settle(self._accepted, _refusal(reply))
        return DONE

    def _dot_reply(self, reply: Reply) -> "Turn | bytes":
        failpoint("after-reply")
        if reply.code < 200 or 300 <= reply.code < 400:
            self.close = True
            self._settle(self._accepted, Verdict(unknown(f"the relay's answer means nothing here: {reply}")))
        else:
            self._settle(self._accepted, read_reply(Command.DOT, reply))
        return DONE

    def _void_reply(self, _: Reply) -> "Turn | bytes":
        return self._reset()

    def _reset_reply(self, reply: Reply) -> "Turn | bytes":
        self.close = not reply.positive
        return DONE

    def _reset(self) -> "Turn | bytes":
        """Leave the transaction, so that the next MAIL is in sequence (RFC 5321 §4.1.1.5)."""
        if self.close:
            return DONE
        self.at = At.RSET
        return b"RSET\r\n"

    def _settle(self, indexes: Sequence[int], verdict: Verdict) -> None:
        for index in indexes:
            self.outcomes[index] = verdict.outcome
        self.fault = self.fault or verdict.fault
        self.close = self.close or verdict.close

    # --- its end ----------------------------------------------------------------------------------------------------

    def ended(self) -> Transaction:
        """The result after DONE."""
        self.at = At.OVER
        if None in self.outcomes:
            missing = returned("the relay ended the transaction")
            outcomes = [outcome or missing for outcome in self.outcomes]
        else:
            outcomes = self.outcomes  # type: ignore[assignment]
        return Transaction(outcomes, self.fault, None, self.limit, self._pushed_back)

    def broken(self, reason: str, *, dot_left: bool) -> Transaction:
        """The result where the connection broke; `dot_left`: the last byte of the final dot had left this process."""
        if self.at == At.RSET:
            # Every recipient has its answer already.
            return self.ended()
        # The relay had closed a connection that was idle, or was not to be used any more; nobody looked at this message.
        stale = self.number > 1 and not self.answered
        if dot_left:
            rest = unknown(reason)
        elif self.fault is not None:
            rest = returned(str(self.fault))
        elif stale:
            rest = returned(reason)
        else:
            rest = lost(self.step, reason)
        self.at = At.OVER
        dropped = None if self.fault is not None or stale else reason
        outcomes = [outcome or rest for outcome in self.outcomes]
        return Transaction(outcomes, self.fault, dropped, self.limit, self._pushed_back)

    def unsent(self, outcome: Outcome) -> Transaction:
        """The result where this end gave up before the dot."""
        self.at = At.OVER
        return Transaction([found or outcome for found in self.outcomes])

    def failed(self, error: Exception) -> Transaction:
        """The result where nothing of it left, by an error that nobody foresaw; that memory ran out costs no attempt."""
        text = f"internal error: {type(error).__name__}: {error}"
        done = self.unsent(returned(text) if isinstance(error, MemoryError) else deferred("4.3.0", text))
        done.bug = error
        return done


_TAKES = {
    At.MAIL: Exchange._mail_reply,
    At.RCPT: Exchange._recipient_reply,
    At.DATA: Exchange._data_reply,
    At.BODY: Exchange._early_reply,
    At.DOT: Exchange._dot_reply,
    At.VOID: Exchange._void_reply,
    At.RSET: Exchange._reset_reply,
}


def refusal(envelope: Envelope, extensions: dict[str, str]) -> Outcome | None:
    """What the relay's extensions rule out, without asking it."""
    if envelope.smtputf8 and "smtputf8" not in extensions:
        return failed("5.6.7", "the address needs SMTPUTF8, which the relay does not offer")
    if envelope.eight_bit and "8bitmime" not in extensions:
        return failed(
            "5.6.3",
            "the message has 8-bit content and the relay does not offer 8BITMIME; encode it as quoted-printable",
        )
    limit = _size_limit(extensions.get("size", ""))
    if 0 < limit < envelope.size:
        return failed("5.3.4", f"the message has {envelope.size} bytes, the relay takes {limit}")
    return None


@functools.cache
def _size_limit(value: str) -> int:
    """The limit in bytes that the value of SIZE gives, 0 for none."""
    # 1*20DIGIT (RFC 1870 §4); what else a server writes there limits nothing.
    return int(value) if re.fullmatch("[0-9]{1,20}", value) else 0


def _mail(envelope: Envelope, extensions: dict[str, str]) -> bytes:
    parameters = ""
    if "size" in extensions:
        parameters = f" SIZE={envelope.size}"
    if envelope.eight_bit:
        parameters += " BODY=8BITMIME"
    if envelope.smtputf8:
        parameters += " SMTPUTF8"
    return f"MAIL FROM:<{envelope.sender}>{parameters}\r\n".encode()


def _refusal(reply: Reply) -> Verdict:
    """What a reply other than 354 to DATA means."""
    if not reply.positive:
        return read_reply(Command.DATA, reply)
    fault = Fault(FaultKind.UNSTABLE, f"the relay's answer means nothing here: {reply}")
    return Verdict(lost(Command.DATA, fault.text), fault, close=True)
