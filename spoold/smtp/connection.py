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
from collections.abc import Callable, Sequence
from typing import cast

import aiosmtplib

from spoold.core.fault import Fault, FaultKind
from spoold.core.problem import printable
from spoold.smtp.dialer import Memory, dial
from spoold.smtp.relay import Relay, SecretError, Security
from spoold.smtp.resolver import Endpoint, endpoints, is_address
from spoold.smtp.session import Session

#: OpenSSL's codes for a certificate of another host, or of another IP address.
_WRONG_NAME = (62, 64)


async def connect(relay: Relay, memory: Memory | None = None) -> Session | Fault:
    """An open, encrypted, logged-in session, or what is in its way.

    All addresses of the relay's name are tried, within `timeouts.connect` for them together up to the last one's greeting
    (RFC 5321 §5.1). `memory`, of this relay's connections, lets those wait for the others that have just failed.
    """
    try:
        # Reading the system's authorities takes some ten milliseconds: not on the loop.
        context = await asyncio.to_thread(_context, relay) if relay.security is not Security.NONE else None
        password = relay.password() if relay.username is not None and relay.password is not None else None
    except (OSError, ssl.SSLError) as error:
        return Fault(FaultKind.TLS, f"{relay.address}: ca_file {relay.ca_file}: {_reason(error)}")
    except SecretError as error:
        return Fault(FaultKind.LOGIN, f"{relay.address}: {error}")
    return await _Approach(relay, context, password, memory or Memory()).session()


async def find(relay: Relay) -> list[Endpoint] | Fault:
    """The addresses of the relay's name, within `timeouts.connect`."""
    within = relay.timeouts.connect
    try:
        async with asyncio.timeout(within):
            return await endpoints(relay.host, relay.port)
    except TimeoutError:
        return Fault(FaultKind.DNS, f"{relay.address}: no name server answered within {within:g} s")
    except OSError as error:
        return Fault(FaultKind.DNS, f"{relay.address}: the host's name cannot be resolved: {_reason(error)}")


class _Approach:
    """One way to a session, address by address."""

    def __init__(self, relay: Relay, context: ssl.SSLContext | None, password: str | None, memory: Memory) -> None:
        self._relay = relay
        self._context = context
        self._password = password
        self._memory = memory
        self._within = relay.timeouts.connect
        self._loop = asyncio.get_running_loop()
        self._ends = self._loop.time() + self._within
        self._faults: dict[Endpoint, Fault] = {}

    @property
    def _left(self) -> float:
        return self._ends - self._loop.time()

    async def session(self) -> Session | Fault:
        relay = self._relay
        found = await find(relay)
        if isinstance(found, Fault):
            return found
        left = self._memory.order(found)
        while left:
            failures: dict[Endpoint, OSError] = {}
            reached = await dial(left, self._left, failures)
            for endpoint, error in failures.items():
                left.remove(endpoint)
                self._fail(endpoint, _fault(relay, error, self._password))
            if reached is None:
                for endpoint in left:
                    self._fail(endpoint, _fault(relay, TimeoutError(), self._password))
                break
            endpoint, connection = reached
            left.remove(endpoint)
            session = await self._open(connection, others=len(left))
            if isinstance(session, Session) or session.kind is FaultKind.LOGIN:
                # A login is refused for what it is, by whichever address; nobody tries it many times.
                return session
            self._fail(endpoint, session)
        return self._whole(found)

    def _fail(self, endpoint: Endpoint, fault: Fault) -> None:
        self._faults[endpoint] = fault
        self._memory.failed(endpoint)

    def _whole(self, tried: Sequence[Endpoint]) -> Fault:
        """One fault for all addresses: of the kind of the one that got farthest, with what each of them said."""
        faults = self._faults
        kinds = [faults[endpoint].kind for endpoint in tried if endpoint in faults]
        kind = next((kind for kind in kinds if kind is not FaultKind.CONNECT), FaultKind.CONNECT)
        at = f"{self._relay.address}: "
        if is_address(self._relay.host):
            return Fault(kind, "; ".join(fault.text for fault in faults.values()))
        said = {str(endpoint): faults[endpoint].text.removeprefix(at) for endpoint in tried if endpoint in faults}
        return Fault(kind, at + "; ".join(f"{endpoint}: {text}" for endpoint, text in said.items()))

    async def _open(self, connection: socket.socket, *, others: int) -> Session | Fault:
        """TLS, EHLO and login on a connection; beside `others` that are still to be tried it has its share of the time."""
        if not others:
            return await self._greet(connection, max(self._left, 0.001), self._within)
        share = max(self._left / (others + 1), 0.001)
        try:
            async with asyncio.timeout(share):
                return await self._greet(connection, share, share)
        except TimeoutError as error:
            return _fault(self._relay, error, self._password)

    async def _greet(self, connection: socket.socket, first: float, each: float) -> Session | Fault:
        """`first` and `each` are the seconds that the relay has for its greeting and for every step after that."""
        relay = self._relay
        try:
            client = aiosmtplib.SMTP(
                hostname=relay.host,
                sock=connection,
                timeout=each,
                use_tls=relay.security is Security.TLS,
                start_tls=False,
                tls_context=self._context,
                local_hostname=_local_hostname(),
            )
        except ValueError as error:
            connection.close()
            return _fault(relay, error, self._password)
        try:
            await client.connect(timeout=first)
            await client.ehlo()
            if relay.security is Security.STARTTLS:
                try:
                    await client.starttls()
                except aiosmtplib.SMTPServerDisconnected as error:
                    client.close()
                    text = f"{relay.address}: the relay broke off the TLS handshake: {_reason(error)}"
                    return Fault(FaultKind.TLS, text)
                await client.ehlo()
            if relay.username is not None:
                # aiosmtplib picks the mechanism: CRAM-MD5, PLAIN, LOGIN, as the server offers them (RFC 4954).
                await client.login(relay.username, self._password or "")
        except (TimeoutError, aiosmtplib.SMTPException, OSError, ValueError) as error:
            client.close()
            return _fault(relay, error, self._password)
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
    # RFC 9525 §6.3: a name in the subject's CN says nothing; anybody may have written it there.
    context.hostname_checks_common_name = False
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
        words = f"{at}: the relay's certificate is not trusted: {found.verify_message}"
        if found.verify_code in _WRONG_NAME:
            words += f" Expected the name {relay.host}, as the relay is called here, in its subjectAltName; a CN does not count"
        return Fault(FaultKind.TLS, words)
    if isinstance(error, aiosmtplib.SMTPException) and "AUTH extension" in text:
        return Fault(FaultKind.LOGIN, f"{at}: the relay offers no login: {text}")
    if any(isinstance(link, ssl.SSLError) for link in chain) or "STARTTLS" in text.upper():
        return Fault(FaultKind.TLS, f"{at}: TLS failed: {text}")
    if isinstance(error, aiosmtplib.SMTPAuthenticationError):
        return Fault(FaultKind.LOGIN, f"{at}: the relay refused the login of {relay.username}: {text}")
    if isinstance(error, (aiosmtplib.SMTPTimeoutError, asyncio.TimeoutError)):
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
