"""What Postfix has put into a mailbox, taken apart into what was sent and what Postfix added."""

from collections.abc import Sequence
from dataclasses import dataclass

#: What virtual(8) and smtpd(8) put on top, each exactly once and in this order.
_ADDED = (b"Return-Path:", b"X-Original-To:", b"Delivered-To:", b"Received:")


@dataclass(frozen=True, slots=True)
class Delivered:
    """One copy of a message in a mailbox.

    `data` is the message as it was sent, with LF line ends; `added` is what Postfix put in front of it: the
    Received field tells protocol, TLS version, and queue id. `sender` is the envelope sender, "" for the null
    sender.
    """

    recipient: str
    sender: str
    data: bytes
    added: bytes


def strip_added(delivered: bytes) -> tuple[bytes, bytes]:
    """Split a delivered file into what Postfix added and what was sent; ValueError if a field is not as
    expected.
    """
    at = 0
    for name in _ADDED:
        if not delivered.startswith(name, at):
            raise ValueError(f"at byte {at}: {delivered[at : at + 40]!r}, expected the field {name.decode()}")
        at = delivered.index(b"\n", at) + 1
        while delivered[at : at + 1] in (b" ", b"\t"):
            at = delivered.index(b"\n", at) + 1
    return delivered[:at], delivered[at:]


def delivered(file: bytes) -> Delivered:
    """Read one file of a Maildir."""
    added, data = strip_added(file)
    lines = (line for line in added.decode().splitlines() if line[:1] not in (" ", "\t"))
    fields = dict(line.split(": ", 1) for line in lines)
    return Delivered(fields["Delivered-To"], fields["Return-Path"].strip("<>"), data, added)


def fields(file: bytes, names: Sequence[bytes]) -> tuple[dict[str, str], bytes]:
    """The fields that a server has put in front, each exactly once and in this order, unfolded; and what was sent.

    ValueError if a field is not as expected.
    """
    found = {}
    at = 0
    for name in names:
        if not file.startswith(name + b":", at):
            raise ValueError(f"at byte {at}: {file[at : at + 40]!r}, expected the field {name.decode()}")
        start = at + len(name) + 1
        at = file.index(b"\n", at) + 1
        while file[at : at + 1] in (b" ", b"\t"):
            at = file.index(b"\n", at) + 1
        found[name.decode()] = " ".join(file[start:at].decode().split())
    return found, file[at:]
