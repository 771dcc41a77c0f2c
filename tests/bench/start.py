"""The start with very many recipients deferred: how soon the first message leaves.

The spool is filled through the store's own functions: a relay that defers a million would take a day of machine time.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

from spoold.cli import config
from spoold.core.manifest import parse_manifest
from spoold.core.message.wire import scan
from spoold.core.outcome import Outcome, Result
from spoold.core.state import JobState, RecipientState, Standing, Transition
from spoold.storage.admission import Admission, rows_of
from spoold.storage.database import Database
from spoold.storage.manifest import compact_of
from spoold.storage.record import Admitted, DueRecipient, Message, NewMessage, NewRecipient, Record, id_in_job
from spoold.storage.schema import SCHEMA
from spoold.storage.store import Store
from tests.bench import job
from tests.bench.row import Finding, Scale, at_most, progress
from tests.bench.sink import Sink

EACH = 1000
_LATER = Outcome(Result.DEFERRED, "4.2.0", "450 4.2.0 try again later", 450)


def deferred(scale: Scale) -> Iterator[Finding]:
    """To the first acceptance."""
    jobs = scale.deferred_jobs
    few, many = _first(1), _first(jobs)
    yield Finding(
        f"start with {jobs * EACH:,} deferred recipients in {jobs:,} jobs: to the first acceptance",
        f"{many:.2f} s", f"1 job: {few:.2f} s", many / few, many, at_most(2, "s"), at_most(6),
    )  # fmt: skip


def _first(jobs: int) -> float:
    progress(f"start with {jobs * EACH} recipients in {jobs} jobs")
    with Sink() as sink, job.spool(sink) as agent:
        asyncio.run(_fill(agent.spool, jobs, config.read(agent.config).agent.defaults.zone))
        begun = time.monotonic()
        agent.start(wait=False)
        return sink.wait(1, 120) - begun


async def _fill(spool: Path, jobs: int, zone: ZoneInfo) -> None:
    """Jobs that were tried once: every second one's recipients are due again, the others' in an hour."""
    database = Database(spool / ".spoold" / "spool.db")
    database.start(SCHEMA)
    admission, store = Admission(database, lambda name: True), Store(database)
    now = time.time()
    writes: list[asyncio.Future[None]] = []
    for number in range(jobs):
        folder = spool / "deferred" / f"job{number}"
        due_at = now - 60 if number % 2 == 0 else now + 3600
        written = _write(folder, number)
        job_id, message = await asyncio.to_thread(_admit, admission, folder, written, due_at, now, zone)
        writes.append(store.journal.record([_tried(job_id, message, n, due_at, now) for n in range(EACH)]))
        if len(writes) == 20:
            await asyncio.gather(*writes)
            writes.clear()
    await asyncio.gather(*writes)
    await asyncio.to_thread(database.close)


def _address(number: int) -> tuple[str, str]:
    domain = f"domain{number % 50}.example"
    return f"user{number}@{domain}", domain


def _write(folder: Path, number: int) -> bytes:
    folder.mkdir()
    (folder / "job.yaml").write_text(json.dumps({"sender": "news@example.com"}) + "\n")
    (folder / "recipients.csv").write_text("address\n" + "".join(f"{_address(n)[0]}\n" for n in range(EACH)))
    data = job.message(number)
    (folder / "message.eml").write_bytes(data)
    return data


def _admit(
    admission: Admission, folder: Path, data: bytes, due_at: float, now: float, zone: ZoneInfo
) -> tuple[int, Message]:
    manifest = (folder / "job.yaml").read_bytes()
    job_id = admission.begin(folder.name, now - 3600)
    facts = scan([data], name="message.eml", date="", message_id="")
    digest = hashlib.sha256(data).digest()
    rows = rows_of([NewRecipient(n + 2, *_address(n), False, 1, None) for n in range(EACH)])
    admission.add(job_id, [NewMessage(1, "message.eml", digest, facts)], 1, rows, due_at)
    standing = Standing(JobState.WAITING, "retry", due_at)
    compact = compact_of(parse_manifest(manifest), manifest, None, zone)
    admitted = Admitted(folder.name, manifest, 0, digest, standing, (), (), False, False, compact)
    admission.accept(job_id, admitted)
    admission.settle([job_id])
    return job_id, Message(
        id_in_job(job_id, 1), "message.eml", digest, facts.size, facts.eight_bit, facts.eight_bit_header, facts.added
    )


def _tried(job_id: int, message: Message, number: int, due_at: float, now: float) -> Record:
    recipient = DueRecipient(
        id_in_job(job_id, number + 1), *_address(number), False, message, RecipientState.QUEUED, 0, None, due_at
    )
    transition = Transition(RecipientState.DEFERRED, 1, now - 3600, due_at, _LATER)
    return Record(recipient, transition, "default", "127.0.0.1", now - 3600, True)
