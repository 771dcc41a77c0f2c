"""Any order of events in the life of some jobs: the real store, on a real file, beside a model that keeps a table by hand."""

import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from spoold.core.schedule.retry import RetryPolicy
from spoold.core.state import JobState, RecipientState, Standing
from spoold.storage.record import DueRecipient, id_in_job
from tests.servers.audit import recount_states
from tests.unit.storage.admitting import NOW, admit
from tests.unit.storage.machine import StoreMachine
from tests.unit.storage.sending import OUTCOMES, due, record

REST = 900.0
DELAY = 60.0
LIFETIME = 2000.0
RETRY = RetryPolicy((DELAY,), LIFETIME)
JOBS = 3
QUEUED, DEFERRED, SENDING, UNCERTAIN, SENT, FAILED, EXPIRED, CANCELLED = RecipientState


@dataclass
class Person:
    """A recipient as the model has it; `claim` is what was claimed, and when."""

    state: RecipientState
    due_at: float | None
    attempts: int = 0
    first: float | None = None
    claim: DueRecipient | None = None
    claimed_at: float = 0.0


@dataclass
class Job:
    people: dict[int, Person]
    standing: Standing = field(default_factory=lambda: Standing(JobState.SENDING))
    held: bool = False
    cancelled: bool = False
    expired: bool = False
    replies: int = 0
    sent: set[int] = field(default_factory=set)

    def can_send(self, now: float) -> set[int]:
        return {
            id_
            for id_, person in self.people.items()
            if person.claim is None and person.due_at is not None and person.due_at <= now
        }


picks = st.lists(st.integers(0, 11), min_size=1, max_size=8, unique=True)


