"""What the views of `spoold status` are drawn with: consoles, bars, numbers and colours.

On a terminal a view fits its width. Elsewhere it is plain lines, as long as they are, without a control code.
"""

import io
import sys
from collections.abc import Mapping
from itertools import accumulate

from rich.console import Console, RenderableType
from rich.text import Text

STYLES: Mapping[str, str] = {
    "sent": "green", "failed": "red", "expired": "red", "cancelled": "bright_black", "deferred": "yellow",
    "uncertain": "magenta", "sending": "cyan", "queued": "", "finished": "green", "rejected": "red", "waiting": "yellow",
    "scheduled": "blue", "held": "magenta",
}  # fmt: skip
_DONE = ("sent", "failed", "expired", "cancelled")
_WIDE = 100_000


def console() -> Console:
    """Standard output. It shows what its encoding cannot say as escapes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console(highlight=False, markup=False, emoji=False)


def show(to: Console, view: RenderableType) -> None:
    """Print `view`, on a terminal to its width, elsewhere unfolded and without trailing spaces."""
    if to.is_terminal:
        to.print(view)
        return
    plain = Console(
        file=io.StringIO(),
        width=_WIDE,
        highlight=False,
        markup=False,
        emoji=False,
        force_terminal=False,
        color_system=None,
    )
    with plain.capture() as captured:
        plain.print(view)
    for line in captured.get().splitlines():
        print(line.rstrip(), file=to.file)


def bar(counts: Mapping[str, int], total: int, width: int, *, ascii_only: bool) -> Text:
    """How many of `total` have a final state, and which; `width` characters."""
    full, empty = ("#", ".") if ascii_only else ("━", "─")
    drawn = Text(no_wrap=True)
    before = 0
    for state, upto in zip(_DONE, accumulate(counts.get(state, 0) for state in _DONE), strict=True):
        end = min(round(width * upto / total), width) if total else 0
        # As long as one is left, so is a piece of the bar.
        end = min(end, width - 1) if upto < total else end
        drawn.append(full * (end - before), STYLES[state])
        before = end
    return drawn.append(empty * (width - before), "bright_black")


def share(progress: float | None) -> str:
    """A progress in per cent; only what is through is 100 %."""
    if progress is None:
        return "-"
    return f"{progress if progress >= 1 else min(progress, 0.999):.1%}"


def speed(per_second: float | None) -> str:
    """A rate in the unit in which it is a number above one."""
    if not per_second:
        return "-"
    for unit, seconds in (("s", 1.0), ("min", 60.0)):
        if per_second * seconds >= 1:
            number = per_second * seconds
            return f"{number:.1f}/{unit}" if number < 100 else f"{number:,.0f}/{unit}"
    return f"{per_second * 3600:.1f}/h"


def number(value: int | None) -> str:
    return "-" if value is None else str(value)
