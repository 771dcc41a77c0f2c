"""What `spoold check` says of each relay: its name, the way to it, TLS and its certificate, the login, what it can do."""

import asyncio
import math
import secrets
import socket
import ssl
import time
from datetime import UTC, datetime
from email.utils import format_datetime

from spoold import __version__
from spoold.cli.check.finding import Findings
from spoold.cli.config import Config
from spoold.core.fault import Fault
from spoold.core.outcome import Result
from spoold.core.recipient.address import Address
from spoold.smtp.connection import connect, find
from spoold.smtp.relay import Relay, Security
from spoold.smtp.resolver import is_address
from spoold.smtp.session import Envelope, Session

_DAY = 86400
#: Days that a certificate has left: below, its owner has forgotten to renew it; below, it is about to fail.
_SOON, _NOW = 14, 2
_SLOW = 5.0
_USEFUL = ("pipelining", "8bitmime", "smtputf8", "dsn")


async def check_relays(found: Config, recipient: Address | None, findings: Findings) -> None:
    """All of them side by side, so that none waits for another, told one after the other; with a `recipient`, a real
    message through each.
    """

    async def look_at(relay: Relay) -> Findings:
        of_relay = findings.held_back()
        if await _resolves(relay, of_relay):
            await _visit(relay, found.agent.intake.max_message, recipient, of_relay)
        return of_relay

    looks = [asyncio.ensure_future(look_at(relay)) for relay in found.agent.relays.values()]
    try:
        for look in looks:
            findings.take(await look)
    finally:
        for look in looks:
            look.cancel()


async def _resolves(relay: Relay, findings: Findings) -> bool:
    begun = time.monotonic()
    found = await find(relay)
    if isinstance(found, Fault):
        findings.bad("relay.dns", f"relay {relay.name}: {found.text}", found.remedy)
        return False
    if is_address(relay.host):
        return True
    addresses = sorted({endpoint.ip for endpoint in found})
    took = time.monotonic() - begun
    text = f"relay {relay.name}: {relay.host} is {', '.join(addresses)}"
    if took > _SLOW:
        findings.warn("relay.dns", f"{text}, after {took:.0f} s", "see /etc/resolv.conf: the first name server is slow")
    else:
        findings.good("relay.dns", text)
    return True


async def _visit(relay: Relay, largest: int, recipient: Address | None, findings: Findings) -> None:
    begun = time.monotonic()
    session = await connect(relay)
    took = time.monotonic() - begun
    if isinstance(session, Fault):
        findings.bad(f"relay.{session.kind.value}", f"relay {relay.name}: {session.text}", session.remedy)
        return
    try:
        if took > _SLOW:
            findings.warn(
                "relay.connect", f"relay {relay.name}: a connection took {took:.1f} s", "ask its administrator"
            )
        if relay.security is not Security.NONE:
            _check_certificate(relay, session, findings)
        _check_abilities(relay, session, largest, findings)
        login = f", logged in as {relay.username}" if relay.username else ""
        findings.good("relay", f"relay {relay.name} at {relay.address}, security {relay.security}{login}")
        if recipient is not None:
            await _send(session, relay, recipient, findings)
    finally:
        await session.close()


def _check_certificate(relay: Relay, session: Session, findings: Findings) -> None:
    tls = session.transport_info("ssl_object")
    certificate = tls.getpeercert() if isinstance(tls, (ssl.SSLObject, ssl.SSLSocket)) else None
    if not certificate:
        return
    ends = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    days = math.floor((ends - time.time()) / _DAY)
    day = datetime.fromtimestamp(ends, UTC).date().isoformat()
    text = f"relay {relay.name}: its certificate is valid for {days} days more, until {day}"
    if days < _SOON:
        say = findings.bad if days < _NOW else findings.warn
        say("relay.certificate", text, "its administrator must renew it")
    else:
        findings.good("relay.certificate", text)


def _check_abilities(relay: Relay, session: Session, largest: int, findings: Findings) -> None:
    offered = session.extensions
    has = [name.upper() for name in _USEFUL if name in offered]
    findings.good("relay.extensions", f"relay {relay.name}: offers {', '.join(has) or 'no extension that helps'}")
    if "8bitmime" not in offered:
        text = f"relay {relay.name}: does not offer 8BITMIME: messages with 8-bit content are refused"
        findings.warn("relay.extensions", text, "write messages as quoted-printable, or use another relay")
    size = offered.get("size", "")
    if size.isdecimal() and 0 < int(size) < largest:
        text = f"relay {relay.name}: takes {size} bytes a message; intake.max_message lets {largest} in"
        findings.warn("relay.size", text, f"set intake.max_message to {size}")


async def _send(session: Session, relay: Relay, recipient: Address, findings: Findings) -> None:
    """A small message, from the recipient's own address: nobody else has to take a bounce."""
    now = datetime.fromtimestamp(time.time(), UTC)
    body = (
        f"From: <{recipient.envelope}>\r\nTo: <{recipient.envelope}>\r\nSubject: spoold check\r\n"
        f"Date: {format_datetime(now)}\r\nMessage-ID: <{secrets.token_hex(10)}@{recipient.domain}>\r\n\r\n"
        f"A test message of spoold {__version__} on {socket.gethostname()}, by relay {relay.name}.\r\n"
    ).encode()
    envelope = Envelope(recipient.envelope, [recipient.envelope], len(body), recipient.smtputf8, recipient.smtputf8)
    done = await session.transact(envelope, body)
    outcome = done.outcomes[0]
    text = f"relay {relay.name}: message to {recipient.envelope}: {outcome.diagnostic}"
    if outcome.result is Result.SENT:
        findings.good("relay.message", text)
    else:
        findings.bad("relay.message", text)
