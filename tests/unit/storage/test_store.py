"""The store: a claim is given once, outcomes move counts in the same commit, and no sum is ever wrong."""

import asyncio
import math
import sqlite3
from contextlib import closing

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from spoold.core.state import JobState, RecipientState, Standing
from spoold.storage.admission import Admission
from spoold.storage.database import Database
from spoold.storage.ledger import LAST, Ledger, Wording
from spoold.storage.record import DueRecipient, id_in_job, id_range, job_of
from spoold.storage.store import Store
from tests.servers.audit import recount_states
from tests.unit.storage.admitting import NOW, admit
from tests.unit.storage.machine import StoreMachine
from tests.unit.storage.sending import FIRST, OUTCOMES, due, record


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


def addresses(count: int) -> list[str]:
    return [f"to{n}@{'ab'[n % 2]}.example" for n in range(count)]


async def test_of_many_who_claim_at_once_each_recipient_is_given_to_one(database: Database, store: Store) -> None:
    job_id = admit(database, "job", addresses(50))
    ids = [found.id for found in due(store, job_id)]
    grants = await asyncio.gather(*(store.journal.claim(ids[n % 7 :], "default", NOW) for n in range(20)))
    granted = [id_ for grant in grants for id_ in grant]
    assert sorted(granted) == ids


async def test_claim_is_refused_for_what_is_sent_waits_or_is_not_there(database: Database, store: Store) -> None:
    job_id = admit(database, "job", addresses(4), bad=1)
    sent, later, held, free = due(store, job_id)
    bad = id_in_job(job_id, 5)
    assert await store.journal.claim([sent.id, later.id, held.id], "default", NOW) == [sent.id, later.id, held.id]
    await store.journal.record([record(sent, OUTCOMES["sent"]), record(later, OUTCOMES["deferred"])])
    await store.journal.record([record(held, OUTCOMES["uncertain"], hold=True)])
    everybody = [sent.id, later.id, held.id, free.id, bad, id_in_job(job_id, 99)]
    assert await store.journal.claim(everybody, "default", NOW + 59) == [free.id]
    assert await store.journal.claim(everybody, "default", NOW + 61) == [later.id]
    assert await store.journal.claim(everybody, "default", NOW + 10**9) == []


async def test_outcome_is_in_the_recipient_the_attempt_and_the_counts(database: Database, store: Store) -> None:
    job_id = admit(database, "job", addresses(2))
    first, second = due(store, job_id)
    await store.journal.claim([first.id, second.id], "default", NOW)
    await store.journal.record([record(first, OUTCOMES["failed"]), record(second, OUTCOMES["returned"])])
    ledger = Ledger(database)
    counts = {state: count for state, count in ledger.counts(job_id).items() if count}
    assert counts == {RecipientState.FAILED: 1, RecipientState.QUEUED: 1}
    rows = list(ledger.recipients(job_id))
    assert [(row.state, row.attempts, row.status) for row in rows] == [
        (RecipientState.FAILED, 1, "5.1.1"),
        (RecipientState.QUEUED, 0, None),
    ]
    assert rows[0].diagnostic == "550 no such user"
    assert rows[0].remote_mta == "mx.example"
    text = Wording("r.address || ' ' || a.number || ' ' || a.result || ' ' || a.relay", "''", lambda *_: True)
    assert [line for line, _ in ledger.attempt_texts(job_id, 0, LAST, text)] == [f"{first.address} 1 failed default"]
    assert [found.id for found in due(store, job_id)] == [second.id]


async def test_recipients_come_in_order_of_their_time_in_pages_without_gap_or_repeat(
    database: Database, store: Store
) -> None:
    job_id = admit(database, "job", addresses(25))
    everybody = due(store, job_id)
    await store.journal.claim([found.id for found in everybody[:5]], "default", NOW)
    await store.journal.record([record(found, OUTCOMES["deferred"], NOW - 10) for found in everybody[:5]])
    seen: list[int] = []
    after = FIRST
    while page := store.agenda.due(job_id, NOW + 100, after, 7):
        seen += [found.id for found in page]
        after = (page[-1].due_at, page[-1].id)
    assert seen == [found.id for found in everybody[5:] + everybody[:5]]
    assert store.agenda.next_due(job_id, NOW) == NOW + 50
    assert store.agenda.next_due(job_id, NOW + 50) is None


