"""The AUTH exchange of a scripted relay: PLAIN (RFC 4616) and LOGIN, with or without an initial response."""

import base64
import binascii
from collections.abc import Awaitable, Callable

from tests.servers.settings import Settings


async def log_in(settings: Settings, line: str, challenge: Callable[[str], Awaitable[str]]) -> tuple[str, str | None]:
    """Go through the exchange that `line` (what follows AUTH) begins; returns the reply and the user, if it
    is one.

    `challenge` sends a 334 line with this text and returns the client's answer. An answer that is not base64,
    `*` for one, ends the exchange.
    """
    mechanism, _, initial = line.partition(" ")
    mechanism = mechanism.upper()
    if settings.credentials is None or mechanism not in settings.mechanisms:
        return settings.text(504, "5.5.4", "Unrecognized authentication type"), None
    try:
        if mechanism == "PLAIN":
            _, user, password = _decode(initial or await challenge(_encode(""))).split("\0")
        else:
            user = _decode(initial or await challenge(_encode("Username:")))
            password = _decode(await challenge(_encode("Password:")))
    except (ValueError, binascii.Error):
        return settings.text(501, "5.5.2", "Cannot decode the response"), None
    if (user, password) != settings.credentials:
        return settings.text(535, "5.7.8", "Authentication credentials invalid"), None
    return settings.text(235, "2.7.0", "Authentication successful"), user


def _decode(text: str) -> str:
    return base64.b64decode(text, validate=True).decode()


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
