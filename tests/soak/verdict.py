"""Holds what the agent says at the end of a soak, in database, folders and reports, against what the relay took."""

import re
import sqlite3
import traceback
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field

from tests.servers.agent import Agent
from tests.servers.audit import FAILED, SENT, STATES, UNCERTAIN, check_report, connect, no_leftovers, recount_states
from tests.servers.ledger import Accepted
from tests.soak.plan import MARK, RELAYS, Job, Kind
from tests.soak.run import CONNECTIONS, PATIENCE, PER_MESSAGE, Facts
from tests.soak.upload import Content

#: What can be in doubt after one kill: every open transaction's recipients, and those next in line.
IN_DOUBT = 2 * CONNECTIONS * PER_MESSAGE * len(RELAYS)
#: After CANCEL: a second to see it, a second of a busy machine, and the steps of a transaction that was open.
CANCEL_TAKES = 2.0 + 4 * PATIENCE
EXPIRED, CANCELLED = STATES.index("expired"), STATES.index("cancelled")
KILLED = "the agent ended while the message was being sent"


@dataclass(frozen=True, slots=True)
class Row:
    """A recipient as the database has it; `doubts` is how often it was reported uncertain."""

    job: str
    state: int
    diagnostic: str
    doubts: int


@dataclass(slots=True)
class Verdict:
    """`wrong` has a line for each thing that is; the soak is good if there is none."""

    jobs: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    explained: int = 0
    unexplained: int = 0
    doubts: int = 0
    wrong: list[str] = field(default_factory=list)


def judge(agent: Agent, accepted: Sequence[Accepted], facts: Facts) -> Verdict:
    """The verdict on an agent that has ended, with all jobs at rest."""
    verdict = Verdict(wrong=list(facts.wrong))
    taken = Counter(recipient for message in accepted for recipient in message.recipients)
    with closing(connect(agent)) as database:
        try:
            _check_database(agent, database)
        except AssertionError as error:
            verdict.wrong.append(f"database and reports differ: {_line(error)}")
        rows = _rows(database)
        states = dict(database.execute("SELECT name, state FROM job WHERE accepted").fetchall())
        for name in states:
            try:
                check_report(agent, database, name)
            except (AssertionError, OSError, ValueError) as error:
                verdict.wrong.append(f"{name}: its report differs from the database: {_line(error)}")
        _judge_doubts(database, facts, verdict)
    verdict.jobs.update(states.values())
    verdict.states.update(STATES[row.state] for found in rows.values() for row in found)
    for address in taken.keys() | rows.keys():
        _judge_address(address, taken[address], rows.get(address, []), verdict)
    for job, content in facts.contents:
        _judge_job(job, content, rows, states, facts, verdict)
    _judge_cancelled(accepted, rows, facts, verdict)
    _judge_bytes(accepted, rows, facts, verdict)
    return verdict


