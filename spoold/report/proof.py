"""Proof-reading of a job's report: what the database says that its files must be, and whether they are.

A report is a function of the database and of four things that it tells itself: when it was written, when the job would
be through, what is wrong with the relay, and the speed. Moments may be written in another time zone than today's. A page
is also a function of the program's version, which it names: of another version's only that is read which never changes.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, tzinfo
from itertools import zip_longest
from typing import Any
from zoneinfo import ZoneInfo

import orjson

from spoold import __version__
from spoold.core.state import JobState
from spoold.report.page import PAGE, JobView, job_page
from spoold.report.statistics import DOMAINS, REPLIES, statistics_json
from spoold.report.status import Status, status_json, status_text
from spoold.report.table import ATTEMPTS, COLUMNS, attempts_jsonl, recipients_csv
from spoold.storage.entry import NotRegularError
from spoold.storage.files import Files
from spoold.storage.ledger import Ledger
from spoold.storage.record import JobRow

#: In the order in which they are written.
NAMES = ("status.json", "status.txt", "statistics.json", ATTEMPTS, "recipients.csv", PAGE)
_LIMIT = 64 * 1024 * 1024
#: No report has a longer line; what has is compared in pieces.
_LINE = 1024 * 1024
_MOMENT = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d(?::\d\d)?")
_GUARD = re.compile(rb"(?:(?<=,)|(?<=,\"))'(?=[-=+@]|\xef\xbc[\x8b\x8d\x9d\xa0])")
_VERSION = re.compile(rb'<meta name="generator" content="spoold ([^"]+)">\n')
_AS_OF = re.compile(rb"<p>As of [^<.]+\. Times are ([A-Za-z0-9_+/-]{1,64})\.</p>\n")
#: What a page of a job that goes on tells itself, each in a line of its own that may be missing.
_TOLD = re.compile(
    rb'<div><dt>Through at</dt><dd>[^<]+ <span class="quiet block">in [^<]+</span></dd></div>\n'
    rb"|<div><dt>Speed</dt><dd>[0-9,.]+ recipients a second</dd></div>\n"
    rb'|<section class="note bad"><h2>The relay cannot be used</h2><p>[^<]*</p></section>\n'
)
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
            yield from recipients_csv(self._ledger, job.id, zone)
        elif name == ATTEMPTS:
            yield from (lines for lines, _ in attempts_jsonl(self._ledger, job.id, 0, zone))
        elif name == "statistics.json":
            domains = self._ledger.domains(job.id, DOMAINS)
            replies = self._ledger.replies(job.id, REPLIES)
            attempts = self._ledger.attempt_count(job.id)
            counts = self._ledger.counts(job.id)
            yield statistics_json(counts, domains, replies, attempts, self._speed, zone, self._now)
        elif name == PAGE:
            yield from self._page(zone)
        else:
            yield (status_json if name == "status.json" else status_text)(self._status(zone))

    def flaw(self, name: str) -> str | None:
        """How the file `name` differs from what it must be."""
        if name == PAGE:
            return self._compare(name, self._first_difference_in_page)
        masks = {"status.txt": _mask_people, "recipients.csv": _mask_cells}.get(name, _mask)
        return self._compare(name, lambda: self._first_difference(name, masks))

    def glaring(self, name: str) -> str | None:
        """The same while the file may lag behind: what must hold of it at any moment."""
        found = self._compare(name, lambda: self._first_absurdity(name))
        # Pages are printed one after the other: one of a job that is being sent may still have to wait.
        late = name == PAGE and self._subject.job.state is JobState.SENDING
        return None if late and found == _missing(name) else found

    def _compare(self, name: str, compare: Callable[[], str | None]) -> str | None:
        if self._root is None:
            return _missing(name)
        try:
            found = compare()
        except FileNotFoundError:
            return _missing(name)
        except NotRegularError as error:
            return f"report/{name} is {error}"
        except OSError as error:
            return f"report/{name} cannot be read: {error.strerror}"
        return None if found is None else f"report/{name}{found}"

    def _first_difference(self, name: str, mask: Callable[[bytes], bytes]) -> str | None:
        return _difference(enumerate(self._lines(name), 1), _lines(self.expected(name)), mask)

    def _first_difference_in_page(self) -> str | None:
        version = zone = b""
        for line in self._lines(PAGE):
            if (found := _VERSION.fullmatch(line)) is not None:
                version = found[1]
            elif (found := _AS_OF.fullmatch(line)) is not None:
                zone = found[1]
        if version and version != __version__.encode():
            return self._first_absurdity(PAGE)
        lines, page = enumerate(self._lines(PAGE), 1), _lines(self._page(_zone(zone) or self._subject.zone))
        if self._subject.job.state.final:
            return _difference(lines, page, _mask_written)
        told = _TOLD.fullmatch
        return _difference(
            ((number, line) for number, line in lines if not told(line)),
            (line for line in page if not told(line)),
            _mask_written,
        )

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
        if name == PAGE:
            lines = self._lines(name)
            begins, last, named = next(lines, b"") == b"<!DOCTYPE html>\n", b"", False
            title = f"<title>{job.name} ".encode()
            for last in lines:
                named = named or last.startswith(title)
            if not begins or not named:
                return " is no page of this job"
            return None if last.rstrip() == b"</html>" else " is too short: its end is missing"
        if name.endswith(".json"):
            counts = self._load(name).get("counts" if name == "status.json" else "states")
            whole = isinstance(counts, dict) and sum(counts.values()) == job.total
            return None if whole else f" does not account for {job.total} recipients"
        return None if next(self._lines(name), b"").startswith(job.name.encode()) else ":1 does not name the job"

    def _status(self, zone: tzinfo) -> Status:
        subject = self._subject
        attempts, _, _ = self._ledger.attempt_count(subject.job.id)
        return Status(
            subject.job, subject.description, subject.sender, self._ledger.counts(subject.job.id), zone,
            self._now, self._error, self._speed, self._eta, attempts,
        )  # fmt: skip

    def _page(self, zone: tzinfo) -> Iterator[bytes]:
        return job_page(JobView.of(self._status(zone), self._ledger))

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


def _missing(name: str) -> str:
    return f"report/{name} is missing"


def _difference(
    found: Iterable[tuple[int, bytes]], wanted: Iterable[bytes], mask: Callable[[bytes], bytes]
) -> str | None:
    """The first line that differs; `found` are the file's lines with their numbers."""
    number = 0
    for numbered, line in zip_longest(found, wanted):
        if numbered is None:
            return f" is too short: line {number + 1} is missing"
        number, text = numbered
        if line is None:
            return f" is too long: line {number} is none of this job's"
        if text != line and mask(text) != mask(line):
            return f":{number} differs from the database"
    return None


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


def _zone(name: bytes) -> tzinfo | None:
    try:
        return ZoneInfo(name.decode()) if name else None
    except (ValueError, LookupError, OSError):
        return None


def _mask_written(line: bytes) -> bytes:
    """The line of a page without the moment at which that was written."""
    return _AS_OF.sub(rb"\1", line)


def _mask(line: bytes) -> bytes:
    """The line with its moments as what they are, wherever they were written."""
    return _MOMENT.sub(lambda found: b"%.3f" % (_posix(found[0].decode()) or 0.0), line)


def _mask_cells(line: bytes) -> bytes:
    """The same of a line of recipients.csv, whether what looks like a formula was escaped when it was written or not."""
    return _mask(_GUARD.sub(b"", line))


def _mask_people(line: bytes) -> bytes:
    return _FOR_PEOPLE.sub(b"MOMENT", line)