class Spool(StoreMachine):
    """Rules do to the store and to the model what the agent does, and what happens to it; then all must be the same."""

    @initialize()
    def begin(self) -> None:
        self.set_up()
        self.lives = 0
        self.now = NOW
        self.jobs: dict[int, Job] = {}
        self.forgotten: set[int] = set()
        self.admitted = 0
        self.admit(7, 2)

    def pick(self, number: int) -> tuple[int, Job]:
        return list(self.jobs.items())[number % len(self.jobs)]

    # --- the life of jobs ---------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.jobs) < JOBS)
    @rule(good=st.integers(1, 9), bad=st.integers(0, 2))
    def admit(self, good: int, bad: int) -> None:
        self.admitted += 1
        addresses = [f"to{n}@{'abc'[n % 3]}.example" for n in range(good)]
        job_id = admit(self.database, f"job-{self.admitted}", addresses, bad=bad)
        people = {id_in_job(job_id, n): Person(QUEUED, NOW) for n in range(1, good + 1)}
        people |= {id_in_job(job_id, good + n): Person(FAILED, None) for n in range(1, bad + 1)}
        assert job_id not in self.jobs
        self.jobs[job_id] = Job(people, replies=bad)
        self.forgotten.discard(job_id)  # ids are used again

    @rule(job=st.integers(0), pick=picks)
    def claim(self, job: int, pick: list[int]) -> None:
        job_id, model = self.pick(job)
        ready = {found.id: found for found in due(self.store, job_id, self.now)}
        can = model.can_send(self.now)
        assert ready.keys() - can == {id_ for id_ in ready if model.people[id_].claim is not None}
        assert can <= ready.keys()
        # Some of them twice, some that are nobody's, some that cannot be claimed.
        ids = [id_in_job(job_id, number) for number in pick]
        granted = self.calls.claim([*ids, ids[0]], self.now)
        assert granted == [id_ for id_ in ids if id_ in can]
        for id_ in granted:
            assert id_ not in model.sent
            model.people[id_].claim = ready[id_]
            model.people[id_].claimed_at = self.now

    @rule(
        job=st.integers(0),
        pick=picks,
        results=st.lists(st.sampled_from(sorted(OUTCOMES)), min_size=1),
        hold=st.booleans(),
    )
    def record(self, job: int, pick: list[int], results: list[str], hold: bool) -> None:
        _, model = self.pick(job)
        claimed = [(id_, person) for id_, person in model.people.items() if person.claim is not None]
        chosen = [claimed[number] for number in pick if number < len(claimed)]
        records = []
        for number, (id_, person) in enumerate(chosen):
            result = results[number % len(results)]
            assert person.claim is not None
            records.append(record(person.claim, OUTCOMES[result], self.now, hold, RETRY))
            person.claim = None
            self.settle(model, id_, person, result, hold)
        if records:
            self.calls.record(records)

    def settle(self, model: Job, id_: int, person: Person, result: str, hold: bool) -> None:
        """The table of what an outcome means, by hand."""
        if result == "returned":
            person.due_at = self.now
            return
        person.attempts += 1
        model.replies += 1
        person.first = self.now if person.first is None else person.first
        wait = DELAY if result == "deferred" else REST
        if result in ("sent", "failed"):
            person.state, person.due_at = (SENT if result == "sent" else FAILED), None
            if result == "sent":
                model.sent.add(id_)
        elif result == "uncertain" and hold:
            person.state, person.due_at = UNCERTAIN, None
        elif self.now + wait > person.first + LIFETIME:
            person.state, person.due_at = EXPIRED, None
        else:
            person.state, person.due_at = (DEFERRED if result == "deferred" else UNCERTAIN), self.now + wait

    @rule(job=st.integers(0), pick=picks)
    def release(self, job: int, pick: list[int]) -> None:
        _, model = self.pick(job)
        claimed = [id_ for id_, person in model.people.items() if person.claim is not None]
        chosen = [claimed[number] for number in pick if number < len(claimed)]
        self.calls.release(chosen)
        for id_ in chosen:
            model.people[id_].claim = None

    @rule(job=st.integers(0), uncertain=st.booleans())
    def retry_now(self, job: int, uncertain: bool) -> None:
        job_id, model = self.pick(job)
        state = UNCERTAIN if uncertain else DEFERRED
        waiting = [
            person
            for person in model.people.values()
            if person.claim is None and person.state is state and (person.due_at is None or person.due_at > self.now)
        ]
        assert self.calls.retry_now(job_id, self.now, uncertain=uncertain) == len(waiting)
        for person in waiting:
            person.due_at = self.now

    @rule(job=st.integers(0), held=st.booleans())
    def hold(self, job: int, held: bool) -> None:
        job_id, model = self.pick(job)
        model.held = held
        model.standing = Standing(JobState.HELD) if held else Standing(JobState.WAITING, "retry", self.now + 1)
        self.mark(job_id, model)

    @rule(job=st.integers(0))
    def cancel(self, job: int) -> None:
        job_id, model = self.pick(job)
        model.cancelled = True
        self.mark(job_id, model)
        self.calls.end_unsent(job_id, CANCELLED)
        for person in model.people.values():
            if person.claim is None and person.due_at is not None:
                person.due_at = None
                if person.state is not UNCERTAIN:
                    person.state = CANCELLED

    @rule(job=st.integers(0))
    def expire(self, job: int) -> None:
        job_id, model = self.pick(job)
        model.expired = True
        self.mark(job_id, model)
        self.calls.end_unsent(job_id, EXPIRED)
        for person in model.people.values():
            if person.claim is None and (person.due_at is not None or person.state is UNCERTAIN):
                person.state, person.due_at = EXPIRED, None
                model.replies += 1

    def mark(self, job_id: int, model: Job) -> None:
        flags = {"held": model.held, "cancelled": model.cancelled, "expired": model.expired}
        self.calls.mark(job_id, model.standing, self.now, **flags)

    @precondition(lambda self: len(self.jobs) > 1)
    @rule(job=st.integers(0))
    def forget(self, job: int) -> None:
        job_id, model = self.pick(job)
        if not any(person.claim for person in model.people.values()):
            self.store.forget(job_id)
            del self.jobs[job_id]
            self.forgotten.add(job_id)

    # --- what happens to it --------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1.0, DELAY, 1000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(seconds=st.sampled_from([10.0, 5000.0]))
    def clock_is_set_back(self, seconds: float) -> None:
        self.now -= seconds
        self.calls.set_back(seconds, self.now)
        for model in self.jobs.values():
            for person in model.people.values():
                if person.due_at is not None and person.due_at > self.now:
                    person.due_at = max(self.now, person.due_at - seconds)

    @rule(hold=st.booleans())
    def crash(self, hold: bool) -> None:
        """What a killed process leaves are the files as they are; nothing was closed."""
        self.lives += 1
        left = self.path.with_name(f"spool-{self.lives}.db")
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{self.path}{suffix}", f"{left}{suffix}")
        self.database.close()
        self.path = left
        self.open()
        opened = {job_id: {id_ for id_, each in job.people.items() if each.claim} for job_id, job in self.jobs.items()}
        assert self.store.claimed_jobs() == {job_id for job_id, ids in opened.items() if ids}
        overrides = dict.fromkeys(self.jobs, None) if hold else {}
        assert self.store.recover(self.now, overrides, REST) == sum(map(len, opened.values()))
        for job in self.jobs.values():
            for person in job.people.values():
                if person.claim is None:
                    continue
                person.claim = None
                person.state, person.due_at = UNCERTAIN, None if hold else self.now + REST
                person.attempts += 1
                person.first = person.claimed_at if person.first is None else person.first
                job.replies += 1

    # --- what must always be so ------------------------------------------------------------------------------------------

    @invariant()
    def everybody_is_in_the_one_state_that_the_model_has(self) -> None:
        for job_id, model in getattr(self, "jobs", {}).items():
            rows = list(self.ledger.recipients(job_id))
            assert len(rows) == len(model.people)
            for row, person in zip(rows, model.people.values(), strict=True):
                assert row.state is (SENDING if person.claim else person.state)
                assert (row.attempts, row.due_at) == (person.attempts, person.due_at)
                assert (person.state in (QUEUED, DEFERRED)) <= (person.due_at is not None)
                assert not person.state.final or person.due_at is None
            counts = self.ledger.counts(job_id)
            assert counts == {state: sum(row.state is state for row in rows) for state in RecipientState}
            assert sum(counts.values()) == len(model.people)
            job = self.store.job(job_id)
            assert job is not None
            assert job.total == len(model.people)
            assert job.counts == Counter(person.state for person in model.people.values())
            assert (job.standing, job.held, job.cancelled) == (model.standing, model.held, model.cancelled)
            assert job.expired is model.expired

    @invariant()
    def a_recount_gives_the_tallies(self) -> None:
        if not hasattr(self, "jobs"):
            return
        with closing(sqlite3.connect(self.path)) as database:
            recount_states(database)
            replies = dict(database.execute("SELECT job_id, sum(n) FROM reply_tally GROUP BY job_id"))
            attempts = dict(database.execute("SELECT job_id, count(*) FROM attempt GROUP BY job_id"))
            claims = {row[0] for row in database.execute("SELECT id FROM claim")}
        for job_id, model in self.jobs.items():
            assert replies.get(job_id, 0) == model.replies
            tried = sum(person.attempts for person in model.people.values())
            assert attempts.get(job_id, 0) == tried == self.ledger.attempt_count(job_id)[0]
        assert claims == {id_ for job in self.jobs.values() for id_, person in job.people.items() if person.claim}
        assert not (replies.keys() | attempts.keys()) & self.forgotten


Spool.TestCase.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSpool = Spool.TestCase
