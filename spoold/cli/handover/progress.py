"""A bar on standard error for work that takes long; nothing where that is no terminal, and nothing for short work."""

import contextlib
import threading
import time
from collections.abc import Iterator
from enum import Enum
from typing import Protocol

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

#: What is through in fewer seconds needs no bar.
_PATIENCE = 0.5
_EVERY = 0.1


class Unit(Enum):
    """What is counted."""

    BYTES = "bytes"
    FILES = "files"
    RECIPIENTS = "recipients"


class Told(Protocol):
    """Takes how much is done, and of how much, if that is known. Cheap: it may be called for every file."""

    def __call__(self, done: int, total: int | None = None, /) -> None: ...


class _Amount(ProgressColumn):
    """`12,000 of 50,000 recipients`, `1.2 MB of 3.0 GB`."""

    def __init__(self, unit: Unit) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        amounts = [int(task.completed)] + ([] if task.total is None else [int(task.total)])
        if self._unit is Unit.BYTES:
            return Text(" of ".join(map(decimal, amounts)))
        return Text(" of ".join(f"{amount:,}" for amount in amounts) + f" {self._unit.value}")


@contextlib.contextmanager
def progress(text: str, unit: Unit) -> Iterator[Told]:
    """Show how far the work in the with block has come; the bar goes when it ends. Do not print in it."""
    console = Console(stderr=True, highlight=False)
    if not console.is_interactive:
        yield _unheard
        return
    bars = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), _Amount(unit), TimeRemainingColumn(),
        console=console, transient=True, redirect_stdout=False, redirect_stderr=False,
    )  # fmt: skip
    task = bars.add_task(text, total=None)
    last = 0.0

    def told(done: int, total: int | None = None, /) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= _EVERY:
            last = now
            bars.update(task, completed=done, total=total)

    begin = threading.Timer(_PATIENCE, bars.start)
    begin.daemon = True
    begin.start()
    try:
        yield told
    finally:
        begin.cancel()
        begin.join()
        bars.stop()


def _unheard(done: int, total: int | None = None, /) -> None:
    pass
