"""Connecting to a relay: TCP, TLS, EHLO and login by aiosmtplib, then the transport goes to a `Session`.

What can go wrong here costs no recipient anything: it is a `Fault` of the relay.
"""

import asyncio
import base64
import contextlib
import os
import re
import socket
import ssl
from collections.abc import Callable
from typing import cast

import aiosmtplib

from spoold.core.outcome import Fault, FaultKind
from spoold.core.problem import printable
from spoold.smtp.relay import Relay, SecretError, Security
from spoold.smtp.session import Session


async def connect(relay: Relay) -> Session | Fault:
    """An open, encrypted, logged-in session, or what is in its way."""
    try:
        # Reading the system's authorities takes some ten milliseconds: not on the loop.
        context = await asyncio.to_thread(_context, relay) if relay.security is not Security.NONE else None
        password = relay.password() if relay.username is not None and relay.password is not None else None
    except (OSError, ssl.SSLError) as error:
        return Fault(FaultKind.TLS, f"{relay.address}: ca_file {relay.ca_file}: {_reason(error)}")
    except SecretError as error:
        return Fault(FaultKind.LOGIN, f"{relay.address}: {error}")
    client = aiosmtplib.SMTP(
        hostname=relay.host,
        port=relay.port,
        timeout=relay.timeouts.connect,
        use_tls=relay.security is Security.TLS,
        start_tls=False,
        tls_context=context,
        local_hostname=_local_hostname(),
    )
    try:
        await client.connect()
        await client.ehlo()
        if relay.security is Security.STARTTLS:
            try:
                await client.starttls()
            except aiosmtplib.SMTPServerDisconnected as error:
                client.close()
                return Fault(FaultKind.TLS, f"{relay.address}: the relay broke off the TLS handshake: {_reason(error)}")
            await client.ehlo()
        if relay.username is not None:
            # aiosmtplib picks the mechanism: CRAM-MD5, PLAIN, LOGIN, as the server offers them (RFC 4954).
            await client.login(relay.username, password or "")
    except (TimeoutError, aiosmtplib.SMTPException, OSError, ValueError) as error:
        client.close()
        return _fault(relay, error, password)
    except BaseException:
        client.close()
        raise
    # uvloop's transports are asyncio's by their methods, not by their class.
    transport = cast("asyncio.Transport | None", client.transport)
    if transport is None:
        client.close()
        return Fault(FaultKind.CONNECT, f"{relay.address}: the connection closed at once")
    return Session(transport, dict(client.esmtp_extensions), relay.host, relay.timeouts)


def _context(relay: Relay) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if relay.ca_file is not None:
        # Added to the system's authorities; given to `create_default_context` it would replace them.
        context.load_verify_locations(relay.ca_file)
    return context


def _local_hostname() -> str:
    """What EHLO says (RFC 5321 §4.1.1.1): the host's name, or its loopback literal where that is no domain."""
    name = socket.gethostname()
    return name if "." in name and name.isascii() else "[127.0.0.1]"


def _fault(relay: Relay, error: BaseException, password: str | None) -> Fault:
    at = relay.address
    text = _reason(error, lambda text: discreet(text, relay.username or "", password or ""))
    chain = [error, error.__cause__, error.__context__]
    if any(isinstance(link, ssl.SSLCertVerificationError) for link in chain):
        found = next(link for link in chain if isinstance(link, ssl.SSLCertVerificationError))
        return Fault(FaultKind.TLS, f"{at}: the relay's certificate is not trusted: {found.verify_message}")
    if isinstance(error, aiosmtplib.SMTPException) and "AUTH extension" in text:
        return Fault(FaultKind.LOGIN, f"{at}: the relay offers no login: {text}")
    if any(isinstance(link, ssl.SSLError) for link in chain) or "STARTTLS" in text.upper():
        return Fault(FaultKind.TLS, f"{at}: TLS failed: {text}")
    if isinstance(error, aiosmtplib.SMTPAuthenticationError):
        return Fault(FaultKind.LOGIN, f"{at}: the relay refused the login of {relay.username}: {text}")
    if any(isinstance(link, socket.gaierror) for link in chain):
        return Fault(FaultKind.DNS, f"{at}: the host's name cannot be resolved: {text}")
    if isinstance(error, (aiosmtplib.SMTPConnectTimeoutError, asyncio.TimeoutError)):
        return Fault(FaultKind.CONNECT, f"{at}: no answer within {relay.timeouts.connect:g} s")
    if isinstance(error, aiosmtplib.SMTPResponseException):
        if error.code == 421:
            return Fault(FaultKind.BUSY, f"{at}: the relay turned the connection away: {text}")
        return Fault(FaultKind.GREETING, f"{at}: the relay refused the session: {text}")
    if isinstance(error, aiosmtplib.SMTPException) and "AUTH" in text.upper():
        return Fault(FaultKind.LOGIN, f"{at}: {text}")
    if isinstance(error, (OSError, aiosmtplib.SMTPConnectError)):
        return Fault(FaultKind.CONNECT, f"{at}: cannot connect: {text}")
    return Fault(FaultKind.GREETING, f"{at}: the session could not be opened: {text}")


def _reason(error: BaseException, mend: Callable[[str], str] = str) -> str:
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return printable(mend(f"{error.code} {error.message}".strip()))
    # aiosmtplib, and each event loop in its own way, puts host, port and number around what the system says.
    system = next((link for link in (error, error.__cause__) if isinstance(link, OSError) and link.strerror), None)
    if system is not None:
        known = (system.errno or 0) > 0 and not isinstance(system, ssl.SSLError)  # others count in their own way
        return printable(os.strerror(system.errno or 0) if known else str(system.strerror))
    with contextlib.suppress(IndexError):
        return printable(mend(str(error.args[0])))
    return type(error).__name__


_HIDDEN = "(hidden)"
_TOKEN = re.compile(r"[A-Za-z0-9+/]{2,}={0,2}")


def discreet(text: str, username: str, password: str) -> str:
    """A relay's words without the password: many a server repeats the command that it does not like.

    Hides it as such, in what PLAIN and LOGIN (RFC 4616) make of it, in full or cut, and CRAM-MD5's answer (RFC 2195).
    """
    if not password:
        return text
    plain = f"\0{username}\0{password}"
    known = [base64.b64encode(each.encode()).decode().rstrip("=").lower() for each in (plain, password)]

    def hide(match: re.Match[str]) -> str:
        token = match[0].rstrip("=")
        small = token.lower()
        if any(each in small or (len(small) >= 4 and each.startswith(small)) for each in known):
            return _HIDDEN
        with contextlib.suppress(ValueError):
            said = base64.b64decode(token + "=" * (-len(token) % 4))
            if said.startswith(f"{username} ".encode()) or password.encode() in said:
                return _HIDDEN
        return match[0]

    return re.sub(re.escape(password), _HIDDEN, _TOKEN.sub(hide, text), flags=re.IGNORECASE)
