"""A job that is not done, as the running agent holds it: what the database says, and what is under way right now."""

from collections import deque
from dataclasses import dataclass, field
from datetime import tzinfo

from spoold.core.manifest import Manifest
from spoold.core.planner import JobSnapshot, Schedule
from spoold.core.retry import RetryPolicy
from spoold.core.state import RecipientState, Standing
from spoold.storage.record import DueRecipient, JobRow


@dataclass(frozen=True, slots=True)
class Terms:
    """When a job may send, and how it retries: its manifest's timing with the agent's defaults applied."""

    retry: RetryPolicy
    schedule: Schedule
    send_after: float | None
    expires_at: float | None
    zone: tzinfo
    unsupported: str | None = None
    """A key of the manifest that this version does not honour; the job is held rather than sent against its terms."""


@dataclass(slots=True)
class LiveJob:
    """`counts` leaves *sending* out: a recipient in an open transaction counts as what it was before."""

    id: int
    name: str
    manifest: Manifest
    manifest_bytes: bytes
    terms: Terms
    accepted_at: float
    standing: Standing
    since: float
    counts: dict[RecipientState, int]
    held: bool
    cancelled: bool
    expired: bool
    warnings: list[str]
    ready: deque[DueRecipient] = field(default_factory=deque)
    """Read ahead: due, and in no transaction."""
    open: set[int] = field(default_factory=set)
    """The ids of recipients in open transactions, until their outcome is recorded."""
    next_due: float | None = 0.0
    """The next moment at which a recipient outside `ready` and `open` may be due; None if there is none."""
    reading: bool = False
    again: bool = False
    """Something became due while a read was under way: read once more."""
    ending: bool = False
    """Recipients are being given a final state in the database."""
    queued: bool = False
    """The job is in its relay's rotation."""

    @classmethod
    def of(cls, row: JobRow, manifest: Manifest, terms: Terms) -> "LiveJob":
        return cls(
            row.id, row.name, manifest, row.manifest, terms, row.accepted_at, row.standing, row.since, dict(row.counts), row.held,
            row.cancelled, row.expired, list(row.warnings),
        )  # fmt: skip

    @property
    def unfinished(self) -> int:
        return sum(count for state, count in self.counts.items() if not state.final)

    def snapshot(self, now: float, *, relay_up: bool, relay_retry_at: float | None, disk_full: bool) -> JobSnapshot:
        due = self.next_due
        return JobSnapshot(
            unfinished=self.unfinished,
            open=len(self.open),
            ready=bool(self.ready) or self.reading or (due is not None and due <= now),
            next_due=due,
            held=self.held or self.terms.unsupported is not None,
            hold_reason=None if self.held else self.terms.unsupported,
            cancelled=self.cancelled,
            send_after=self.terms.send_after,
            expires_at=None if self.expired else self.terms.expires_at,
            schedule=self.terms.schedule,
            relay_up=relay_up,
            relay_retry_at=relay_retry_at,
            disk_full=disk_full,
        )

    def take(self, limit: int) -> list[DueRecipient]:
        """The next recipients that share a message, at most `limit`; they count as open from here on."""
        claim: list[DueRecipient] = []
        while self.ready and len(claim) < limit:
            first = self.ready[0]
            if claim and (first.message.id != claim[0].message.id or first.smtputf8 != claim[0].smtputf8):
                break
            claim.append(self.ready.popleft())
            self.open.add(first.id)
        return claim

    def put_back(self, claim: list[DueRecipient]) -> None:
        """Undo `take`: no transaction was opened."""
        self.ready.extendleft(reversed(claim))
        self.open.difference_update(recipient.id for recipient in claim)

    def due_at(self, moment: float) -> None:
        """A recipient outside `ready` and `open` will be due at `moment`."""
        self.next_due = moment if self.next_due is None else min(self.next_due, moment)
        self.again = self.again or self.reading
