"""Holds what an agent says of its jobs, in files, folders and database, against what a relay really took."""

import csv
import io
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from spoold.event import EVENTS
from spoold.storage.record import id_range
from tests.servers.agent import FOLDER_OF, Agent, wait_for
from tests.servers.ledger import Accepted

FOLDERS = ("new", "active", "deferred", "done")
STATES = ("queued", "deferred", "sending", "uncertain", "sent", "failed", "expired", "cancelled")
DEFERRED, UNCERTAIN, SENT, FAILED = (STATES.index(name) for name in ("deferred", "uncertain", "sent", "failed"))


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found of all jobs together."""

    sent: set[str]
    uncertain: set[str]
    accepted: Counter[str]


def connect(agent: Agent) -> sqlite3.Connection:
    """The agent's database, for reading."""
    return sqlite3.connect(f"file:{agent.spool / '.spoold' / 'spool.db'}?mode=ro", uri=True)


def at_rest(agent: Agent, name: str) -> dict[str, Any] | None:
    """The job's status when nothing of it will be sent by itself any more, in the folder where it belongs."""
    status = agent.status(name)
    if status is None:
        return None
    resting = status["state"] in ("finished", "cancelled", "rejected") or (
        status["state"] == "held" and status["reason"] == "uncertain"
    )
    return status if resting and (agent.spool / FOLDER_OF.get(status["state"], "done") / name).is_dir() else None


def wait_at_rest(agent: Agent, names: Iterable[str], timeout: float = 30.0) -> None:
    for name in names:
        try:
            wait_for(lambda name=name: at_rest(agent, name), timeout, f"{name} at rest")  # type: ignore[misc]
        except AssertionError as error:
            log = agent.log_file.read_text()[-3000:]
            raise AssertionError(f"{error}: {agent.find(name)}: {agent.status(name)}\n{log}") from None


def audit(agent: Agent, accepted: Sequence[Accepted], jobs: Mapping[str, Sequence[str]]) -> Audit:
    """Check every promise that can be checked on jobs (name → addresses, unique over all) whose agent has ended.

    Every job is at rest: each recipient is sent or, held, uncertain.
    """
    taken = Counter(recipient for message in accepted for recipient in message.recipients)
    assert taken.keys() <= {address for addresses in jobs.values() for address in addresses}
    sent: set[str] = set()
    uncertain: set[str] = set()
    with closing(connect(agent)) as database:
        assert database.execute("SELECT count(*) FROM claim").fetchone() == (0,)
        assert database.execute("SELECT count(*) FROM job WHERE NOT accepted OR claim IS NOT NULL").fetchone() == (0,)
        assert {row[0] for row in database.execute("SELECT name FROM job")} == jobs.keys()
        recount(database)
        for name, addresses in jobs.items():
            states = check_report(agent, database, name)
            assert states.keys() == set(addresses), name
            assert set(states.values()) <= {"sent", "uncertain"}, Counter(states.values())
            sent.update(address for address, state in states.items() if state == "sent")
            uncertain.update(address for address, state in states.items() if state == "uncertain")
    no_leftovers(agent.spool, jobs)
    assert {address: taken[address] for address in sent if taken[address] != 1} == {}
    assert {address: taken[address] for address in uncertain if taken[address] > 1} == {}
    return Audit(sent, uncertain, taken)


def recount(database: sqlite3.Connection) -> None:
    """The tallies are what counting gives, where every recipient's state comes from an attempt."""
    recount_states(database)
    assert _rows(database, "SELECT job_id, result, code, status, sum(n) FROM reply_tally GROUP BY 1, 2, 3, 4") == _rows(
        database, "SELECT job_id, result, coalesce(code, 0), status, count(*) FROM attempt GROUP BY 1, 2, 3, 4"
    )


def _rows(database: sqlite3.Connection, query: str) -> list[tuple[Any, ...]]:
    return sorted(database.execute(query).fetchall())


