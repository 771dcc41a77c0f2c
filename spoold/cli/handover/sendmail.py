"""`spoold sendmail`: sendmail's command line, for cron, PHP, git and all that know nothing else; the message becomes a job.

Also under the name `sendmail` itself, as a link to the program. Exit codes are those of sysexits(3), for that is what
callers go by: 0 means that the job is durable in new/. What only a mail server can do is refused, not pretended.
"""

import os
import pwd
import re
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from spoold.cli import config
from spoold.cli.invocation import invoke
from spoold.core.message.header import HeaderField, addresses, header_fields, recipients_of
from spoold.core.message.wire import MessageError, scan
from spoold.core.problem import printable
from spoold.core.recipient.address import AddressError, parse_address
from spoold.job import JobError, made_up_name, write_job
from spoold.storage.spooldir import SpoolError

USAGE = "usage: sendmail [--config FILE] [-t] [-i] [-f SENDER] [-F NAME] [-v] [--] RECIPIENT…  (the message is read from standard input)"
#: Options with a value, in the next argument or right behind; the others stand alone, several behind one dash.
_WITH_VALUE = "ABCDFGLNORVXbefhopr"
_OPTIONAL_VALUE = "qd"
_ALONE = "GUcmnstvi"
_NOT_HERE = {
    "d": "there is no daemon to start: `spoold run` is the agent",
    "D": "there is no daemon to start: `spoold run` is the agent",
    "s": "SMTP on standard input is not spoken; give the message on standard input, the recipients as arguments",
    "i": "there are no aliases",
    "I": "there are no aliases",
    "v": "addresses are not verified; the relay says what it takes",
    "t": "there is no address test mode",
    "h": "there is no host status; `spoold status` has the relays",
    "H": "there is no host status; `spoold status` has the relays",
}


class RefusedError(Exception):
    """It cannot be done; `code` is the exit code, the text one line a problem."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(slots=True)
class Arguments:
    """What the command line says; `mode` is the letter of -b: m sends a message, p shows the queue, q runs it."""

    config: str | None = None
    sender: str | None = None
    name: str | None = None
    from_header: bool = False
    dot_ends: bool = True
    verbose: bool = False
    mode: str = "m"
    recipients: list[str] = field(default_factory=list)


def parse(arguments: Sequence[str]) -> Arguments:
    """Read sendmail's options as sendmail does: up to the first recipient, or `--`. Raises RefusedError."""
    found = Arguments()
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            found.recipients = rest
            return found
        if word == "--config" or word.startswith("--config="):
            found.config = word.partition("=")[2] if "=" in word else _value(word, rest)
        elif word == "--help":
            raise RefusedError(os.EX_OK, USAGE)
        elif word.startswith("--"):
            raise RefusedError(os.EX_USAGE, f"no option {printable(word)}; {USAGE}")
        else:
            _read_letters(word[1:], rest, found)
    for word in rest:
        if word.startswith("-"):
            # Where a caller passes on an address that it was given, this is the end of many attacks.
            raise RefusedError(
                os.EX_USAGE, f"{printable(word)}: options go before the recipients, or recipients behind --"
            )
    found.recipients = rest
    return found


def _read_letters(letters: str, rest: list[str], found: Arguments) -> None:
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter in _ALONE:
            _obey(letter, found)
        elif letter in _OPTIONAL_VALUE:
            if letter == "q":
                found.mode = "q"
            return
        elif letter in _WITH_VALUE:
            _obey_value(letter, letters or _value(f"-{letter}", rest), found)
            return
        else:
            raise RefusedError(os.EX_USAGE, f"no option -{printable(letter)}; {USAGE}")


def _value(option: str, rest: list[str]) -> str:
    if not rest:
        raise RefusedError(os.EX_USAGE, f"{option} needs a value; {USAGE}")
    return rest.pop(0)


def _obey(letter: str, found: Arguments) -> None:
    if letter == "t":
        found.from_header = True
    elif letter == "i":
        found.dot_ends = False
    elif letter == "v":
        found.verbose = True


def _obey_value(letter: str, value: str, found: Arguments) -> None:
    if letter in "fr":
        found.sender = value
    elif letter == "F":
        found.name = value
    elif (letter == "o" and value == "i") or (letter == "O" and value.lower().startswith("ignoredots")):
        found.dot_ends = False
    elif letter == "o" and value == "t":
        found.from_header = True
    elif letter == "b":
        if value in _NOT_HERE:
            raise RefusedError(os.EX_USAGE, f"-b{value}: {_NOT_HERE[value]}")
        if value not in ("m", "a", "p"):
            raise RefusedError(os.EX_USAGE, f"no mode -b{printable(value)}; expected -bm or -bp")
        found.mode = value
    # The others are a mail server's business: error modes, notification, queues, tracing.


def run(arguments: Sequence[str], config_file: str | None = None) -> int:
    """Returns an exit code of sysexits(3); the message is read from standard input."""
    try:
        found = parse(arguments)
        if found.mode == "q":
            print(
                "spoold: the agent sends by itself; `spoold retry JOB` makes it try deferred recipients now",
                file=sys.stderr,
            )
            return os.EX_OK
        path = config.find(found.config or config_file)
        if found.mode == "p":
            return _show_queue(path)
        if sys.stdin is None:
            raise RefusedError(os.EX_NOINPUT, "standard input is closed; expected the message there")
        name = _send(found, path, sys.stdin.buffer)
        if found.verbose:
            print(f"{name}: in new/, the agent takes it from there")
        return os.EX_OK
    except RefusedError as error:
        return _fail(str(error), error.code)
    except config.ConfigError as error:
        return _fail(str(error), os.EX_CONFIG)
    except SpoolError as error:
        return _fail(str(error), os.EX_CANTCREAT)
    except JobError as error:
        return _fail(str(error), os.EX_DATAERR)
    except PermissionError as error:
        return _fail(
            f"the spool cannot be written to by this user ({error.filename or error.strerror})", os.EX_CANTCREAT
        )
    except OSError as error:
        # Not EX_TEMPFAIL: of sendmail that says "queued for later", and PHP's mail() takes it for success.
        return _fail(f"the job cannot be written now: {error.strerror or error}", os.EX_IOERR)
    except Exception as error:  # noqa: BLE001 - no traceback reaches a user
        return _fail(f"internal error, a bug, please report it: {type(error).__name__}: {error}", os.EX_SOFTWARE)


