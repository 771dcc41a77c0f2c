"""The store's hot path: what is asked for together is committed together, outcomes first."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from spoold.core.outcome import returned
from spoold.core.state import RecipientState
from spoold.storage.database import Database, DatabaseError
from spoold.storage.ledger import Ledger
from spoold.storage.record import DueRecipient
from spoold.storage.slab import Slab
from spoold.storage.store import Store
from tests.unit.storage.admitting import NOW, admit
from tests.unit.storage.sending import due, record


def admitted(database: Database, count: int) -> tuple[Store, int, list[DueRecipient]]:
    store = Store(database)
    job_id = admit(database, "job", [f"to{number}@one.example" for number in range(count)])
    return store, job_id, due(store, job_id, most=count)


async def test_what_is_asked_for_in_one_round_shares_one_commit(database: Database) -> None:
    store, _, found = admitted(database, 300)
    journal = store.journal
    await journal.claim([each.id for each in found[:100]], "default", NOW)
    before = database.commits
    written = journal.record([record(each) for each in found[:100]])
    claims = [journal.claim([each.id], "default", NOW) for each in found[100:]]
    assert await asyncio.gather(*claims) == [[each.id] for each in found[100:]]
    assert written.done()
    assert database.commits == before + 1


async def test_what_comes_while_a_commit_runs_shares_the_next(database: Database) -> None:
    store, _, found = admitted(database, 50)
    entered, leave = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(_: sqlite3.Connection) -> None:
        loop.call_soon_threadsafe(entered.set)
        asyncio.run_coroutine_threadsafe(leave.wait(), loop).result(10)

    held = database.write_soon(hold)
    await entered.wait()
    before = database.commits
    claims = []
    for each in found:
        claims.append(store.journal.claim([each.id], "default", NOW))
        await asyncio.sleep(0)
    leave.set()
    await asyncio.gather(held, *claims)
    # One for what held it up, one with the first claim, one with all the others.
    assert database.commits <= before + 3


async def test_an_outcome_and_a_new_claim_of_the_same_recipient_in_one_commit_both_count(database: Database) -> None:
    store, job_id, [one] = admitted(database, 1)
    assert await store.journal.claim([one.id], "default", NOW) == [one.id]
    written = store.journal.record([record(one, returned("the relay ended the session"))])
    assert await store.journal.claim([one.id], "default", NOW) == [one.id], "the outcome ended the claim before it"
    await written
    await store.journal.record([record(one)])
    assert Ledger(database).counts(job_id)[RecipientState.SENT] == 1


@pytest.mark.parametrize("count", [1, 2, 3, 127, 128, 129, 300])
async def test_batches_of_every_size_are_written_whole(database: Database, count: int) -> None:
    store, job_id, found = admitted(database, count)
    assert await store.journal.claim([each.id for each in found], "default", NOW) == [each.id for each in found]
    assert Ledger(database).counts(job_id)[RecipientState.SENDING] == count
    await store.journal.record([record(each) for each in found])
    counts = Ledger(database).counts(job_id)
    assert (counts[RecipientState.SENT], sum(counts.values())) == (count, count)
    assert Ledger(database).attempt_count(job_id)[0] == count
    assert [row.attempts for row in Ledger(database).recipients(job_id)] == [1] * count


async def test_after_the_database_failed_whoever_waits_and_whoever_asks_is_told(database: Database) -> None:
    store, _, found = admitted(database, 2)

    def fail(_: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    failing = database.write_soon(fail)
    waiting = store.journal.claim([found[0].id], "default", NOW)
    with pytest.raises(DatabaseError, match="disk I/O error"):
        await failing
    with pytest.raises(DatabaseError, match="disk I/O error"):
        await waiting
    with pytest.raises(DatabaseError, match="disk I/O error"):
        store.journal.record([record(found[1])])


def test_slab_tells_how_many_rows_it_changed_whatever_its_padding(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "x.db")
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    connection.executemany("INSERT INTO t VALUES (?)", [(number,) for number in range(1, 201)])
    slab = Slab("DELETE FROM t WHERE id IN (", "?", ") AND id < ?")
    assert slab.run(connection, [(number,) for number in range(101, 301)], after=(151,)) == 50
    assert slab.run(connection, []) == 0
    connection.close()