def recount_states(database: sqlite3.Connection) -> None:
    """The tallies of states and attempts are what counting gives."""

    def rows(query: str) -> list[tuple[Any, ...]]:
        return _rows(database, query)

    assert rows("SELECT job_id, state, n FROM state_tally WHERE n") == rows(
        "SELECT job_id, state, count(*) FROM recipient GROUP BY 1, 2"
    )
    assert rows("SELECT job_id, domain, state, n FROM domain_tally WHERE n") == rows(
        "SELECT job_id, domain, state, count(*) FROM recipient GROUP BY 1, 2, 3"
    )
    assert rows("SELECT id, attempts FROM job WHERE attempts") == rows(
        "SELECT job_id, count(*) FROM attempt GROUP BY 1"
    )
    assert rows("SELECT job_id, second, result, n FROM time_tally") == rows(
        "SELECT job_id, CAST(at AS INTEGER), result, count(*) FROM attempt GROUP BY 1, 2, 3"
    )
    assert rows("SELECT id, attempts FROM recipient WHERE attempts") == rows(
        "SELECT recipient_id, count(*) FROM attempt GROUP BY 1"
    )
    assert rows("SELECT recipient_id, number FROM attempt") == rows(
        "SELECT recipient_id, row_number() OVER (PARTITION BY recipient_id ORDER BY id) FROM attempt"
    )


def check_report(agent: Agent, database: sqlite3.Connection, name: str) -> dict[str, str]:
    """The job's folder and its files agree with each other and with the database; returns address → state."""
    job_id, state, total = database.execute("SELECT id, state, total FROM job WHERE name = ?", (name,)).fetchone()
    folder = FOLDER_OF.get(state, "done")
    assert [place for place in FOLDERS if (agent.spool / place / name).exists()] == [folder]
    report = agent.spool / folder / name / "report"
    files = sorted(path.name for path in report.iterdir())
    assert files == [
        "attempts.jsonl", "index.html", "recipients.csv", "statistics.json", "status.json", "status.txt",
    ], files  # fmt: skip
    status = json.loads((report / "status.json").read_bytes())
    assert (status["job"], status["state"], status["total"]) == (name, state, total)
    assert (report / "status.txt").read_text().startswith(f"{name}: {state}")
    rows = table((report / "recipients.csv").read_bytes())
    assert [(int(row["line"]), row["address"], row["state"], int(row["attempts"])) for row in rows] == [
        (line, address, STATES[number], attempts)
        for line, address, number, attempts in database.execute(
            "SELECT line, address, state, attempts FROM recipient WHERE id BETWEEN ? AND ? ORDER BY id",
            id_range(job_id),
        )
    ]
    states = {row["address"]: row["state"] for row in rows}
    counts = Counter(row["state"] for row in rows)
    assert {word: count for word, count in status["counts"].items() if count} == counts
    assert sum(status["counts"].values()) == total == len(rows) == len(states)
    statistics = json.loads((report / "statistics.json").read_bytes())
    assert (statistics["total"], statistics["states"]) == (total, status["counts"])
    lines = check_attempts(database, name, (report / "attempts.jsonl").read_bytes())
    assert statistics["attempts"]["total"] == len(lines)
    return states


def check_attempts(database: sqlite3.Connection, name: str, data: bytes) -> list[dict[str, Any]]:
    """attempts.jsonl has the database's attempts, each once, in their order."""
    assert data == b"" or data.endswith(b"\n")
    lines = [json.loads(line) for line in data.splitlines()]
    found = database.execute(
        "SELECT r.address, a.number, a.result, a.at FROM attempt a JOIN recipient r ON r.id = a.recipient_id"
        " JOIN job j ON j.id = a.job_id WHERE j.name = ? ORDER BY a.id",
        (name,),
    ).fetchall()
    assert [(line["address"], line["attempt"], line["result"]) for line in lines] == [row[:3] for row in found]
    assert all(
        abs(datetime.fromisoformat(line["at"]).timestamp() - row[3]) < 1 for line, row in zip(lines, found, strict=True)
    )
    return lines


def table(data: bytes) -> list[dict[str, str]]:
    """The rows of a recipients.csv: every one as long as the header, the last one ended."""
    assert data.endswith(b"\r\n")
    header, *rows = csv.reader(io.StringIO(data.decode(), newline=""), strict=True)
    return [dict(zip(header, row, strict=True)) for row in rows]


def no_leftovers(spool: Path, jobs: Iterable[str]) -> None:
    """Nothing stands in the spool's folders but these jobs, hidden names included, and no half-written file."""
    found = sorted(path.name for folder in FOLDERS for path in (spool / folder).iterdir())
    assert found == sorted(jobs)
    assert list(spool.glob("*/*/report/.*")) == []


def check_log(agent: Agent) -> Counter[str]:
    """Every line of the log is an event of the closed list at its level; returns how often each came."""
    count: Counter[str] = Counter()
    for line in agent.log_file.read_bytes().splitlines():
        event = json.loads(line)
        assert event["event"] in EVENTS
        assert event["level"] == EVENTS[event["event"]][0]
        assert datetime.fromisoformat(event["timestamp"]).tzinfo is not None
        count[event["event"]] += 1
    return count