def _fail(text: str, code: int) -> int:
    for line in text.splitlines():
        print(f"sendmail: {line}" if code else line, file=sys.stderr if code else sys.stdout)
    return code


def _show_queue(path: Path) -> int:
    return os.EX_OK if invoke(["--config", str(path), "status"]) == 0 else os.EX_UNAVAILABLE


def _send(found: Arguments, path: Path, stdin: BinaryIO) -> str:
    """Read the message and write the job; returns its name."""
    spool, policy = config.place(path)
    if not found.recipients and not found.from_header:
        raise RefusedError(os.EX_USAGE, f"no recipients; {USAGE}")
    message = _read(stdin, policy.max_message, dot_ends=found.dot_ends)
    fields = header_fields(message)
    sender = _sender(found, fields)
    recipients = _recipients(found, fields)
    if len(recipients) > policy.max_recipients:
        raise RefusedError(os.EX_UNAVAILABLE, f"more than {policy.max_recipients} recipients (intake.max_recipients)")
    if not any(field.name in ("from", "resent-from") for field in fields):
        message = _from_line(found.name, sender) + message
    try:
        scan([message], name="the message", date="", message_id="")
    except MessageError as error:
        raise RefusedError(os.EX_DATAERR, str(error.problem)) from None
    # The same text again is a message of its own: cron says the same every night.
    manifest = {"description": f"sendmail, by {_user()}", "allow_duplicate": True}
    return write_job(
        spool, made_up_name("mail"), sender=sender, message=message, recipients=recipients, manifest=manifest
    )


def _read(stdin: BinaryIO, limit: int, *, dot_ends: bool) -> bytes:
    """The message: all of `stdin`, or up to a line with nothing but a dot."""
    pieces: list[bytes] = []
    size = 0
    for piece in stdin if dot_ends else iter(lambda: stdin.read(1 << 18), b""):
        if dot_ends and piece.rstrip(b"\r\n") == b"." and (not pieces or pieces[-1].endswith(b"\n")):
            break
        size += len(piece)
        if size > limit:
            raise RefusedError(os.EX_DATAERR, f"the message has more than {limit} bytes (intake.max_message)")
        pieces.append(piece)
    message = b"".join(pieces)
    # What has no header at all begins with the empty line that ends it: all of it is the text.
    start = re.match(rb"From (?![ \t]*:)[^\n]*\n", message)
    body = message[start.end() :] if start else message
    return body if header_fields(body) or not body or body[:1] in b"\r\n" else b"\n" + body


def _sender(found: Arguments, fields: Sequence[HeaderField]) -> str:
    """-f, else the first address of Sender or From, else the user at this host."""
    if found.sender is not None:
        if found.sender.strip() in ("", "<>"):
            return ""
        return _envelope(addresses(found.sender)[:1] or [found.sender], os.EX_USAGE, "-f")[0]
    for name in ("sender", "from"):
        for header in fields:
            if header.name == name and (listed := addresses(header.value)):
                return _envelope(listed[:1], os.EX_DATAERR, name.capitalize())[0]
    return _envelope([_user()], os.EX_CONFIG, "the user's address")[0]


def _recipients(found: Arguments, fields: Sequence[HeaderField]) -> list[str]:
    """Those of the command line and, with -t, of the header; each once."""
    given = [address for argument in found.recipients for address in addresses(argument) or [argument]]
    listed = recipients_of(fields) if found.from_header else []
    recipients = _envelope([*given, *listed], os.EX_NOUSER, "recipient")
    if not recipients:
        raise RefusedError(os.EX_NOUSER if found.from_header else os.EX_USAGE, "no recipients in To, Cc or Bcc")
    return list(dict.fromkeys(recipients))


def _envelope(listed: Sequence[str], code: int, what: str) -> list[str]:
    """The addresses, checked, with this host's domain where they have none; all that is wrong is told."""
    good: list[str] = []
    problems: list[str] = []
    for text in listed:
        # A name without a domain is a local user's to other mailers, and nobody's here: complete it as they do.
        whole = text if "@" in text or not text else f"{text}@{_domain()}"
        try:
            good.append(parse_address(whole).envelope)
        except AddressError as error:
            problems.append(f"{what}: {error}")
    if problems:
        raise RefusedError(code, "\n".join(problems[:20]))
    return good


def _domain() -> str:
    """Debian's /etc/mailname, else the host's full name."""
    try:
        with open("/etc/mailname", encoding="ascii", errors="replace") as file:
            name = file.readline().strip()
    except OSError:
        name = ""
    return name or socket.getfqdn()


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid-{os.getuid()}"


def _from_line(name: str | None, sender: str) -> bytes:
    """The From field that a message must have (RFC 5322 §3.6), for one that lacks it."""
    address = sender or f"MAILER-DAEMON@{_domain()}"
    if not name:
        return f"From: {address}\n".encode()
    text = "".join(char for char in name if char.isprintable())[:200]
    if not text.isascii():
        from email.header import Header

        return b"From: " + Header(text, "utf-8", header_name="From").encode().encode() + f" <{address}>\n".encode()
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'From: "{quoted}" <{address}>\n'.encode()
