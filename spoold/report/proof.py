"""Proof-reading of a job's report: what the database says that its files must be, and whether they are.

A report is a function of the database and of four things that it tells itself: when it was written, when the job would
be through, what is wrong with the relay, and the speed. Moments may be written in another time zone than today's.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, tzinfo
from itertools import zip_longest
from typing import Any

import orjson

from spoold.report.statistics import DOMAINS, REPLIES, statistics_json
from spoold.report.status import Status, status_json, status_text
from spoold.report.table import COLUMNS, attempt_line, recipients_csv
from spoold.storage.files import Files, NotRegularError
from spoold.storage.ledger import Ledger
from spoold.storage.record import JobRow

ATTEMPTS = "attempts.jsonl"
#: In the order in which they are written.
NAMES = ("status.json", "status.txt", "statistics.json", ATTEMPTS, "recipients.csv")
_LIMIT = 64 * 1024 * 1024
#: No report has a longer line; what has is compared in pieces.
_LINE = 1024 * 1024
_MOMENT = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d(?::\d\d)?")
_FOR_PEOPLE = re.compile(rb"[A-Z][a-z]{2} \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+(?: \(in .*\))?")


@dataclass(frozen=True, slots=True)
class Subject:
    """A job whose report is read; `description`, `sender` and `zone` are its manifest's."""

    job: JobRow
    description: str
    sender: str
    zone: tzinfo


class Proof:
    """The report in the directory `root`, which may be missing as a whole (None)."""

    def __init__(self, files: Files, ledger: Ledger, subject: Subject, root: int | None) -> None:
        self._files = files
        self._ledger = ledger
        self._subject = subject
        self._root = root
        status, statistics = self._load("status.json"), self._load("statistics.json")
        rates = statistics.get("rates")
        job = subject.job
        speed = rates.get("recipients_per_second") if isinstance(rates, dict) else None
        error = status.get("relay_error")
        self._now = _posix(status.get("updated_at")) or job.since
        self._speed = float(speed) if isinstance(speed, (int, float)) else None
        self._eta = None if job.state.final else _posix(status.get("eta"))
        self._error = error if isinstance(error, str) and not job.state.final else None

    def expected(self, name: str) -> Iterator[bytes]:
        """The content of the file `name`, in pieces."""
        job, zone = self._subject.job, self._subject.zone
        if name == "recipients.csv":
            yield from recipients_csv(self._ledger.recipients(job.id), zone)
        elif name == ATTEMPTS:
            yield from (attempt_line(row, zone) for row in self._ledger.attempts(job.id, 0))
        elif name == "statistics.json":
            domains = self._ledger.domains(job.id, DOMAINS)
            replies = self._ledger.replies(job.id, REPLIES)
            attempts = self._ledger.attempt_count(job.id)
            counts = self._ledger.counts(job.id)
            yield statistics_json(counts, domains, replies, attempts, self._speed, zone, self._now)
        else:
            yield (status_json if name == "status.json" else status_text)(self._status())

    def flaw(self, name: str) -> str | None:
        """How the file `name` differs from what it must be."""
        masks = _mask_people if name == "status.txt" else _mask
        return self._compare(name, lambda: self._first_difference(name, masks))

    def glaring(self, name: str) -> str | None:
        """The same while the file may lag behind: what must hold of it at any moment."""
        return self._compare(name, lambda: self._first_absurdity(name))

    def _compare(self, name: str, compare: Callable[[], str | None]) -> str | None:
        if self._root is None:
            return f"report/{name} is missing"
        try:
            found = compare()
        except FileNotFoundError:
            return f"report/{name} is missing"
        except NotRegularError as error:
            return f"report/{name} is {error}"
        except OSError as error:
            return f"report/{name} cannot be read: {error.strerror}"
        return None if found is None else f"report/{name}{found}"

    def _first_difference(self, name: str, mask: Callable[[bytes], bytes]) -> str | None:
        lines = zip_longest(self._lines(name), _lines(self.expected(name)), fillvalue=None)
        for number, (found, wanted) in enumerate(lines, 1):
            if found == wanted:
                continue
            if wanted is None:
                return f" is too long: line {number} is none of this job's"
            if found is None:
                return f" is too short: line {number} is missing"
            if mask(found) != mask(wanted):
                return f":{number} differs from the database"
        return None

    def _first_absurdity(self, name: str) -> str | None:
        job = self._subject.job
        if name == "recipients.csv":
            lines = self._lines(name)
            header = next(lines, b"").rstrip(b"\r\n").decode(errors="replace")
            if header != ",".join(COLUMNS):
                return ":1 is not the header"
            rows = sum(1 for _ in lines)
            return None if rows == job.total else f" has {rows} rows; expected {job.total}"
        if name == ATTEMPTS:
            for number, (found, wanted) in enumerate(
                zip(self._lines(name), _lines(self.expected(name)), strict=False), 1
            ):
                if found != wanted and _mask(found) != _mask(wanted) and found.endswith(b"\n"):
                    return f":{number} differs from the database"
            return None
        if name.endswith(".json"):
            counts = self._load(name).get("counts" if name == "status.json" else "states")
            whole = isinstance(counts, dict) and sum(counts.values()) == job.total
            return None if whole else f" does not account for {job.total} recipients"
        return None if next(self._lines(name), b"").startswith(job.name.encode()) else ":1 does not name the job"

    def _status(self) -> Status:
        subject = self._subject
        return Status(
            subject.job, subject.description, subject.sender, self._ledger.counts(subject.job.id), subject.zone,
            self._now, self._error, self._speed, self._eta,
        )  # fmt: skip

    def _lines(self, name: str) -> Iterator[bytes]:
        return _lines(self._files.chunks(-1 if self._root is None else self._root, (name,)))

    def _load(self, name: str) -> dict[str, Any]:
        if self._root is None:
            return {}
        try:
            found = orjson.loads(self._files.read_small(self._root, (name,), _LIMIT))
        except (OSError, NotRegularError, orjson.JSONDecodeError):
            return {}
        return found if isinstance(found, dict) else {}


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        lines = (rest + chunk).splitlines(keepends=True)
        rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        yield from lines
        if len(rest) > _LINE:
            yield rest
            rest = b""
    if rest:
        yield rest


def _posix(moment: object) -> float | None:
    try:
        return datetime.fromisoformat(moment).timestamp() if isinstance(moment, str) else None
    except ValueError:
        return None


def _mask(line: bytes) -> bytes:
    """The line with its moments as what they are, wherever they were written."""
    return _MOMENT.sub(lambda found: b"%.3f" % (_posix(found[0].decode()) or 0.0), line)


def _mask_people(line: bytes) -> bytes:
    return _FOR_PEOPLE.sub(b"MOMENT", line)
