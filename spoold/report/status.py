"""report/status.json and report/status.txt: where a job stands, for programs and for people."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import tzinfo

import orjson

from spoold.core.moment import for_people, rfc3339
from spoold.core.problem import inert, inert_json
from spoold.core.quantity import format_duration
from spoold.core.state import JobState, RecipientState
from spoold.storage.record import JobRow

_REASONS = {
    "window": "outside its windows",
    "retry": "some recipients are tried again later",
    "relay": "the relay cannot be used",
    "disk": "the disk is nearly full",
    "uncertain": "some messages may or may not have been sent; `spoold retry --uncertain` sends them again",
}


@dataclass(frozen=True, slots=True)
class Status:
    """All that the status files say. `speed` is in recipients a second over the last minute, None while unknown."""

    job: JobRow
    description: str
    sender: str
    counts: Mapping[RecipientState, int]
    zone: tzinfo
    now: float
    relay_error: str | None
    speed: float | None
    eta: float | None
    """When the job would be through, as the planner foresees it; None where it cannot."""
    attempts: int

    @property
    def final(self) -> int:
        return sum(count for state, count in self.counts.items() if state.final)

    @property
    def progress(self) -> float:
        """The share of recipients with a final state, 0 to 1; 1 for a job without any."""
        return round(self.final / self.job.total, 4) if self.job.total else 1.0


def status_json(status: Status) -> bytes:
    """The document of CONTRACT §5."""
    job, zone = status.job, status.zone
    document = orjson.dumps(
        {
            "job": job.name,
            "state": job.state.value,
            "reason": job.standing.reason,
            "since": rfc3339(job.since, zone),
            "next_at": rfc3339(job.standing.next_at, zone),
            "total": job.total,
            "counts": {state.label: count for state, count in status.counts.items()},
            "progress": status.progress,
            "eta": rfc3339(status.eta, zone),
            "relay_error": status.relay_error,
            "warnings": list(job.warnings),
            "errors": list(job.errors),
            "description": status.description,
            "sender": status.sender,
            "accepted_at": rfc3339(job.accepted_at, zone),
            "updated_at": rfc3339(status.now, zone),
        },
        option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
    )
    return inert_json(document)


def headline(job: JobRow, zone: tzinfo) -> str:
    """The state in one line of plain words."""
    return state_in_words(job.state, job.standing.reason, job.standing.next_at, zone)


def state_in_words(state: str, reason: str | None, next_at: float | None, zone: tzinfo) -> str:
    """The same of a state as reports have it."""
    words = state if state != JobState.REJECTED.value else "rejected: nothing was sent"
    if reason and state != JobState.REJECTED.value:
        words += f": {_REASONS.get(reason, reason)}"
    if next_at is not None:
        words += f", next at {for_people(next_at, zone)}"
    return words


def status_text(status: Status) -> bytes:
    """One screen for a person."""
    job, zone, counts = status.job, status.zone, status.counts
    lines = [f"{job.name}: {headline(job, zone)}", ""]
    facts = [("Description", status.description)] if status.description else []
    if job.total:  # else the manifest may not have been understood, and an empty one would look like the null sender
        facts.append(("Sender", f"<{status.sender}>"))
    facts += [
        ("Accepted", for_people(job.accepted_at, zone)),
        ("Since", f"{for_people(job.since, zone)} ({job.state.value})"),
    ]
    if status.eta is not None:
        left = format_duration(max(status.eta - status.now, 1))
        facts.append(("Through at", f"{for_people(status.eta, zone)} (in {left})"))
    lines += [f"{name + ':':13}{value}" for name, value in facts]
    if job.total:
        filled = round(40 * status.progress)
        lines += [
            "",
            f"[{'#' * filled}{'.' * (40 - filled)}] {status.progress:.1%} of {job.total} recipients",
            "",
        ]
        lines += [f"  {state.label:<10} {count:>9}" for state, count in counts.items() if count]
    if status.relay_error:
        lines += ["", f"{status.relay_error[0].upper()}{status.relay_error[1:]}"]
    for title, problems in (("Errors", job.errors), ("Warnings", job.warnings)):
        if problems:
            lines += ["", f"{title}:", *(f"  {problem}" for problem in problems[:50])]
            if len(problems) > 50:
                lines.append(f"  … and {len(problems) - 50} more in status.json")
    lines += ["", f"As of {for_people(status.now, zone)}. Recipient by recipient: recipients.csv"]
    return inert("\n".join(lines) + "\n").encode(errors="backslashreplace")
