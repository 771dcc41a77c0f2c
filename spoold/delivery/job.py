"""A job that is not done, as the running agent holds it: what the database says, and what is under way right now."""

from dataclasses import dataclass, field, replace
from datetime import datetime

from spoold.core.manifest import Manifest
from spoold.core.schedule.planner import JobSnapshot
from spoold.core.state import RecipientState, Standing
from spoold.core.terms import Terms
from spoold.delivery.backlog import FIRST, Backlog
from spoold.storage.record import DueRecipient, JobRow

#: How many recipients are read ahead at the least.
AHEAD = 100

_UNFINISHED = tuple(state for state in RecipientState if not state.final)


@dataclass(slots=True)
class LiveJob:
    """`counts` leaves *sending* out: a recipient in an open transaction counts as what it was before."""

    id: int
    name: str
    manifest: Manifest
    """With the timing that counts now."""
    source: bytes
    """The job.yaml that the timing comes from."""
    terms: Terms
    accepted_at: float
    standing: Standing
    since: float
    counts: dict[RecipientState, int]
    held: bool
    cancelled: bool
    expired: bool
    warnings: list[str]
    backlog: Backlog = field(default_factory=Backlog)
    """Read ahead: due, and in no transaction."""
    open: set[int] = field(default_factory=set)
    """The ids of recipients in open transactions, until their outcome is recorded."""
    next_due: float | None = 0.0
    """The next moment at which a recipient outside `backlog` and `open` may be due; None if there is none."""
    cursor: tuple[float, int] = FIRST
    """How far the present pass of reading ahead has come."""
    reading: bool = False
    read_at: float = 0.0
    ahead: int = AHEAD
    """How many are read at a time, by how fast they go."""
    missed: bool = False
    """Something became due behind the cursor: one more pass."""
    ending: bool = False
    """Recipients are being given a final state in the database."""
    queued: bool = False
    """The job is in its relay's rotation."""
    throttled_until: float = 0.0
    """A rate forbids the next transaction before this moment."""
    free_from: float = 0.0
    free_until: float = 0.0
    """Between these two moments nothing forbids a transaction, whatever the rates say."""
    wake_at: float | None = None
    """When the dispatcher looks at the job again by itself."""

    @classmethod
    def of(cls, row: JobRow, manifest: Manifest, terms: Terms) -> "LiveJob":
        return cls(
            id=row.id,
            name=row.name,
            manifest=manifest,
            source=row.timing or row.manifest,
            terms=terms,
            accepted_at=row.accepted_at,
            standing=row.standing,
            since=row.since,
            counts=dict(row.counts),
            held=row.held,
            cancelled=row.cancelled,
            expired=row.expired,
            warnings=list(row.warnings),
        )

    @property
    def sendable_from(self) -> float:
        """The moment from which on the job could be sent, its windows and rates apart."""
        return max(self.accepted_at, self.terms.send_after or 0.0)

    @property
    def is_short(self) -> bool:
        """Whether more should be read."""
        return self.backlog.short < self.ahead // 2

    @property
    def unfinished(self) -> int:
        return sum([self.counts.get(state, 0) for state in _UNFINISHED])

    def snapshot(self, now: float, *, relay_up: bool, relay_retry_at: float | None, disk_full: bool) -> JobSnapshot:
        due = self.next_due
        return JobSnapshot(
            unfinished=self.unfinished,
            open=len(self.open),
            ready=bool(self.backlog) or self.reading or (due is not None and due <= now),
            next_due=due,
            held=self.held,
            cancelled=self.cancelled,
            send_after=self.terms.send_after,
            expires_at=None if self.expired else self.terms.expires_at,
            schedule=self.terms.schedule,
            relay_up=relay_up,
            relay_retry_at=relay_retry_at,
            disk_full=disk_full,
            uncertain=self.counts.get(RecipientState.UNCERTAIN, 0),
        )

    def stepped(self, now: float) -> None:
        """The clock was set to `now`, POSIX seconds: every moment that was found out by the old one is asked for again."""
        self.throttled_until = self.free_until = 0.0
        self.backlog.clear()
        self.cursor = FIRST
        self.due_at(now)
        if (ahead := self.accepted_at - now) > 0:
            self.accepted_at = now
            if self.terms.expires_at is not None and not isinstance(self.manifest.timing.expires, datetime):
                self.terms = replace(self.terms, expires_at=self.terms.expires_at - ahead)

    def opened(self, claim: list[DueRecipient]) -> None:
        """A transaction for these begins."""
        self.open.update(recipient.id for recipient in claim)

    @property
    def is_lost(self) -> bool:
        """Whether recipients are to be tried of whom nothing is known here: neither at hand, nor when they are due."""
        return (
            self.next_due is None
            and not (self.backlog or self.backlog.has_lanes or self.open or self.reading or self.ending)
            and self.unfinished > self.counts.get(RecipientState.UNCERTAIN, 0)
        )

    def put_back(self, claim: list[DueRecipient]) -> None:
        """No transaction was opened for these after all."""
        self.backlog.put_back(claim)
        self.open.difference_update(recipient.id for recipient in claim)

    def due_at(self, moment: float) -> None:
        """A recipient outside `backlog` and `open` will be due at `moment`."""
        self.next_due = moment if self.next_due is None else min(self.next_due, moment)
        self.missed = True
