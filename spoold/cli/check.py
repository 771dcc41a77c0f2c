"""`spoold check`: whether the agent could work: configuration, spool, relays, and on request a real message."""

import argparse
import asyncio
import os
import secrets
import socket
import sys
import time
from datetime import UTC, datetime
from email.utils import format_datetime

from spoold import __version__
from spoold.agent.supervisor import RESERVE
from spoold.cli.command import UsageError, configuration, open_spool
from spoold.cli.config import Config, SecretFile
from spoold.core.address import Address, AddressError, parse_address
from spoold.core.outcome import Fault, Result
from spoold.smtp.connection import Relay, connect
from spoold.smtp.session import Envelope, Session
from spoold.storage.spooldir import FOLDERS


class _Doctor:
    """Prints one line a thing and remembers whether all was well."""

    def __init__(self) -> None:
        self.failed = False

    def good(self, text: str) -> None:
        print(f"ok       {text}")

    def warn(self, text: str) -> None:
        print(f"warning  {text}")

    def bad(self, text: str) -> None:
        self.failed = True
        sys.stdout.flush()
        print(f"error    {text}", file=sys.stderr)


def run(options: argparse.Namespace) -> int:
    """One line a thing; 1 if one of them is wrong."""
    recipient: Address | None = None
    if options.send_to is not None:
        try:
            recipient = parse_address(options.send_to)
        except AddressError as error:
            raise UsageError(f"--send-to: {error}") from None
    found = configuration(options)
    doctor = _Doctor()
    doctor.good(f"configuration {found.path}")
    for warning in found.agent.warnings:
        doctor.warn(warning)
    _check_spool(found, doctor)
    asyncio.run(_check_relays(found, recipient, doctor))
    return int(doctor.failed)


def _check_spool(found: Config, doctor: _Doctor) -> None:
    spool = open_spool(found.spool)
    for name in ("tmp", *FOLDERS):
        if not os.access(f"/proc/self/fd/{spool.fd(name)}", os.W_OK | os.X_OK):
            doctor.bad(f"spool {found.spool}: {name}/ cannot be written to by this user")
    free = spool.files.free_bytes(spool.root)
    if free < RESERVE:
        doctor.bad(f"spool {found.spool}: {free} bytes free; the agent sends nothing below {RESERVE}")
    running = "an agent runs on it" if spool.is_locked() else "no agent runs on it now"
    doctor.good(f"spool {found.spool}, {running}")


async def _check_relays(found: Config, recipient: Address | None, doctor: _Doctor) -> None:
    for relay in found.agent.relays.values():
        if isinstance(relay.password, SecretFile) and (problem := relay.password.problem()) is not None:
            doctor.warn(f"relay {relay.name}: {problem}")
        session = await connect(relay)
        if isinstance(session, Fault):
            doctor.bad(f"relay {relay.name}: {session}")
            continue
        login = f", logged in as {relay.username}" if relay.username else ""
        doctor.good(f"relay {relay.name} at {relay.address}, security {relay.security}{login}")
        if recipient is not None:
            await _send(session, relay, recipient, doctor)
        await session.close()


async def _send(session: Session, relay: Relay, recipient: Address, doctor: _Doctor) -> None:
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
        doctor.good(text)
    else:
        doctor.bad(text)
