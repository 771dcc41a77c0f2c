"""A message file that brings its envelope along: `X-Sender:` and `X-Receiver:` before everything else.

The form in which Exchange's replay and IIS's pickup folder, and PowerMTA's, take single messages. The lines of the
envelope are no part of the message: they are not sent.
"""

from dataclasses import dataclass

from spoold.core.message.header import HeaderField, header_fields
from spoold.core.message.wire import HEADER_LIMIT
from spoold.core.problem import Problem, printable
from spoold.core.recipient.address import AddressError, parse_address

SENDER = "x-sender"
RECEIVER = "x-receiver"
#: What the servers that write such files put among those two; the last one ends them.
_OTHERS = frozenset({
    "x-createdby", "x-helodomain", "x-extendedprops", "x-extendedmessageprops", "x-source", "x-sourceipaddress",
    "x-envid", "x-virtual-mta", "x-job", "x-endofinjectedxheaders",
})  # fmt: skip
_LAST = "x-endofinjectedxheaders"
#: Bytes that an envelope may take.
ENVELOPE_LIMIT = 1 << 22


@dataclass(frozen=True, slots=True)
class Pickup:
    """The envelope at the beginning of a file. `sender` "" is the null sender; `length` is how many bytes it takes.

    `receivers` are the addresses as written, not checked; `problems` is what keeps the file from being a job.
    """

    sender: str
    receivers: tuple[str, ...]
    length: int
    problems: tuple[Problem, ...]


def read_pickup(head: bytes, name: str) -> Pickup | None:
    """The envelope in `head`, the first `ENVELOPE_LIMIT` bytes of the file `name`; None where it has none.

    What stands behind an address (`NOTIFY=NEVER`, `ORCPT=…`, `BODY=…`) is left out. Case does not matter.
    """
    fields: list[HeaderField] = []
    for field in header_fields(head, ENVELOPE_LIMIT):
        if field.name not in (SENDER, RECEIVER) and (field.name not in _OTHERS or not fields):
            break
        fields.append(field)
        if field.name == _LAST:
            break
    if not fields:
        return None
    problems: list[Problem] = []
    senders: list[str] = []
    receivers: list[str] = []
    for field in fields:
        if field.name == RECEIVER:
            receivers.append(_address(field.value))
        elif field.name == SENDER:
            senders.append(_address(field.value))
            line = head.count(b"\n", 0, field.start) + 1
            if len(senders) > 1:
                problems.append(Problem(f"{name}:{line}", "a second X-Sender; expected one"))
                break
            try:
                _ = senders[0] and parse_address(senders[0])
            except AddressError as error:
                problems.append(Problem(f"{name}:{line}", f"X-Sender: {printable(str(error), 300)}"))
    if len(head) >= ENVELOPE_LIMIT and fields[-1].end > len(head) - HEADER_LIMIT:
        problems.append(Problem(name, "the X-Receiver lines take more than 4 MiB; make it a job with a recipients.csv"))
    if not senders:
        problems.append(
            Problem(name, "no X-Sender; expected one before the header of the message (<> is the null sender)")
        )
    if not receivers:
        problems.append(
            Problem(name, "no X-Receiver; expected one for each recipient, before the header of the message")
        )
    return Pickup(senders[0] if senders else "", tuple(receivers), fields[-1].end, tuple(problems))


def _address(value: str) -> str:
    """The address of `<ada@example.org> NOTIFY=NEVER`, or of the same without brackets."""
    if value.startswith("<"):
        return value[1:].partition(">")[0].strip()
    if value.startswith('"'):
        return value  # a quoted local part may have blanks
    return value.partition(" ")[0].partition(";")[0]
