"""What is wrong with a relay, and what to do about it: no recipient pays for that."""

from dataclasses import dataclass
from enum import StrEnum


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
