"""One SMTP session of a scripted relay (RFC 5321 with 2920, 1870, 3207, 4954, 6531), strict in what it notes.

The order at every step: the rules are asked; what they leave open gets the usual answer; what the answer says
comes true. A message is in the ledger before the reply to its dot is sent, never after.
"""

import asyncio
import re
import ssl
import time

from tests.servers import script
from tests.servers.ledger import Accepted, Ledger
from tests.servers.login import log_in
from tests.servers.script import Action, Command
from tests.servers.settings import Settings
from tests.servers.verdict import Transaction, Verdict
from tests.servers.wire import ClosedError, Wire

_PATH = re.compile(r"(?:FROM|TO):( *)<(.*)>(?: (.*))?", re.IGNORECASE)
#: RFC 2920 section 3.1: these end a pipelined group, the client has to wait for the answer.
_LAST_IN_GROUP = {"EHLO", "HELO", "STARTTLS", "AUTH", "DATA", "NOOP", "QUIT", "VRFY"}


class _AnsweredError(Exception):
    """A rule has answered in its own way: the command is over."""


class Session:
    """`run` serves one connection to its end; `release` is set whenever hanging rules shall let go."""

    def __init__(self, wire: Wire, settings: Settings, ledger: Ledger, number: int, release: asyncio.Event) -> None:
        self._wire = wire
        self._settings = settings
        self._ledger = ledger
        self._number = number
        self._release = release
        self._usual = Verdict(settings, self._note)
        self._tls = settings.implicit_tls
        self._user: str | None = None
        self._extended = False
        self._transaction: Transaction | None = None

    async def run(self) -> None:
        try:
            await self._greet()
            while True:
                await self._command()
        except (ClosedError, ConnectionError):
            return
        except ssl.SSLError as error:
            self._ledger.handshake_failed(self._number, error)
        finally:
            self._wire.abort()

    async def _greet(self) -> None:
        try:
            decided = await self._decide(Command.CONNECT, "")
            await self._say(decided or f"220 {self._settings.hostname} ESMTP")
        except _AnsweredError:
            return

    async def _command(self) -> None:
        self._wire.latency = self._settings.latency
        line = await self._line()
        verb, _, rest = line.partition(" ")
        verb = verb.upper()
        if self._wire.pending and verb in _LAST_IN_GROUP:
            self._note(f"more input behind {verb}, whose answer must be waited for (RFC 2920)")
        elif self._wire.pending and not (self._extended and self._settings.extension("PIPELINING") is not None):
            self._note(f"more input behind {verb}, but PIPELINING is not offered")
        try:
            match verb:
                case "EHLO" | "HELO":
                    await self._hello(Command(verb), rest)
                case "STARTTLS":
                    await self._starttls()
                case "AUTH":
                    await self._auth(rest)
                case "MAIL":
                    await self._mail(rest)
                case "RCPT":
                    await self._rcpt(rest)
                case "DATA":
                    await self._data()
                case "RSET":
                    reply = await self._decide(Command.RSET, rest) or self._text(250, "2.0.0", "Ok")
                    self._transaction = None
                    await self._say(reply)
                case "NOOP":
                    reply = await self._decide(Command.NOOP, rest) or self._text(250, "2.0.0", "Ok")
                    await self._say(reply)
                case "QUIT":
                    reply = await self._decide(Command.QUIT, rest) or self._text(221, "2.0.0", "Bye")
                    await self._say(reply)
                    await self._end()
                case _:
                    await self._say(self._text(502, "5.5.1", "Command not implemented"))
        except _AnsweredError:
            return

    async def _hello(self, command: Command, name: str) -> None:
        lines = [f"{self._settings.hostname} greets {name}"]
        if command is Command.EHLO:
            lines += self._settings.extensions
            if self._settings.tls and not self._tls:
                lines.append("STARTTLS")
            if self._settings.credentials and (self._tls or not self._settings.tls):
                lines.append("AUTH " + " ".join(self._settings.mechanisms))
        usual = "\n".join([*(f"250-{line}" for line in lines[:-1]), f"250 {lines[-1]}"])
        reply = await self._decide(command, name) or usual
        if reply.startswith("2"):
            self._extended = command is Command.EHLO
            self._transaction = None
        await self._say(reply)

    async def _starttls(self) -> None:
        context = self._settings.tls
        if context is None or self._tls:
            usual = self._text(503, "5.5.1", "TLS is active" if self._tls else "TLS is not offered")
        else:
            usual = self._text(220, "2.0.0", "Ready to start TLS")
        reply = await self._decide(Command.STARTTLS, "") or usual
        await self._say(reply)
        if not reply.startswith("220") or context is None:
            return
        # Input that came in clear must not count as said under TLS (RFC 3207 section 6).
        self._wire.pending.clear()
        await self._wire.start_tls(context)
        self._tls, self._extended, self._user, self._transaction = True, False, None, None

    async def _auth(self, rest: str) -> None:
        """The rules are asked at the AUTH line, before any exchange."""
        reply, user = await self._decide(Command.AUTH, rest), None
        if reply is not None:
            user = (self._settings.credentials or ("",))[0] if reply.startswith("235") else None
        elif self._settings.tls and not self._tls:
            self._note("a login in clear, although TLS is offered")
            reply = self._text(538, "5.7.11", "Encryption required for requested authentication mechanism")
        elif self._user is not None or self._transaction:
            reply = self._text(503, "5.5.1", "Not now")
        else:
            reply, user = await log_in(self._settings, rest, self._challenge)
        self._user = user if user is not None else self._user
        await self._say(reply)

    async def _challenge(self, text: str) -> str:
        await self._say(f"334 {text}")
        return await self._line()

    async def _mail(self, rest: str) -> None:
        address, params = self._path("MAIL", rest)
        wanted = Transaction(address, params)
        reply = await self._decide(Command.MAIL, address)
        if reply is None:
            if self._settings.require_tls and not self._tls:
                reply = self._text(530, "5.7.0", "Must issue a STARTTLS command first")
            elif self._settings.credentials and self._user is None:
                reply = self._text(530, "5.7.0", "Authentication required")
            else:
                reply = self._usual.mail(wanted, self._extended, self._transaction is not None)
        if reply.startswith("2"):
            self._transaction = wanted
        await self._say(reply)

    async def _rcpt(self, rest: str) -> None:
        address, params = self._path("RCPT", rest)
        reply = await self._decide(Command.RCPT, address) or self._usual.rcpt(self._transaction, address, params)
        if reply.startswith("2") and self._transaction:
            self._transaction.recipients.append(address)
            self._transaction.rcpt_params.append(params)
        await self._say(reply)

    async def _data(self) -> None:
        transaction = self._transaction
        recipients = " ".join(transaction.recipients) if transaction else ""
        reply = await self._decide(Command.DATA, recipients) or self._usual.data(transaction)
        await self._say(reply)
        if not reply.startswith("354"):
            return
        # A transaction that was never opened, when a rule has said 354, takes nothing.
        transaction = transaction or Transaction("", ())
        self._transaction = transaction
        while not self._wire.pending:
            await self._wire.fill()
        try:
            try:
                early = await self._decide(Command.BODY, recipients)
            except _AnsweredError:
                await self._wire.body()  # what it promised to read by 354 is no command
                raise
            if early is not None:
                await self._say(early)
                await self._end()
            transaction.data = await self._wire.body()
            self._ledger.body()
            self._usual.inspect(transaction)
            reply = await self._decide(Command.DOT, recipients) or self._usual.message(
                transaction, len(self._ledger.accepted) + 1
            )
            if reply.startswith("2"):
                self._keep(transaction)
            await self._say(reply)
        finally:
            self._transaction = None

    def _keep(self, transaction: Transaction) -> None:
        if transaction.kept or not transaction.recipients:
            return
        transaction.kept = True
        message = Accepted(
            recipients=tuple(transaction.recipients),
            mail_from=transaction.mail_from,
            mail_params=transaction.params,
            rcpt_params=tuple(transaction.rcpt_params),
            data=transaction.data,
            connection=self._number,
            at=time.monotonic(),
            tls=self._tls,
            user=self._user,
        )
        self._ledger.accept(message)

    async def _decide(self, command: Command, argument: str) -> str | None:
        """The reply that the rules demand, None for the usual one; may close, hang, or answer itself."""
        # All rules count every event, also when an earlier one has decided.
        due = [rule.observe(command, argument, self._number) for rule in tuple(self._settings.rules)]
        for action in due:
            if isinstance(action, script.Delay):
                self._keep_if(command, action.accept)
                await self._wire.flush()
                await asyncio.sleep(action.seconds)
            elif action is not None:
                return await self._take(command, action)
        return None

    async def _take(self, command: Command, action: Action) -> str | None:
        match action:
            case script.Reply(text):
                # What another rule has had it keep, no relay refuses.
                kept = self._transaction is not None and self._transaction.kept
                return None if kept and not text.startswith("2") else text
            case script.Garbage(data, accept):
                self._keep_if(command, accept)
                self._wire.send(data)
                raise _AnsweredError
            case script.Hang(accept):
                self._keep_if(command, accept)
                await self._hang(command)
                return None
            case script.RstMidBody(after):
                while len(self._wire.pending) < after and command is Command.BODY:
                    await self._wire.fill()
                await self._end(reset=True)
            case script.Drop(reset) | script.DropBeforeAccept(reset) | script.DropAfterAccept(reset):
                self._keep_if(command, isinstance(action, script.DropAfterAccept))
                await self._end(reset)
        return None

    async def _hang(self, command: Command) -> None:
        await self._wire.flush()
        if command is Command.BODY:
            self._wire.pause()
        waits = [asyncio.ensure_future(event.wait()) for event in (self._release, self._wire.lost)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._wire.lost.is_set():
            raise ClosedError
        if command is Command.BODY:
            self._wire.resume()

    def _keep_if(self, command: Command, accept: bool) -> None:
        if accept and command is Command.DOT and self._transaction:
            self._keep(self._transaction)

    async def _end(self, reset: bool = False) -> None:
        await self._wire.close(reset)
        raise ClosedError

    async def _say(self, reply: str) -> None:
        self._wire.send(reply.replace("\n", "\r\n").encode("utf-8", "surrogateescape") + b"\r\n")
        if reply.startswith("421"):
            await self._end()

    async def _line(self) -> str:
        raw = await self._wire.line()
        text = raw.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
        self._ledger.command(self._number, text)
        if not raw.endswith(b"\r\n"):
            self._note("a command line that ends in a bare LF")
        return text

    def _path(self, verb: str, rest: str) -> tuple[str, tuple[str, ...]]:
        found = _PATH.fullmatch(rest)
        if found is None:
            self._note(f"{verb} with a malformed path: {rest!r}")
            self._wire.send(self._text(501, "5.5.4", "Syntax error in the path").encode() + b"\r\n")
            raise _AnsweredError
        if found[1]:
            self._note(f"{verb} with a space before the path")
        return found[2], tuple((found[3] or "").split())

    def _text(self, code: int, enhanced: str, text: str) -> str:
        return self._settings.text(code, enhanced, text)

    def _note(self, violation: str) -> None:
        self._ledger.violation(self._number, violation)
