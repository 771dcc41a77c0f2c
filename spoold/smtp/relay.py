"""A relay as it is configured: where it is, how it is reached, what it may be asked for. Light: every command reads these."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum


class Security(StrEnum):
    """How a connection is encrypted: not at all, by STARTTLS (RFC 3207), or from its first byte (RFC 8314)."""

    NONE = "none"
    STARTTLS = "starttls"
    TLS = "tls"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait, by default the least that RFC 5321 §4.5.3.2 wants from a client (but for `connect`)."""

    connect: float = 30.0
    command: float = 300.0
    data: float = 180.0
    final: float = 600.0


class SecretError(Exception):
    """A password cannot be read; the text says which file and why, never what is in it."""


@dataclass(frozen=True)
class Relay:
    """All that it takes to use a relay. `password` is asked at each connection, so that it can change while the agent
    runs.
    """

    name: str
    host: str
    port: int
    security: Security
    ca_file: str | None = None
    username: str | None = None
    password: Callable[[], str] | None = None
    connections: int = 20
    recipients_per_message: int = 100
    fallback: str | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"