def test_pages_have_neither_gap_nor_repeat_however_close_the_moments_are(database: Database, store: Store) -> None:
    job_id = admit(database, "job", addresses(30))
    everybody = [found.id for found in due(store, job_id)]
    moments = [NOW]
    while len(moments) < 10:
        moments.append(math.nextafter(moments[-1], math.inf))

    def spread(connection: sqlite3.Connection) -> None:
        rows = [(moments[number // 3], id_) for number, id_ in enumerate(everybody)]
        connection.executemany("UPDATE recipient SET due_at = ? WHERE id = ?", rows)

    database.write(spread)
    for size in (1, 2, 4):
        seen: list[int] = []
        after = FIRST
        while page := store.agenda.due(job_id, NOW + 1, after, size):
            seen += [found.id for found in page]
            after = (page[-1].due_at, page[-1].id)
        assert seen == everybody


async def test_jobs_know_nothing_of_each_other(database: Database, store: Store) -> None:
    one, two = admit(database, "one", addresses(3)), admit(database, "two", addresses(3))
    found = due(store, one)
    assert {job_of(each.id) for each in found} == {one}
    await store.journal.claim([each.id for each in found], "default", NOW)
    await store.journal.record([record(each, OUTCOMES["sent"]) for each in found])
    await store.stand(one, Standing(JobState.FINISHED), NOW)
    assert [job.name for job in store.live_jobs()] == ["two"]
    assert [job.name for job in store.done_jobs()] == ["one"]
    assert store.job(two).counts == {RecipientState.QUEUED: 3}  # type: ignore[union-attr]
    store.forget(one)
    assert store.job(one) is None
    with database.reading() as reader:
        low, high = id_range(one)
        for table, column in (("recipient", "id"), ("message", "id")):
            query = f"SELECT count(*) FROM {table} WHERE {column} BETWEEN ? AND ?"
            assert reader.execute(query, (low, high)).fetchone() == (0,)
        for table in ("attempt", "state_tally", "domain_tally", "reply_tally", "time_tally"):
            assert reader.execute(f"SELECT count(*) FROM {table} WHERE job_id = ?", (one,)).fetchone() == (0,)
    assert len(due(store, two)) == 3


def test_job_that_was_not_accepted_is_nobody_s_and_goes_at_start(database: Database, store: Store) -> None:
    admission = Admission(database, lambda _: True)
    job_id = admission.begin("half", NOW)
    admission.add(job_id, [], 1, b"[]", NOW)
    kept = admit(database, "kept", addresses(2))
    assert [job.id for job in store.live_jobs()] == [kept]
    admission.discard_unaccepted()
    assert store.job(job_id) is None
    assert len(due(store, kept)) == 2


def test_names_are_unique_and_twins_are_known_by_their_content(database: Database, store: Store) -> None:
    admission = Admission(database, lambda _: True)
    for digest in (b"one", b"two"):
        admit(database, "job", addresses(1), digest=digest)
    assert [job.name for job in store.live_jobs()] == ["job", "job.2"]
    assert [admission.twin(digest) for digest in (b"one", b"two", b"three")] == ["job", "job.2", None]
    long = "x" * 100
    for digest in (b"3", b"4"):
        admit(database, long, addresses(1), digest=digest)
    assert [job.name for job in store.live_jobs()][2:] == [long, "x" * 98 + ".2"]


@pytest.mark.parametrize("state", [RecipientState.CANCELLED, RecipientState.EXPIRED])
async def test_end_of_a_job_spares_recipients_in_open_transactions(
    database: Database, store: Store, state: RecipientState
) -> None:
    job_id = admit(database, "job", addresses(3))
    opened = due(store, job_id)[0]
    await store.journal.claim([opened.id], "default", NOW)
    assert await store.end_unsent(job_id, state, "the end") == 2
    assert await store.end_unsent(job_id, state, "the end") == 0
    await store.journal.record([record(opened, OUTCOMES["sent"])])
    counts = {state: count for state, count in Ledger(database).counts(job_id).items() if count}
    assert counts == {RecipientState.SENT: 1, state: 2}


async def test_expiry_spares_an_uncertain_recipient_that_is_being_sent_again(database: Database, store: Store) -> None:
    job_id = admit(database, "job", addresses(2))
    first, second = due(store, job_id)
    await store.journal.claim([first.id, second.id], "default", NOW)
    await store.journal.record([record(each, OUTCOMES["uncertain"], hold=True) for each in (first, second)])
    assert await store.agenda.retry_now(job_id, NOW, uncertain=True) == 2
    again = due(store, job_id)[0]
    await store.journal.claim([again.id], "default", NOW)
    assert await store.end_unsent(job_id, RecipientState.EXPIRED, "the end") == 1
    assert await store.end_unsent(job_id, RecipientState.EXPIRED, "the end") == 0
    await store.journal.record([record(again, OUTCOMES["sent"])])
    counts = {state: count for state, count in Ledger(database).counts(job_id).items() if count}
    assert counts == {RecipientState.SENT: 1, RecipientState.EXPIRED: 1}


# --- any order of events ----------------------------------------------------------------------------------------------

COUNT = 12


class Life(StoreMachine):
    """Whatever happens to the recipients of a job: the tallies are a recount, and claims are exclusive."""

    @initialize()
    def begin(self) -> None:
        self.set_up()
        self.now = NOW
        self.job_id = admit(self.database, "job", addresses(COUNT), bad=2)
        self.claimed: dict[int, DueRecipient] = {}
        self.attempts = 0

    @rule(pick=st.sets(st.integers(1, COUNT + 3), min_size=1))
    def claim(self, pick: set[int]) -> None:
        ready = {found.id: found for found in due(self.store, self.job_id, self.now)}
        ids = [id_in_job(self.job_id, number) for number in sorted(pick)]
        granted = self.calls.claim(ids, self.now)
        assert granted == [id_ for id_ in ids if id_ in ready and id_ not in self.claimed]
        self.claimed |= {id_: ready[id_] for id_ in ids if id_ in ready and id_ not in self.claimed}

    @rule(
        pick=st.integers(1, COUNT), results=st.lists(st.sampled_from(sorted(OUTCOMES)), min_size=1), hold=st.booleans()
    )
    def record(self, pick: int, results: list[str], hold: bool) -> None:
        chosen = sorted(self.claimed)[:pick]
        records = [
            record(self.claimed.pop(id_), OUTCOMES[results[n % len(results)]], self.now, hold)
            for n, id_ in enumerate(chosen)
        ]
        if records:
            self.attempts += sum(each.counted for each in records)
            self.calls.record(records)

    @rule(pick=st.integers(1, COUNT))
    def release(self, pick: int) -> None:
        chosen = sorted(self.claimed)[:pick]
        self.calls.release(chosen)
        for id_ in chosen:
            del self.claimed[id_]

    @rule(seconds=st.sampled_from([1.0, 60.0, 1000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(uncertain=st.booleans())
    def retry(self, uncertain: bool) -> None:
        state = RecipientState.UNCERTAIN if uncertain else RecipientState.DEFERRED
        waiting = sum(row.state is state for row in self.ledger.recipients(self.job_id))
        assert self.calls.retry_now(self.job_id, self.now, uncertain=uncertain) <= waiting

    @rule(state=st.sampled_from([RecipientState.CANCELLED, RecipientState.EXPIRED]))
    def end(self, state: RecipientState) -> None:
        self.calls.end_unsent(self.job_id, state)
        left = {row.state for row in self.ledger.recipients(self.job_id) if not row.state.final}
        allowed = {RecipientState.SENDING, RecipientState.UNCERTAIN}
        assert left <= (allowed if state is RecipientState.CANCELLED else allowed - {RecipientState.UNCERTAIN})

    @rule(hold=st.booleans())
    def kill(self, hold: bool) -> None:
        self.database.close()
        self.open()
        assert self.store.claimed_jobs() == ({self.job_id} if self.claimed else set())
        assert self.store.recover(self.now, {self.job_id: None} if hold else {}, 900.0) == len(self.claimed)
        states = {row.line: row for row in self.ledger.recipients(self.job_id)}
        for id_ in self.claimed:
            row = states[id_ - (self.job_id << 32) + 1]
            assert row.state is RecipientState.UNCERTAIN
            assert row.due_at == (None if hold else self.now + 900.0)
        self.attempts += len(self.claimed)
        self.claimed.clear()

    @invariant()
    def sums_are_right(self) -> None:
        if not hasattr(self, "database"):
            return
        counts = self.ledger.counts(self.job_id)
        assert sum(counts.values()) == COUNT + 2
        assert min(counts.values()) >= 0
        assert counts[RecipientState.SENDING] == len(self.claimed)
        rows = list(self.ledger.recipients(self.job_id))
        assert counts == {state: sum(row.state is state for row in rows) for state in RecipientState}
        tried = "".join(
            text for text, _ in self.ledger.attempt_texts(self.job_id, 0, LAST, Wording("'x'", "''", lambda *_: True))
        )
        assert len(tried) == self.attempts == sum(row.attempts for row in rows)
        assert self.ledger.attempt_count(self.job_id)[0] == self.attempts
        with closing(sqlite3.connect(self.path)) as database:
            recount_states(database)


Life.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLife = Life.TestCase
