"""`spoold status`: the agent, what is wrong, what is in new/, and all jobs as a table."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from spoold.cli.status.bar import STYLES, bar, number, share, speed
from spoold.cli.status.view import Agent, Job
from spoold.core.problem import printable
from spoold.core.quantity import format_duration

#: A longer reason is cut in the table; `spoold status JOB` has all of it.
_REASON = 60
_BAR = 16
#: From so many columns on a terminal shows all of the table, and at least the numbers that matter most.
_ALL, _MOST = 110, 72


def overview(agent: Agent, spool: str, now: float, *, width: int | None, rows: int | None, ascii_only: bool) -> Group:
    """`width` in columns, None for plain lines; `rows` bounds the jobs shown; `now` in POSIX seconds."""
    parts: list[RenderableType] = [*_head(agent, spool)]
    if agent.uploads:
        parts += ["", Text("In new/, not taken yet:")]
        parts += [Text(f"  {upload.upload}: waits for {upload.waits_for}") for upload in agent.uploads[:rows]]
        parts += _more(len(agent.uploads), rows, "uploads")
    if not agent.jobs:
        return Group(*parts, "", Text("No jobs."))
    jobs = agent.jobs if rows is None else sorted(agent.jobs, key=lambda job: (job.state != "sending", not job.live))
    parts += [
        "",
        _table(jobs[:rows], now, width, ascii_only=ascii_only),
        *_more(len(jobs), rows, "jobs"),
        _sum(agent.jobs),
    ]
    return Group(*parts)


def failures_of(jobs: Sequence[Job], most: int) -> Group:
    """The last failures of several jobs, latest first."""
    found = sorted(
        ((failure, job.job) for job in jobs for failure in job.failures), key=lambda pair: pair[0].at, reverse=True
    )
    if not found:
        return Group()
    table = Table.grid(padding=(0, 1))
    for name in ("at", "job", "address", "result"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    table.add_column("why", ratio=1, no_wrap=True, overflow="ellipsis")
    for failure, name in found[:most]:
        table.add_row(
            Text(f"{failure.at.astimezone():%H:%M:%S}"), Text(name), Text(failure.address),
            Text(failure.result, STYLES.get(failure.result, "")), Text(failure.diagnostic or ""),
        )  # fmt: skip
    return Group("", Text("Last failures:"), table)


def _head(agent: Agent, spool: str) -> list[Text]:
    process = agent.agent
    if agent.running:
        head = Text(f"spoold {process.version} {process.state}, pid {process.pid}, spool {spool}")
    else:
        head = Text(f"No agent runs on {spool}. What follows is as the last one left it.", "bold yellow")
    lines = [head]
    lines += [Text.assemble(("Warning: ", "bold yellow"), warning) for warning in agent.warnings]
    for relay in agent.relays:
        if not relay.up:
            lines.append(Text.assemble((f"Relay {relay.relay}: ", "bold red"), relay.error or "cannot be used"))
    return lines


def _table(jobs: Sequence[Job], now: float, width: int | None, *, ascii_only: bool) -> Table:
    everything = width is None or width >= _ALL
    most = everything or (width or 0) >= _MOST
    names = ["Done"]
    if everything:
        names += ["Total", "Sent", "Failed", "Deferred", "To send", "Rate", "Left"]
    elif most:
        names += ["Sent", "Failed", "To send", "Left"]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("Job", overflow="fold", min_width=8)
    table.add_column("State", overflow="fold", min_width=9)
    bars = width is not None and everything
    if bars:
        table.add_column("", no_wrap=True, width=_BAR)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for job in jobs:
        values = _values(job, now)
        cells = [Text(job.job), _state(job, now)]
        if bars:
            cells.append(bar(job.counts, job.total or 0, _BAR, ascii_only=ascii_only))
        table.add_row(*cells, *(values[name] for name in names))
    return table


def _state(job: Job, now: float) -> Text:
    # On a terminal a job's state should be one line: what is cut off here is on the job's own page.
    words = Text(no_wrap=True, overflow="ellipsis")
    words.append(job.state, STYLES.get(job.state, ""))
    if job.reason:
        words.append(f": {printable(job.reason, _REASON)}")
    if job.next_at is not None:
        words.append(f", next {_in(job.next_at, now)}")
    return words


def _values(job: Job, now: float) -> dict[str, Text]:
    failed = job.count("failed", "expired")
    known = bool(job.counts)
    to_send = job.count("queued", "sending", "uncertain") if job.live else 0
    return {
        "Done": Text(share(job.progress)),
        "Total": Text(number(job.total)),
        "Sent": Text(number(job.count("sent") if known else None)),
        "Failed": Text(number(failed if known else None), "red" if failed else ""),
        "Deferred": Text(number(job.count("deferred") if known else None)),
        "To send": Text(number(to_send if known else None)),
        "Rate": Text(speed(job.speed)),
        "Left": Text(format_duration(job.eta.timestamp() - now) if job.live and job.eta else "-"),
    }


def _sum(jobs: Sequence[Job]) -> Text:
    live = [job for job in jobs if job.live]
    states = ", ".join(f"{count} {state}" for state, count in Counter(job.state for job in live).items())
    left = sum(job.total - job.done for job in live if job.total is not None and job.counts)
    fast = sum(job.speed or 0.0 for job in live)
    text = f"Live jobs: {states or 'none'}; {left} recipients to go"
    return Text(text + (f", {speed(fast)}" if fast else ""))


def _more(count: int, rows: int | None, what: str) -> list[Text]:
    return [Text(f"  … and {count - rows} more {what}")] if rows is not None and count > rows else []


def _in(moment: datetime, now: float) -> str:
    seconds = moment.timestamp() - now
    return f"in {format_duration(seconds)}" if seconds > 0 else "now"
