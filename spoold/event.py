"""The closed list of log events: nothing is logged under another name, and none of these changes its meaning.

Each event has one level. Fields are plain values; text from outside (replies, file names) comes escaped.
"""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def _import_structlog() -> ModuleType:
    """structlog without rich, which it takes wherever that is installed, for tracebacks that nobody prints here: 6 MB and a
    twentieth of a second for each agent.
    """
    here = "rich" in sys.modules
    if not here:
        sys.modules["rich"] = None  # type: ignore[assignment] # the import system's word for: not to be had
    try:
        return importlib.import_module("structlog")
    finally:
        if not here:
            del sys.modules["rich"]


structlog = _import_structlog()

EVENTS: dict[str, tuple[str, str]] = {
    "agent.started": ("info", "the agent has the spool, has recovered, and works; `version`, `spool`, `jobs`"),
    "agent.stopping": ("info", "a signal came; open messages end, no new one begins; `signal`, `open`"),
    "agent.stopped": ("info", "the agent has ended in order"),
    "agent.failed": ("critical", "the agent ends because it can no longer keep its promises; `error` says why"),
    "agent.recovered": ("warning", "the process before this one was killed; `uncertain` recipients may have been sent"),
    "agent.migrated": ("info", "an older version's database was brought up to `form`, and kept as it was as `copy`"),
    "agent.stuck": ("error", "`parts` hang: the service manager is told no longer that all is well, and will restart the agent"),
    "agent.reloaded": ("info", "SIGHUP: the configuration was read again; `changed` names what differs"),
    "agent.reload_failed": ("error", "SIGHUP: the new configuration is wrong and the old one stays; `problem`, one line each"),
    "agent.task_failed": ("error", "an internal error, a bug: please report it; the work goes on; `where`, `error`"),
    "agent.untuned": ("debug", "this machine does without a `setting` that spares memory or time, for this `reason`"),
    "clock.jumped": ("warning", "the wall clock was set back; waiting times were moved with it; `seconds`"),
    "disk.full": ("error", "the disk is nearly full; no new transaction is opened until there is room; `free`"),
    "disk.free": ("info", "there is room on the disk again"),
    "watch.failed": ("warning", "changes are found by looking every second instead of by notification; `error`"),
    "upload.seen": ("info", "a new folder (`upload`) is in new/"),
    "upload.problem": ("warning", "something in new/ is no job, or could not be taken for now; `upload`, `problem`"),
    "job.accepted": ("info", "an upload was taken and is a job now; `job`, `recipients`, `rule`"),
    "job.rejected": ("warning", "an upload was refused: nothing of it is sent; `job`, `reason`, `problems`"),
    "job.state": ("info", "a job changed its `state`; `reason` and `next_at` as in its report"),
    "job.edited": ("info", "the timing of a job was changed by an edit of its job.yaml"),
    "job.edit_refused": ("warning", "an edited job.yaml is wrong and the old timing stays; `problem`"),
    "job.cancelled": ("info", "CANCEL was seen, or the job's folder was removed; `reason`"),
    "job.retried": ("info", "RETRY was seen; `recipients` are due now"),
    "job.removed": ("info", "a finished job was removed: after `keep_done`, or as `spoold purge` asked"),
    "job.remove_failed": ("error", "a finished job could not be removed; `job`, `error`"),
    "message.sent": ("debug", "the relay took a message; `recipients` says for how many"),
    "message.refused": ("info", "recipients of a message were refused or deferred; `sent`, `failed`, `deferred`, `reply`"),
    "message.uncertain": ("warning", "the connection broke after the final dot; `recipients` may have been sent; `error`"),
    "relay.down": ("error", "a relay cannot be used; `error` says why and what to do; jobs wait or go by its fallback"),
    "relay.up": ("info", "the relay can be used again"),
    "relay.limit": ("info", "the relay takes fewer recipients in a message than configured; `recipients` is the new limit"),
    "relay.connections": ("info", "the relay refuses more connections; `connections` is the number for the next minute"),
    "notice.failed": ("error", "the summary mail of a `job` that ended could not be written; it is tried again; `error`"),
    "log.dropped": ("warning", "`lines` of the log could not be written, or found no room, before this one; the work went on"),
    "spool.failed": ("error", "a folder of the spool could not be used; it is tried again; `where`, `error`"),
    "spool.set_aside": (
        "warning",
        "something stood in the way of the agent's own work and was renamed; `where` it was, its `kind`, its name `now`, `error`",
    ),
    "report.failed": ("error", "a report could not be written; it is tried again; `job`, `error`"),
}  # fmt: skip

_LEVELS = ("debug", "info", "warning", "error", "critical")
_logger = structlog.get_logger("spoold")
_unwanted: frozenset[str] = frozenset()
_unmade = 0


def _none() -> int:
    return 0


_unwritten: Callable[[], int] = _none


def rebind(level: str, unwritten: Callable[[], int] = _none) -> None:
    """Log by structlog's present configuration, from `level` on; a bound logger keeps the one that it was first used with.
    `unwritten` tells how many lines it had to drop."""
    global _logger, _unwanted, _unwritten
    _unwritten = unwritten
    _logger = structlog.get_logger("spoold")
    below = _LEVELS[: _LEVELS.index(level)]
    _unwanted = frozenset(event for event, (its, _) in EVENTS.items() if its in below)


def log(event: str, **fields: Any) -> None:
    """Log one of `EVENTS` at its level; fields without a value are left out. No work depends on it: what cannot be logged is
    dropped and counted."""
    global _unmade
    if event in _unwanted:
        return  # there may be thousands a second
    level = EVENTS[event][0]
    try:
        getattr(_logger, level)(event, **{name: value for name, value in fields.items() if value is not None})
    except Exception:  # noqa: BLE001 - whatever it is, the work goes on
        _unmade += 1


def dropped() -> int:
    """How many lines could not be logged since the start."""
    return _unmade + _unwritten()
