"""Threads for what takes long: one thing of an owner at a time, and owners by turns."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from spoold.intake.turn import Turns


class Lanes:
    """See the module. `owners` are served at the same time, at most; `monotonic` gives seconds."""

    def __init__(self, owners: int, *, monotonic: Callable[[], float]) -> None:
        self._threads = ThreadPoolExecutor(owners, thread_name_prefix="large")
        self._monotonic = monotonic
        self._turns = Turns[Callable[[], None]]()
        self._served: set[int] = set()
        self._stopping = False
        self._lock = threading.Lock()

    def submit(self, owner: int, work: Callable[[], None]) -> None:
        """Do it when it is the owner's turn; never, once `stop` was called."""
        with self._lock:
            if not self._stopping:
                self._turns.put(owner, work)
                self._threads.submit(self._work)

    def stop(self) -> None:
        """End; what was begun is finished first."""
        with self._lock:
            self._stopping = True
        self._threads.shutdown(cancel_futures=True)

    def _work(self) -> None:
        with self._lock:
            turn = None if self._stopping else self._turns.next(self._served)
            if turn is None:
                return  # those that wait are of owners who are served: whoever does so goes on with them
            owner, work = turn
            self._served.add(owner)
        begun = self._monotonic()
        try:
            work()
        finally:
            with self._lock:
                self._turns.spend(owner, self._monotonic() - begun)
                self._served.discard(owner)
                if self._turns and not self._stopping:
                    self._threads.submit(self._work)
