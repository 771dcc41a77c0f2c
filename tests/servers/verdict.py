"""The usual answers of a scripted relay to an envelope and a message, and what it finds wrong with them."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.servers.settings import Settings

#: Which extension a MAIL parameter belongs to (RFC 1870, 6152, 6531, 3461).
_EXTENSION = {"SIZE": "SIZE", "BODY": "8BITMIME", "SMTPUTF8": "SMTPUTF8", "RET": "DSN", "ENVID": "DSN"}


@dataclass(slots=True)
class Transaction:
    """What the client has said since MAIL; `kept` once the message is in the ledger."""

    mail_from: str
    params: tuple[str, ...]
    recipients: list[str] = field(default_factory=list)
    rcpt_params: list[tuple[str, ...]] = field(default_factory=list)
    data: bytes = b""
    kept: bool = False

    def declares(self, parameter: str) -> bool:
        return parameter in (given.upper() for given in self.params)


class Verdict:
    """Each method returns the usual reply; `note` is told of what the client should not have done."""

    def __init__(self, settings: Settings, note: Callable[[str], None]) -> None:
        self._settings = settings
        self._note = note

    def mail(self, wanted: Transaction, extended: bool, open_already: bool) -> str:
        """Judge MAIL; `extended` after EHLO, `open_already` when there is a transaction."""
        text = self._settings.text
        if open_already:
            self._note("MAIL inside a transaction")
            return text(503, "5.5.1", "Nested MAIL command")
        limit = int(self._settings.extension("SIZE") or 0)
        for given in wanted.params:
            name, _, value = given.upper().partition("=")
            if not extended or self._settings.extension(_EXTENSION.get(name, name)) is None:
                self._note(f"MAIL parameter {given}, which is not offered")
                return text(555, "5.5.4", f"Unsupported option: {name}")
            if name == "SIZE" and not value.isdecimal():
                self._note(f"MAIL parameter {given}, which is not a number")
                return text(501, "5.5.4", "Bad message size syntax")
            if name == "SIZE" and 0 < limit < int(value):
                return text(552, "5.3.4", "Message size exceeds fixed limit")
        if not wanted.mail_from.isascii() and not wanted.declares("SMTPUTF8"):
            self._note("a non-ASCII sender without SMTPUTF8")
            return text(553, "5.6.7", "Must declare SMTPUTF8 for this address")
        return text(250, "2.1.0", "Ok")

    def rcpt(self, transaction: Transaction | None, address: str, params: tuple[str, ...]) -> str:
        text = self._settings.text
        if transaction is None:
            return text(503, "5.5.1", "MAIL first")
        limit = self._settings.max_recipients
        if limit is not None and len(transaction.recipients) >= limit:
            return text(452, "4.5.3", "Too many recipients")
        if params and self._settings.extension("DSN") is None:
            self._note(f"RCPT parameters {' '.join(params)}, which are not offered")
            return text(555, "5.5.4", "Unsupported option")
        if not address.isascii() and not transaction.declares("SMTPUTF8"):
            self._note("a non-ASCII recipient without SMTPUTF8")
            return text(553, "5.6.7", "SMTPUTF8 was not declared for this message")
        return text(250, "2.1.5", "Ok")

    def data(self, transaction: Transaction | None) -> str:
        if transaction is None:
            return self._settings.text(503, "5.5.1", "MAIL first")
        if not transaction.recipients:
            return self._settings.text(554, "5.5.1", "No valid recipients")
        return "354 End data with <CR><LF>.<CR><LF>"

    def message(self, transaction: Transaction, number: int) -> str:
        """Judge a whole message; `number` names it in the reply."""
        limit = int(self._settings.extension("SIZE") or 0)
        if 0 < limit < len(transaction.data):
            return self._settings.text(552, "5.3.4", "Message size exceeds fixed limit")
        if not transaction.recipients:
            return self._settings.text(554, "5.5.1", "No valid recipients")
        return self._settings.text(250, "2.0.0", f"Ok: queued as {number}")

    def inspect(self, transaction: Transaction) -> None:
        """Note what RFC 5321 section 2.3.8 and 4.5.3.1.6, and RFC 6152, do not allow in message data."""
        data = transaction.data
        bare = data.replace(b"\r\n", b"")
        if b"\r" in bare or b"\n" in bare:
            self._note("a bare CR or LF in message data")
        if b"\0" in data:
            self._note("NUL in message data")
        if any(len(line) > 998 for line in data.split(b"\r\n")):
            self._note("a line over 998 bytes in message data")
        if not data.isascii() and not transaction.declares("BODY=8BITMIME"):
            self._note("8-bit message data without BODY=8BITMIME")
