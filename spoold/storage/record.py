"""The rows of the database as values: what the store takes and gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from spoold.core.message.wire import MessageFacts
from spoold.core.state import JobState, RecipientState, Standing, Transition

_SHIFT = 32


def id_in_job(job_id: int, number: int) -> int:
    """The id of a job's n-th recipient, or of its n-th message, n from 1."""
    return job_id << _SHIFT | number


def job_of(recipient: int) -> int:
    """The job of a recipient's id."""
    return recipient >> _SHIFT


def id_range(job_id: int) -> tuple[int, int]:
    """The lowest and the highest id that a recipient of the job can have."""
    return job_id << _SHIFT, (job_id + 1 << _SHIFT) - 1


class Message(NamedTuple):
    """A message file as it was when it was taken. `size` is its size on the wire; None: it cannot be sent."""

    id: int
    path: str
    sha256: bytes
    size: int
    eight_bit: bool
    eight_bit_header: bool
    added: bytes


class NewMessage(NamedTuple):
    """A message at intake: the `number`-th of its job, from 1; without facts it cannot be sent."""

    number: int
    path: str
    sha256: bytes | None
    facts: MessageFacts | None


class NewRecipient(NamedTuple):
    """A recipient at intake; `message` is the number of its message in the job, `failure` is (status, diagnostic, category)
    where it has failed already.

    The order of the fields is the one in which `storage.admission` reads them.
    """

    line: int
    address: str
    domain: str
    smtputf8: bool
    message: int | None
    extra: Mapping[str, str] | None
    failure: tuple[str, str, str] | None = None


class DueRecipient(NamedTuple):
    """A recipient that may be claimed. `domain` is the one that tallies go by; `address` goes into the envelope."""

    id: int
    address: str
    domain: str
    smtputf8: bool
    message: Message
    state: RecipientState
    attempts: int
    first_attempt_at: float | None
    due_at: float


class Record(NamedTuple):
    """The end of one recipient's transaction, for the store. `at` is when it ended; `counted` False leaves no attempt."""

    recipient: DueRecipient
    transition: Transition
    relay: str
    remote_mta: str
    at: float
    counted: bool


@dataclass(frozen=True, slots=True)
class Compact:
    """What a job's job.yaml was found to mean, and the key of what that was made from; see `core.compact`."""

    key: bytes
    manifest: bytes


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as the database has it; times are POSIX seconds. `counts` has every state but *sending*."""

    id: int
    name: str
    standing: Standing
    since: float
    manifest: bytes
    timing: bytes | None
    """An edited job.yaml, of which only the timing keys count."""
    compact: Compact | None
    accepted_at: float
    total: int
    held: bool
    cancelled: bool
    expired: bool
    warnings: tuple[str, ...]
    errors: tuple[str, ...]
    attempts_bytes: int
    attempts_id: int
    counts: dict[RecipientState, int] = field(default_factory=dict)

    @property
    def state(self) -> JobState:
        return self.standing.state


@dataclass(frozen=True, slots=True)
class Admitted:
    """What intake found out about a job by the time it is accepted."""

    upload: str
    manifest: bytes
    claim: int
    """The inode of the upload's folder, by which a restart knows it again."""
    digest: bytes
    standing: Standing
    warnings: tuple[str, ...]
    errors: tuple[str, ...]
    held: bool
    cancelled: bool
    compact: Compact | None = None
