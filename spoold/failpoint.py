"""Named places where a test may kill or fail the real process.

`SPOOLD_FAILPOINT=name` kills the process with SIGKILL the first time that it passes `name`; `name:7` the
seventh time; `name:1:EIO` raises that OSError there instead. Unset, a failpoint costs one comparison.
"""

import errno
import os
import signal
from collections import Counter

#: Every failpoint, in the order in which a job passes them.
NAMES = (
    "pickup-written",
    "pickup-renamed",
    "pickup-removed",
    "claim-renamed",
    "file-taken",
    "file-synced",
    "chunk-committed",
    "before-accept",
    "after-accept",
    "before-move",
    "after-move",
    "before-intent",
    "after-intent",
    "after-mail",
    "after-354",
    "half-body",
    "before-dot",
    "after-dot",
    "after-reply",
    "before-outcome",
    "after-outcome",
    "before-report",
    "report-written",
    "attempts-appended",
    "notice-named",
    "notice-written",
)

_name, _, _rest = os.environ.get("SPOOLD_FAILPOINT", "").partition(":")
_nth, _, _error = _rest.partition(":")
_target = int(_nth or 1)
_passed: Counter[str] = Counter()

if _name and _name not in NAMES:
    raise SystemExit(f"spoold: SPOOLD_FAILPOINT: no failpoint named {_name!r}")


def failpoint(name: str) -> None:
    """Pass the place `name`; does nothing unless the environment arms it."""
    if name != _name:
        return
    _passed[name] += 1
    if _passed[name] != _target:
        return
    if _error:
        raise OSError(getattr(errno, _error), os.strerror(getattr(errno, _error)))
    os.kill(os.getpid(), signal.SIGKILL)
