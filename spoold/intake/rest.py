"""For how long a file has been at rest, as far as the clock can tell."""

from collections.abc import Callable

#: The clock is taken for set where it has gained as many seconds.
_STEP = 1.0


class Rest:
    """See the module; for any thread. `clock` gives POSIX seconds, `monotonic` seconds that no one sets.

    A clock that is set forward, as it is when a machine has just started, makes a file that is being written look old: what was
    changed before the step counts from the step on.
    """

    def __init__(self, clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._offset = clock() - monotonic()
        self._stepped_at = float("-inf")

    def since(self, moment: float) -> float:
        """The seconds since this moment of the clock, such as a file's; no more than are sure."""
        now = self._clock()
        offset = now - self._monotonic()
        if offset - self._offset >= _STEP:
            self._stepped_at = now
        self._offset = offset
        return max(0.0, now - max(moment, self._stepped_at))
