"""The wall clock as delivery reads it, with steps told at the very moment at which they can be known.

Moments that are kept (when somebody is due, what a rate has counted) are of the clock that stood then. Were a new clock read before
the old moments are moved, some of both would lie side by side, and nobody could tell them apart. So whoever reads the time finds the
step, and the moments are moved before the reading is used.
"""

from collections.abc import Callable

#: A clock that was set back by less makes somebody wait for so long at the most; by more, nobody waits longer for it. What it
#: loses little by little adds up.
STEP = 60.0


class Clock:
    """See the module; for the event loop alone. `wall` gives POSIX seconds, `monotonic` seconds that no one sets; `stepped` is
    told by how many seconds the clock was set, forward or (negative) back, and what it shows now.
    """

    def __init__(
        self, wall: Callable[[], float], monotonic: Callable[[], float], stepped: Callable[[float, float], None]
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._stepped = stepped
        self._offset = wall() - monotonic()

    def __call__(self) -> float:
        """Now, POSIX seconds."""
        now = self._wall()
        ahead = now - self._monotonic() - self._offset
        # Forward is followed at once: what is kept by the later time is measured from there.
        if ahead > 0 or ahead <= -STEP:
            self._offset += ahead
        if abs(ahead) >= STEP:
            self._stepped(ahead, now)
        return now
