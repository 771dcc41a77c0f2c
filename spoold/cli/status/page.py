"""`spoold status JOB`: all that is known of a job on one page."""

from datetime import datetime

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from spoold.cli.status.bar import STYLES, bar, share, speed
from spoold.cli.status.view import Job
from spoold.core.moment import for_people
from spoold.core.quantity import format_duration
from spoold.core.state import RecipientState
from spoold.report.status import state_in_words

_REPLIES = 10
_PROBLEMS = 50
_NARROW = 80
_BAR = 60


def page(job: Job, *, width: int | None, ascii_only: bool) -> Group:
    """`width` in columns, None for plain lines."""
    zone = None if job.since is None else job.since.tzinfo
    next_at = None if job.next_at is None else job.next_at.timestamp()
    words = job.state if zone is None else state_in_words(job.state, job.reason, next_at, zone)
    parts: list[RenderableType] = [Text.assemble((job.job, "bold"), ": ", (words, STYLES.get(job.state, ""))), ""]
    parts.append(_facts(job))
    if job.total:
        parts += ["", *_progress(job, width, ascii_only=ascii_only), _counts(job)]
    if job.relay_error:
        parts += ["", Text(f"{job.relay_error[0].upper()}{job.relay_error[1:]}", "bold red")]
    for title, style, problems in (("Errors", "bold red", job.errors), ("Warnings", "bold yellow", job.warnings)):
        if problems:
            parts += ["", Text(f"{title}:", style), *(Text(f"  {problem}") for problem in problems[:_PROBLEMS])]
            if len(problems) > _PROBLEMS:
                parts.append(Text(f"  … and {len(problems) - _PROBLEMS} more in status.json"))
    parts += [*_reasons(job, width), *_failures(job, width)]
    more = " Recipient by recipient: report/recipients.csv" if job.total else ""
    return Group(*parts, "", Text(f"As of {_at(job.updated_at)}.{more}", "dim"))


def _facts(job: Job) -> Table:
    facts = [("Description", job.description)] if job.description else []
    facts += [("Sender", f"<{job.sender or ''}>")] if job.total else []
    facts += [("Accepted", _at(job.accepted_at)), ("Since", f"{_at(job.since)} ({job.state})")]
    if job.speed:
        facts.append(("Rate", f"{speed(job.speed)}, over the last minute"))
    if job.live and job.eta is not None and job.updated_at is not None:
        left = format_duration(max(job.eta.timestamp() - job.updated_at.timestamp(), 1))
        facts.append(("Through at", f"{_at(job.eta)} (in {left})"))
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(Text(f"{name}:"), Text(value))
    return table


def _progress(job: Job, width: int | None, *, ascii_only: bool) -> list[Text]:
    length = _BAR if width is None else max(10, min(_BAR, width - 2))
    drawn = bar(job.counts, job.total or 0, length, ascii_only=ascii_only or width is None)
    through = Text(f"{share(job.progress)} of {job.total} recipients")
    if width is None or width >= length + len(through) + 4:
        return [Text.assemble("[", drawn, "] ", through)]
    return [drawn, through]


def _counts(job: Job) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    for state in RecipientState:
        if count := job.count(state.label):
            percent = f"{count / job.total:.1%}" if job.total else ""
            table.add_row(Text(f"  {state.label}", STYLES.get(state.label, "")), Text(str(count)), Text(percent, "dim"))
    return table


def _reasons(job: Job, width: int | None) -> list[RenderableType]:
    replies = [reply for reply in job.replies if reply.result != "sent"]
    if not replies:
        return []
    narrow = width is not None and width < _NARROW
    table = Table(box=box.SIMPLE_HEAD if width is None else box.SIMPLE, pad_edge=False, show_edge=False)
    table.add_column("Times", justify="right", no_wrap=True)
    table.add_column("Result", no_wrap=True)
    if not narrow:
        table.add_column("Category", no_wrap=True)
    table.add_column("For example", overflow="fold", ratio=None if width is None else 1)
    for reply in replies[:_REPLIES]:
        cells = [Text(str(reply.count)), Text(reply.result, STYLES.get(reply.result, ""))]
        if not narrow:
            cells.append(Text(reply.bounce_category or "-"))
        table.add_row(*cells, Text(reply.example or "-"))
    rest = len(replies) - _REPLIES
    more = [Text(f"  … and {rest} more in statistics.json")] if rest > 0 else []
    return ["", Text("Why not sent:", "bold"), table, *more]


def _failures(job: Job, width: int | None) -> list[RenderableType]:
    if not job.failures:
        return []
    narrow = width is not None and width < _NARROW
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(no_wrap=True)
    if not narrow:
        table.add_column(overflow="fold")
    for failure in job.failures:
        when = failure.at if job.since is None else failure.at.astimezone(job.since.tzinfo)
        cells = [
            Text(f"  {when:%m-%d %H:%M:%S}"),
            Text(failure.address),
            Text(failure.result, STYLES.get(failure.result, "")),
        ]
        table.add_row(*cells, *([] if narrow else [Text(failure.diagnostic or "-")]))
    return ["", Text("Last failures:", "bold"), table]


def _at(moment: datetime | None) -> str:
    if moment is None or moment.tzinfo is None:
        return "-"
    return for_people(moment.timestamp(), moment.tzinfo)
