"""Whether the agent's parts move: what each is in the middle of, and since when.

A part that waits for its next round is at rest, however long. A round may take its time; one that takes far longer than any should
hangs, and what it holds up hangs with it. Only a restart helps, and the service manager makes one when the pings end.
"""

import contextlib
from collections.abc import Callable, Iterator


class Pulse:
    """See the module; for the event loop. A round may take `patience` seconds, or a multiple of that where it is said."""

    def __init__(self, monotonic: Callable[[], float], patience: float) -> None:
        self._monotonic = monotonic
        self._patience = patience
        self._watched: list[tuple[str, Callable[[], float | None], float]] = []
        self._rounds: dict[str, float] = {}

    @contextlib.contextmanager
    def round(self, part: str) -> Iterator[None]:
        """The part is in the middle of something, for the length of a with block; one at a time."""
        self._rounds[part] = self._monotonic()
        try:
            yield
        finally:
            del self._rounds[part]

    def watch(self, part: str, since: Callable[[], float | None], times: float = 1.0) -> None:
        """A part that tells itself since when it has been at what it began first, None while it is at rest."""
        self._watched.append((part, since, times))

    def stuck(self) -> dict[str, float]:
        """The parts that hang, and for how many seconds they have been at it."""
        now = self._monotonic()
        found = {part: now - since for part, since in self._rounds.items() if now - since > self._patience}
        for part, ask, times in self._watched:
            since = ask()
            if since is not None and now - since > times * self._patience:
                found[part] = now - since
        return found
