"""What `spoold status` shows of the agent and of a job, read from the files that the agent writes.

Whatever those files say, every string in a view is one printable line, and what is missing is absent, not an error.
"""

import os
from collections.abc import Mapping
from functools import partial
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from spoold.core.folder import REPORT
from spoold.core.problem import printable
from spoold.core.state import JobState
from spoold.report.table import ATTEMPTS
from spoold.storage.spooldir import Spool, valid_name

_LIMIT = 64 * 1024 * 1024
#: Last failures are looked for in this many bytes at the end of attempts.jsonl.
_TAIL = 1024 * 1024
_SENT = b'"result":"sent"'

Line = Annotated[str, AfterValidator(partial(printable, limit=1000))]


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


class Reply(_View):
    """How often one kind of reply was given."""

    result: Line
    smtp_code: int | None = None
    dsn_status: Line | None = None
    bounce_category: Line | None = None
    count: int
    example: Line | None = None


class Failure(_View):
    """An attempt that did not lead to *sent*."""

    at: AwareDatetime
    address: Line
    result: Line
    diagnostic: Line | None = None


class Job(_View):
    """A job: what the agent's list says of it, and where its own report was read, all the rest."""

    job: Line
    state: Line
    reason: Line | None = None
    since: AwareDatetime | None = None
    next_at: AwareDatetime | None = None
    total: int | None = None
    counts: Mapping[Line, int] = Field(default_factory=dict)
    eta: AwareDatetime | None = None
    relay_error: Line | None = None
    warnings: tuple[Line, ...] = ()
    errors: tuple[Line, ...] = ()
    description: Line = ""
    sender: Line | None = None
    accepted_at: AwareDatetime | None = None
    updated_at: AwareDatetime | None = None
    speed: float | None = None
    """Recipients a second, over the last minute, of a job that is being sent."""
    replies: tuple[Reply, ...] = ()
    failures: tuple[Failure, ...] = ()
    """The last ones, latest first."""

    @property
    def done(self) -> int:
        """Recipients with a final state."""
        return self.count("sent", "failed", "expired", "cancelled")

    @property
    def progress(self) -> float | None:
        """0 to 1; None where nothing is known, or nobody is to be sent to."""
        return self.done / self.total if self.total and self.counts else None

    @property
    def live(self) -> bool:
        """Whether the agent still works on it."""
        return self.state in {state.value for state in JobState if not state.final}

    def count(self, *states: str) -> int:
        return sum(self.counts.get(state, 0) for state in states)


class Relay(_View):
    relay: Line
    up: bool = True
    connections: int = 0
    error: Line | None = None


class Upload(_View):
    upload: Line
    waits_for: Line


class _Process(_View):
    version: Line | None = None
    pid: int | None = None
    state: Line


class Agent(_View):
    """The agent and its jobs: live ones, then those that ended last."""

    running: bool
    agent: _Process
    warnings: tuple[Line, ...] = ()
    relays: tuple[Relay, ...] = ()
    uploads: tuple[Upload, ...] = ()
    jobs: tuple[Job, ...] = ()


class _Rates(_View):
    recipients_per_second: float | None = None


class _Statistics(_View):
    replies: tuple[Reply, ...] = ()
    rates: _Rates = _Rates()


def read_job(spool: Spool, folder: str, name: str, *, failures: int) -> Job:
    """A job's whole view, with its last `failures`. Raises OSError, and ValueError where the report is no report."""
    with spool.job(folder, name) as root:
        job = Job.model_validate_json(spool.files.read_small(root, (REPORT, "status.json"), _LIMIT))
        try:
            data = spool.files.read_small(root, (REPORT, "statistics.json"), _LIMIT)
            statistics = _Statistics.model_validate_json(data)
        except (OSError, ValidationError):
            statistics = _Statistics()
        last = _last_failures(spool, root, failures) if failures else ()
    speed = statistics.rates.recipients_per_second if job.state == JobState.SENDING else None
    return job.model_copy(update={"speed": speed, "replies": statistics.replies, "failures": last})


def enrich(spool: Spool, job: Job, *, failures: int) -> Job:
    """A job of the agent's list with what its own report knows, or as it was where that cannot be read."""
    folder = spool.find(job.job) if valid_name(job.job) else None
    if folder is None:
        return job
    try:
        whole = read_job(spool, folder, job.job, failures=failures)
    except (OSError, ValueError):
        return job
    return job.model_copy(update={"speed": whole.speed, "eta": whole.eta, "failures": whole.failures})


def _last_failures(spool: Spool, root: int, most: int) -> tuple[Failure, ...]:
    found: list[Failure] = []
    try:
        fd = spool.files.open_file(root, (REPORT, ATTEMPTS))
    except OSError:
        return ()
    with spool.files.closing(fd):
        begin = max(os.fstat(fd).st_size - _TAIL, 0)
        lines = os.pread(fd, _TAIL, begin).split(b"\n")
    for line in reversed(lines[1:] if begin else lines):
        if len(found) == most:
            break
        if line and _SENT not in line:
            try:
                found.append(Failure.model_validate_json(line))
            except ValidationError:
                continue  # torn: it is being written
    return tuple(found)
