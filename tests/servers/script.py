"""What a scripted relay does wrong, and when: rules as values, matched by a small pure counter.

A rule watches one command (and optionally what is in its argument), counts how often it comes by, over all
connections, and from the `nth` time on acts `times` times. The first rule that acts decides; a Delay passes
on.
"""

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass, field


class Command(enum.StrEnum):
    """The places at which a rule can act. CONNECT, BODY and DOT are no commands, but moments.

    CONNECT is before the greeting, BODY after the 354, when the first bytes of the message have come, DOT
    after the final dot and before its reply. HELO has its own place, so that a refused EHLO can be followed
    by it.
    """

    CONNECT = "connect"
    EHLO = "EHLO"
    HELO = "HELO"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    BODY = "BODY"
    DOT = "DOT"
    RSET = "RSET"
    NOOP = "NOOP"
    QUIT = "QUIT"


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer with this text instead; several lines, ready-made with their hyphens, are separated by LF.

    What the reply says also happens: a 2yz to RCPT takes the recipient, a 2yz at DOT accepts the message, a
    5yz does not. After 421 the connection is closed (RFC 5321 section 3.8). At BODY the reply comes while the
    client is still sending, and the connection is closed.
    """

    text: str


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the connection without an answer; `reset` sends a TCP reset instead of an orderly end."""

    reset: bool = False


@dataclass(frozen=True, slots=True)
class Hang:
    """Never answer, until `Relay.release()`; at BODY nothing is read either, so that the client's sends fill
    up.

    With `accept`, at DOT, the message is accepted and kept first.
    """

    accept: bool = False


@dataclass(frozen=True, slots=True)
class Garbage:
    """Answer with these bytes, whatever they are, and take the command for refused; with `accept`, at DOT,
    for good.
    """

    data: bytes
    accept: bool = False


@dataclass(frozen=True, slots=True)
class DropAfterAccept:
    """At DOT: accept and keep the message, then close without a reply. The client cannot know."""

    reset: bool = False


@dataclass(frozen=True, slots=True)
class DropBeforeAccept:
    """At DOT: close without a reply, and without the message. To the client it looks like DropAfterAccept."""

    reset: bool = False


@dataclass(frozen=True, slots=True)
class Delay:
    """Wait, then go on with the other rules and the usual answer; with `accept`, at DOT, the message is kept
    first.
    """

    seconds: float
    accept: bool = False


@dataclass(frozen=True, slots=True)
class RstMidBody:
    """At BODY: reset the TCP connection as soon as `after` bytes of the message have come."""

    after: int = 1


Action = Reply | Drop | Hang | Garbage | DropAfterAccept | DropBeforeAccept | Delay | RstMidBody


@dataclass(frozen=True, slots=True)
class Event:
    """What a hook is told: `argument` as in the rule's `match`, `occurrence` counted from 1 by that rule."""

    command: Command
    argument: str
    connection: int
    occurrence: int


#: A hook decides when the moment has come; None means the usual answer. It runs in the relay's thread.
Hook = Callable[[Event], Action | None]


@dataclass(slots=True)
class Rule:
    """When `command` comes for the `nth` time with an argument in which `match` is found, take `action`.

    `times` limits how often (None: always, from the nth on). `match` is a regular expression, searched
    without regard to case in the argument: the address for MAIL, RCPT and, all of them with spaces between,
    for DATA, BODY and DOT; the rest of the line for other commands; "" for connect.
    """

    command: Command | str
    action: Action | Hook
    match: str | None = None
    nth: int = 1
    times: int | None = None
    seen: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.command = Command(self.command)
        if self.nth < 1:
            raise ValueError(f"nth is {self.nth}: it counts from 1")

    def observe(self, command: Command, argument: str, connection: int) -> Action | None:
        """Count the event if it is this rule's, and return the action that is due, if one is."""
        if command is not self.command or (self.match and not re.search(self.match, argument, re.IGNORECASE)):
            return None
        self.seen += 1
        if self.seen < self.nth or (self.times is not None and self.seen >= self.nth + self.times):
            return None
        if callable(self.action):
            return self.action(Event(command, argument, connection, self.seen))
        return self.action
