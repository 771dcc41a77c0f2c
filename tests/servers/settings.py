"""What a scripted relay offers and demands."""

import ssl
from dataclasses import dataclass, field

from tests.servers.script import Rule

EXTENSIONS = ("PIPELINING", "SIZE 52428800", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")


@dataclass(kw_only=True)
class Settings:
    """What a relay offers and demands; may be changed at any time, for the next command or connection.

    `extensions` are EHLO lines; STARTTLS and AUTH come from `tls` and `credentials` (a user and a password),
    AUTH only under TLS when there is TLS. `max_recipients` a transaction, above it 452 4.5.3. `latency` in
    seconds a round trip.
    """

    rules: list[Rule] = field(default_factory=list)
    extensions: tuple[str, ...] = EXTENSIONS
    tls: ssl.SSLContext | None = None
    implicit_tls: bool = False
    require_tls: bool = False
    credentials: tuple[str, str] | None = None
    mechanisms: tuple[str, ...] = ("PLAIN", "LOGIN")
    max_recipients: int | None = None
    latency: float = 0.0
    hostname: str = "relay.example"

    def text(self, code: int, enhanced: str, text: str) -> str:
        """A reply, with its enhanced status code (RFC 2034) where that is offered."""
        if self.extension("ENHANCEDSTATUSCODES") is None:
            return f"{code} {text}"
        return f"{code} {enhanced} {text}"

    def extension(self, keyword: str) -> str | None:
        """The parameters of an offered extension ("" for none); None if it is not offered."""
        for line in self.extensions:
            name, _, parameters = line.partition(" ")
            if name.upper() == keyword:
                return parameters
        return None
