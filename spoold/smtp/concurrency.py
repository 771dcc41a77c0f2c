"""How many connections a relay gets: more as long as that does not carry less, fewer at once when the relay says so.

Widths go up to the limit in steps of four times as many, after the first step back of twice as many; one that carried
less, and did so twice, is left for the one before, and tried again later.
Moments are monotonic seconds.
"""

#: What counts as less: a disk that syncs slowly for once, or a busy machine, makes a width look worse than it is.
_LESS = 0.9

#: The least time that a width is measured for, in seconds.
_LEAST = 0.025
#: After a try that brought nothing there is no other for so long, in seconds, and twice as long each time that it brings nothing again.
_HOLD = 5.0
_LONGEST_HOLD = 80.0
#: The same after a relay that pushed back.
CROWDED = 60.0
#: A relay that takes so long for a message, in seconds, gets more connections unmeasured.
STALL = 1.0
#: Several connections are told the same at once: it counts once.
_TOGETHER = 1.0


class Concurrency:
    """See the module. `width` is the number of connections to use now, at most `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.width = 1
        self._step = 4
        self._before: int | None = None
        """The width before the one that is on trial."""
        self._rate = 0.0
        """Messages a second that `_before` carried."""
        self._began: float | None = None
        self._count = 0
        self._warming = 0
        self._doubts = 0
        self._hold = _HOLD
        self._hold_until = 0.0
        self._shrunk_at = float("-inf")

    def ended(self, now: float, connected: int, *, busy: bool) -> None:
        """A message ended as it should. `busy`: more was waiting than the connections could take."""
        if not busy or connected < self.width:
            self._began = None
            return
        if self._warming > 0:
            # Before each connection has had its first message, they carry less than they could.
            self._warming -= 1
            return
        if self._began is None:
            self._began, self._count = now, 0
            return
        self._count += 1
        elapsed = now - self._began
        if self._count < self.width or elapsed < _LEAST:
            return
        rate = self._count / elapsed
        self._began = None
        if self._before is not None and rate < _LESS * self._rate:
            self._doubts += 1
            if self._doubts < 2:
                return
            self.width, self._before = self._before, None
            self._step = 2
            self._hold_until = now + self._hold
            self._hold = min(2 * self._hold, _LONGEST_HOLD)
        elif self.width == self.limit:
            self._before = None
        elif now >= self._hold_until:
            if self._before is not None:
                self._hold = _HOLD
            self._before, self._rate, self._doubts = self.width, rate, 0
            self.width = min(self._step * self.width, self.limit)
            self._warming = self.width

    def stalled(self, now: float) -> None:
        """Messages wait, and none has ended for `STALL` seconds: there is nothing to measure by."""
        if now >= self._shrunk_at + CROWDED:
            self.width = min(2 * self.width, self.limit)
            self._before = self._began = None

    def pushed_back(self, now: float, connected: int) -> bool:
        """The relay asks for less: half as many connections. Returns whether that is news."""
        if now - self._shrunk_at < _TOGETHER:
            return False
        return self._shrink(now, max(min(self.width, connected) // 2, 1))

    def refused(self, now: float, connected: int) -> bool:
        """The relay lets no more in than those that are connected. Returns whether that is news."""
        return self._shrink(now, max(connected, 1))

    def _shrink(self, now: float, width: int) -> bool:
        news = width < self.width
        self.width = width
        self._step = 2
        self._before = self._began = None
        self._shrunk_at = now
        self._hold_until = now + CROWDED
        return news
