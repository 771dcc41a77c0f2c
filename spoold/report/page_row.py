"""The rows of a page's long tables, as HTML.

They are put together here because a template takes five times as long, and there are thousands of them. `text` is the only way for
a string into a row: it makes it printable and escapes it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from urllib.parse import quote

from markupsafe import Markup, escape

from spoold.core.problem import printable
from spoold.core.state import RecipientState
from spoold.report.chart import Segment, stacked
from spoold.report.status import headline
from spoold.storage.ledger import RecipientRow
from spoold.storage.record import JobRow

_DIAGNOSTIC = 300
_NAME = 400
_ROWS = 200
_WAITING = frozenset({RecipientState.DEFERRED, RecipientState.UNCERTAIN})


@dataclass(frozen=True, slots=True)
class JobLine:
    """One job in the spool's page; `place` is the folder in which it stands now, None where it is gone."""

    job: JobRow
    place: str | None

    @property
    def final(self) -> int:
        return sum(count for state, count in self.job.counts.items() if state.final)

    @property
    def href(self) -> str | None:
        """The job's page, relative to the spool's."""
        return None if self.place is None else f"{self.place}/{quote(self.job.name, safe='')}/report/index.html"


def text(value: str | None, limit: int = _DIAGNOSTIC) -> Markup:
    """Foreign text: printable, at most `limit` characters, escaped."""
    return escape(printable(value, limit)) if value else Markup()


def clock(seconds: float | None, zone: tzinfo) -> str:
    """POSIX seconds to the second, in figures that sort; empty for None."""
    return "" if seconds is None else datetime.fromtimestamp(int(seconds), zone).isoformat(" ")[:19]


def remark(job: JobRow, zone: tzinfo) -> str:
    """What is to be said of a job's state beside its word; empty where that is all."""
    return headline(job, zone).removeprefix(job.state.value).lstrip(":, ")


def percent(share: float) -> str:
    """One decimal, cut off: 100 only when it is."""
    return f"{int(1000 * share + 1e-9) / 10:.1f}%"


def badge(state: str) -> str:
    return f'<span class="badge {text(state)}">{text(state)}</span>'


def bar(segments: Sequence[Segment], kind: str = "bar") -> str:
    """A horizontal bar for the eye; the figures stand beside it."""
    parts = "".join(
        f'<rect class="{part.kind}" x="{part.x:g}%" width="{part.width:g}%" height="100%"/>' for part in segments
    )
    return f'<svg class="{kind}" aria-hidden="true"><rect class="track" width="100%" height="100%"/>{parts}</svg>'


def recipient_rows(rows: Iterable[RecipientRow], zone: tzinfo) -> Iterator[Markup]:
    """A `tr` for each recipient, many at a time: line, address, state, attempts, status, reply, last and next attempt."""
    badges: Mapping[RecipientState, str] = {state: badge(state.label) for state in RecipientState}
    times: dict[int, str] = {}  # most rows share their seconds

    def at(seconds: float | None) -> str:
        if seconds is None:
            return ""
        found = times.get(int(seconds))
        if found is None:
            found = times[int(seconds)] = clock(seconds, zone)
        return found

    held: list[str] = []
    for row in rows:
        due = at(row.due_at) if row.state in _WAITING else ""
        held.append(
            f'<tr><td class="n">{row.line}</td><td><bdi>{text(row.address, _NAME)}</bdi></td><td>{badges[row.state]}</td>'
            f'<td class="n">{row.attempts}</td><td class="code">{text(row.status)}</td>'
            f'<td class="reply"><bdi>{text(row.diagnostic)}</bdi></td>'
            f'<td class="at">{at(row.last_attempt_at)}</td><td class="at">{due}</td></tr>\n'
        )
        if len(held) == _ROWS:
            yield Markup("".join(held))  # noqa: S704 - escaped by `text`
            held.clear()
    yield Markup("".join(held))  # noqa: S704 - as above


def job_rows(lines: Iterable[JobLine], zone: tzinfo) -> Markup:
    """One `tr` a job: name, state, what it waits for, bar, progress, done, recipients, since."""
    return Markup("".join(_job_row(line, zone) for line in lines))  # noqa: S704 - escaped below


def _job_row(line: JobLine, zone: tzinfo) -> str:
    job = line.job
    name = text(job.name, _NAME)
    if line.href is not None:
        name = Markup(f'<a href="{escape(line.href)}">{name}</a>')  # noqa: S704 - escaped
    share = percent(line.final / job.total) if job.total else ""
    return (
        f'<tr><th scope="row"><bdi>{name}</bdi></th><td>{badge(job.state.value)}</td><td class="wait">{text(remark(job, zone))}</td>'
        f'<td class="chart">{bar(stacked(job.counts))}</td><td class="n">{share}</td><td class="n">{line.final:,}</td>'
        f'<td class="n">{job.total:,}</td><td class="at">{clock(job.since, zone)}</td></tr>\n'
    )
