"""The ledger: counts from one snapshot, long lists in pages, and figures that agree with each other."""

import threading

import pytest

from spoold.core.outcome import failed
from spoold.core.state import RecipientState
from spoold.storage.database import Database
from spoold.storage.ledger import LAST, Ledger, Wording
from spoold.storage.store import Store
from tests.unit.storage.admitting import NOW, admit
from tests.unit.storage.sending import SENT, due, record

PAGE = 2000


def attempted(ledger: Ledger, job_id: int, after: int = 0, until: int = LAST) -> list[tuple[int, str]]:
    """(id, address) of the attempts in between."""
    last = after
    found: list[tuple[int, str]] = []
    for text, reached in ledger.attempt_texts(
        job_id, after, until, Wording("''", "a.id || ' ' || r.address || char(10)", lambda *_: False)
    ):
        found += [(int(number), address) for number, address in map(str.split, text.splitlines())]
        assert found[-1][0] == reached > last
        last = reached
    return found


@pytest.mark.parametrize("count", [PAGE - 1, PAGE, PAGE + 1, 2 * PAGE])
async def test_lists_have_every_row_once_at_every_edge_of_a_page(database: Database, count: int) -> None:
    job_id = admit(database, "job", [f"to{n}@one.example" for n in range(count)])
    admit(database, "another", ["x@one.example"])
    store, ledger = Store(database), Ledger(database)
    assert [row.line for row in ledger.recipients(job_id)] == list(range(2, count + 2))
    found = due(store, job_id, most=count)
    await store.journal.claim([each.id for each in found], "default", NOW)
    await store.journal.record([record(each, SENT) for each in found])
    attempts = attempted(ledger, job_id)
    assert [address for _, address in attempts] == [f"to{n}@one.example" for n in range(count)]
    assert attempted(ledger, job_id, attempts[9][0]) == attempts[10:]
    assert attempted(ledger, job_id, attempts[-1][0]) == []
    assert attempted(ledger, job_id, until=attempts[9][0]) == attempts[:10]
    texts = ledger.recipient_texts(job_id, Wording("'x'", "r.line || ' '", lambda *_: False))
    assert "".join(texts).split() == [str(line) for line in range(2, count + 2)]
    assert ledger.attempt_count(job_id) == (count, NOW, NOW)


async def test_claimed_recipients_are_sending_in_counts_and_list(database: Database) -> None:
    job_id = admit(database, "job", [f"to{n}@one.example" for n in range(5)], bad=1)
    store, ledger = Store(database), Ledger(database)
    found = due(store, job_id, most=2)
    await store.journal.claim([each.id for each in found], "default", NOW)
    counts = {state: count for state, count in ledger.counts(job_id).items() if count}
    assert counts == {RecipientState.QUEUED: 3, RecipientState.SENDING: 2, RecipientState.FAILED: 1}
    assert [row.state for row in ledger.recipients(job_id)][:3] == [RecipientState.SENDING] * 2 + [
        RecipientState.QUEUED
    ]
    assert store.job(job_id).counts == {RecipientState.QUEUED: 5, RecipientState.FAILED: 1}  # type: ignore[union-attr]


async def test_counts_read_beside_commits_always_add_up(database: Database) -> None:
    total = 400
    job_id = admit(database, "job", [f"to{n}@one.example" for n in range(total)])
    store, ledger = Store(database), Ledger(database)
    wrong: list[dict[RecipientState, int]] = []
    looks = 0
    ended, started = threading.Event(), threading.Event()

    def read() -> None:
        nonlocal looks
        while not ended.is_set():
            counts = ledger.counts(job_id)
            looks += 1
            started.set()
            if sum(counts.values()) != total or min(counts.values()) < 0:
                wrong.append(counts)

    reader = threading.Thread(target=read)
    reader.start()
    started.wait(10)
    try:
        for each in due(store, job_id, most=total):
            assert await store.journal.claim([each.id], "default", NOW) == [each.id]
            await store.journal.record([record(each, SENT)])
    finally:
        ended.set()
        reader.join()
    assert wrong == []
    assert looks > 10


async def test_domains_and_replies_come_largest_first_and_within_their_limits(database: Database) -> None:
    addresses = [f"to{n}@{name}.example" for name, size in (("small", 1), ("big", 5), ("mid", 3)) for n in range(size)]
    job_id = admit(database, "job", addresses, bad=2)
    store, ledger = Store(database), Ledger(database)
    found = due(store, job_id, most=100)
    await store.journal.claim([each.id for each in found], "default", NOW)
    refused = failed("5.2.2", "552 mailbox full")
    await store.journal.record([record(each, refused if each.domain == "mid.example" else SENT) for each in found])
    domains = ledger.domains(job_id, 2)
    assert domains == [
        ("big.example", {RecipientState.SENT: 5}),
        ("mid.example", {RecipientState.FAILED: 3}),
    ]
    replies = ledger.replies(job_id, 10)
    assert [(reply.result, reply.status, reply.count) for reply in replies] == [
        ("sent", "2.0.0", 6), ("failed", "5.2.2", 3), ("failed", "5.1.3", 2),
    ]  # fmt: skip
    assert replies[1].example == "552 mailbox full"
    assert replies[1].category == "quota-issues"
    assert [reply.count for reply in ledger.replies(job_id, 1)] == [6]
    # What failed before anything was sent was no attempt.
    assert ledger.attempt_count(job_id)[0] == 9


def test_job_without_attempts_has_none(database: Database) -> None:
    job_id = admit(database, "job", ["a@one.example"])
    assert Ledger(database).attempt_count(job_id) == (0, None, None)
    assert attempted(Ledger(database), job_id) == []


async def test_attempts_are_counted_by_interval(database: Database) -> None:
    job_id = admit(database, "job", [f"to{n}@one.example" for n in range(30)])
    another = admit(database, "another", ["x@one.example"])
    store, ledger = Store(database), Ledger(database)
    assert ledger.attempt_span(job_id) is None
    found = due(store, job_id, most=30)
    await store.journal.claim([each.id for each in found], "default", NOW)
    outcomes = [SENT, failed("5.1.1", "no such user"), SENT]
    records = [record(each, outcomes[n % 3])._replace(at=NOW + n + 0.9) for n, each in enumerate(found)]
    await store.journal.record(records[:20])
    first, last = int(NOW), int(NOW) + 19
    assert ledger.attempt_span(job_id) == (first, last)
    assert ledger.attempt_tallies(job_id, first - 5, 10, last) == [
        (0, "failed", 2),
        (0, "sent", 3),
        (1, "failed", 3),
        (1, "sent", 7),
        (2, "failed", 2),
        (2, "sent", 3),
    ]
    await store.journal.record(records[20:])
    assert sum(count for _, _, count in ledger.attempt_tallies(job_id, first, 10, last)) == 20
    assert ledger.attempt_span(job_id) == (first, last + 10)
    assert ledger.attempt_tallies(job_id, first, 100, last + 10) == [(0, "failed", 10), (0, "sent", 20)]
    assert ledger.attempt_span(another) is None
