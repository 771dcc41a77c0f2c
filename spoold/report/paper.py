"""What the projector remembers of a job, and what becomes of a report that cannot be written."""

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from spoold.core.state import Standing
from spoold.event import log
from spoold.storage.database import DatabaseError
from spoold.storage.entry import NotRegularError
from spoold.storage.obstacle import text_of
from spoold.storage.record import JobRow

LONG_AGO = float("-inf")


@dataclass(slots=True)
class Paper:
    """What the projector remembers of one job. Moments are monotonic seconds."""

    job_id: int
    dirty: bool = True
    busy: bool = False
    new: bool = False  # nobody sends it yet: its page is left to the first change
    small: bool = False  # known to have few recipients: its list is written in no time
    status_at: float = LONG_AGO
    table_at: float = LONG_AGO
    table_cost: float = 0.0
    status_cost: float = 0.0
    table_dirty: bool = True
    attempts: tuple[int, int] | None = None
    marked_at: float = 0.0
    samples: deque[tuple[float, int]] = field(default_factory=deque)
    error: str | None = None
    """Why it could not be written the last time."""
    eta: float | None = None
    eta_for: Standing | None = None
    eta_again: float = 0.0


@contextlib.contextmanager
def telling(paper: Paper, job: JobRow) -> Iterator[None]:
    """Tell of what keeps this job's report from being written. It is tried again later, and the others' go on."""
    try:
        yield
    except DatabaseError:
        raise
    except Exception as error:  # noqa: BLE001 - one job's surprise must not keep the others' reports from being written
        text = text_of(error)
        if not isinstance(error, OSError | NotRegularError):
            text = f"{type(error).__name__}: {error}"
            if text != paper.error:
                log("agent.task_failed", where="report", error=text)
        elif text != paper.error:
            log("report.failed", job=job.name, error=text)
        paper.error = text
        paper.dirty = paper.table_dirty = True
        paper.status_at = paper.table_at = time.monotonic()
