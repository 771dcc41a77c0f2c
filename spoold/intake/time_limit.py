"""How long one upload may keep intake busy: counted while it is looked at, copied, hashed and examined."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from spoold.core.quantity import format_duration

_Item = TypeVar("_Item")


class OvertimeError(Exception):
    """The upload has used up its time; the text is the error that its job is rejected with."""


class TimeLimit:
    """One upload's. `monotonic` gives seconds; what passes outside `within` is not counted."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, *, spent: float = 0.0) -> None:
        self._monotonic = monotonic
        self._spent = spent
        self._limit = self._end = float("inf")

    @contextlib.contextmanager
    def within(self, limit: float) -> Iterator[None]:
        """Count what is done here; in all, `limit` seconds may be spent."""
        begun = self._monotonic()
        self._limit, self._end = limit, begun + limit - self._spent
        try:
            yield
        finally:
            self._spent += self._monotonic() - begun
            self._end = float("inf")

    @property
    def left(self) -> float:
        """Seconds; infinite outside `within`."""
        return self._end - self._monotonic()

    def check(self) -> None:
        """Raise OvertimeError if nothing is left."""
        if self.left <= 0:
            raise OvertimeError(
                f"reading it took longer than {format_duration(self._limit)} (intake.max_time);"
                " split the job, or raise that limit"
            )

    def over(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """The same items, with a check before and after each."""
        self.check()
        for item in items:
            yield item
            self.check()


#: For those who are in nobody's way, such as `spoold validate`.
BOUNDLESS = TimeLimit()