def _line(error: Exception) -> str:
    """What was not so: the text, or the line of the assertion that has none."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return " ".join(f"{last.name}: {last.line}: {error}".split())[:500]


def _check_database(agent: Agent, database: sqlite3.Connection) -> None:
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert database.execute("SELECT count(*) FROM claim").fetchone() == (0,), "claims are left"
    assert database.execute("SELECT count(*) FROM job WHERE NOT accepted OR claim IS NOT NULL").fetchone() == (0,)
    recount_states(database)
    no_leftovers(agent.spool, [row[0] for row in database.execute("SELECT name FROM job")])


def _rows(database: sqlite3.Connection) -> dict[str, list[Row]]:
    """Each address with its recipients: several where content may be sent by several jobs."""
    found: dict[str, list[Row]] = defaultdict(list)
    for address, *rest in database.execute(
        "WITH doubt AS (SELECT recipient_id, count(*) AS n FROM attempt WHERE result = 'uncertain' GROUP BY 1)"
        " SELECT r.address, j.name, r.state, coalesce(r.diagnostic, ''), coalesce(d.n, 0)"
        " FROM recipient r JOIN job j ON j.id = r.job_id LEFT JOIN doubt d ON d.recipient_id = r.id WHERE j.accepted"
    ):
        found[address].append(Row(*rest))
    return found


def _judge_doubts(database: sqlite3.Connection, facts: Facts, verdict: Verdict) -> None:
    [(verdict.doubts,)] = database.execute("SELECT count(*) FROM attempt WHERE result = 'uncertain'").fetchall()
    [(killed,)] = database.execute(
        "SELECT count(*) FROM attempt WHERE result = 'uncertain' AND diagnostic LIKE ?", (f"{KILLED}%",)
    ).fetchall()
    if any(count > IN_DOUBT for count in facts.recovered) or killed > IN_DOUBT * facts.kills:
        verdict.wrong.append(f"more in doubt than {IN_DOUBT} a kill: {killed} after {facts.kills}, {facts.recovered}")
    if killed < sum(facts.recovered):
        verdict.wrong.append(f"{sum(facts.recovered)} said to be in doubt, {killed} attempts tell of it")


def _judge_address(address: str, taken: int, rows: list[Row], verdict: Verdict) -> None:
    """What the relay took is what was sent, and at most what was in doubt besides."""
    sent = sum(row.state == SENT for row in rows)
    doubts = sum(row.doubts for row in rows)
    if taken < sent:
        verdict.lost += 1
        verdict.wrong.append(f"{address}: sent {sent} time(s) by the report, and the relay has it {taken} time(s)")
    elif taken > sent + doubts:
        verdict.unexplained += 1
        verdict.wrong.append(f"{address}: taken {taken} time(s); sent {sent}, uncertain {doubts} time(s): {rows}")
    elif taken > max(len(rows), 1):
        verdict.explained += 1


def _judge_job(
    job: Job, content: Content, rows: dict[str, list[Row]], states: dict[str, str], facts: Facts, verdict: Verdict
) -> None:
    """Every address stands in as many jobs as it should, in a final state that something explains."""
    copies = len(job.names) if job.kind is Kind.AGAIN else 0 if job.refused else 1
    if job.refused and not any(states.get(name) == "rejected" for name in states if _base(name) == job.names[0]):
        verdict.wrong.append(f"{job.names[0]}: is bad and was not rejected")
    for address in (*content.good, *content.bad):
        found = rows.get(address, [])
        if len(found) != copies:
            verdict.lost += len(found) < copies
            verdict.wrong.append(f"{address} of {job.names} ({job.kind.value}) is in {len(found)} job(s), not {copies}")
        for row in found:
            if (row.state == FAILED) is (address in content.bad) and _explained(row, job, facts):
                continue
            if row.state == FAILED and MARK in row.diagnostic:
                continue
            verdict.lost += 1
            verdict.wrong.append(f"{address} of {row.job} is {STATES[row.state]} without a reason: {row.diagnostic}")


def _explained(row: Row, job: Job, facts: Facts) -> bool:
    if row.state in (SENT, FAILED):
        return True
    if row.state == UNCERTAIN:
        return job.manifest["on_uncertain"] == "hold" or row.job in facts.cancelled
    if row.state == EXPIRED:
        return "expires" in job.manifest
    return row.state == CANCELLED and row.job in facts.cancelled


def _base(name: str) -> str:
    """The upload's name of the job `NAME.2`."""
    return re.sub(r"\.\d+$", "", name)


def _judge_cancelled(accepted: Sequence[Accepted], rows: dict[str, list[Row]], facts: Facts, verdict: Verdict) -> None:
    for message in accepted:
        for address in message.recipients:
            found = rows.get(address, [])
            at = facts.cancelled.get(found[0].job) if len(found) == 1 else None
            if at is not None and message.at > at + CANCEL_TAKES:
                verdict.wrong.append(f"{address}: taken {message.at - at:.1f} s after {found[0].job} was cancelled")


def _judge_bytes(accepted: Sequence[Accepted], rows: dict[str, list[Row]], facts: Facts, verdict: Verdict) -> None:
    """What was sent is what was uploaded; what was sent again is the same to the byte, Message-ID included."""
    bodies = {to: content.body(number) for _, content in facts.contents for number, to in enumerate(content.good)}
    versions: dict[str, set[bytes]] = defaultdict(set)
    for message in accepted:
        for address in message.recipients:
            versions[address].add(message.data)
            if message.data.partition(b"\r\n\r\n")[2] != bodies.get(address):
                verdict.wrong.append(f"{address}: got other bytes than were uploaded for it")
    for address, found in versions.items():
        if len(found) > len(rows.get(address, [])):
            verdict.wrong.append(f"{address}: got {len(found)} versions of its message")


def table(verdict: Verdict, facts: Facts) -> str:
    """The summary, a line a fact."""

    def each(counts: Counter[str]) -> str:
        return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "none"

    kinds = Counter(job.kind.value for job, _ in facts.contents)
    ways = Counter(job.way.value for job, _ in facts.contents)
    lines = (
        ("uploads", f"{sum(len(job.names) for job, _ in facts.contents)}: {each(kinds)}"),
        ("ways", each(ways)),
        ("jobs", f"{sum(verdict.jobs.values())}: {each(verdict.jobs)}"),
        ("recipients", f"{sum(verdict.states.values())}: {each(verdict.states)}"),
        ("wishes", each(facts.wishes)),
        ("ends of the agent", f"{sum(facts.ends.values())}: {each(facts.ends)}"),
        ("kills", str(facts.kills)),
        (
            "faults",
            f"{sum(facts.faults.values())} of {len(facts.faults)} kinds; {facts.restarts} restarts of a relay",
        ),
        ("lost", str(verdict.lost)),
        ("duplicates explained", str(verdict.explained)),
        ("duplicates unexplained", str(verdict.unexplained)),
        (
            "reported uncertain",
            f"{verdict.doubts} times; most after one kill {max(facts.recovered, default=0)} of {IN_DOUBT}",
        ),
        ("wrong", str(len(verdict.wrong))),
    )
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:{width}}  {text}" for name, text in lines)
