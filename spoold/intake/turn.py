"""Whose turn it is: owners of uploads share the time that they take, however many uploads each of them has."""

from collections import deque
from collections.abc import Collection
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Things to do, each for an owner (a uid). Next is the first of the owner who has had the least time.

    Whoever had nothing to do saves no time up meanwhile: it begins where those stand who are served. For one thread at a
    time.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, deque[T]] = {}
        self._spent: dict[int, float] = {}
        self._served = 0.0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, owner: int, item: T) -> None:
        """Last of its owner's."""
        if owner not in self._waiting:
            self._waiting[owner] = deque()
            self._spent[owner] = max(self._spent.get(owner, 0.0), self._served)
        self._waiting[owner].append(item)

    def next(self, busy: Collection[int] = ()) -> tuple[int, T] | None:
        """(owner, thing), of no owner who is `busy`; None where there is none."""
        owner = min((each for each in self._waiting if each not in busy), key=self._spent.__getitem__, default=None)
        if owner is None:
            return None
        self._served = max(self._served, self._spent[owner])
        queue = self._waiting[owner]
        item = queue.popleft()
        if not queue:
            del self._waiting[owner]
        return owner, item

    def spend(self, owner: int, seconds: float) -> None:
        """So long was something done for this owner."""
        self._spent[owner] = max(self._spent.get(owner, 0.0), 0.0) + seconds
        if len(self._spent) > 2 * len(self._waiting) + 100:
            behind = {
                each: spent for each, spent in self._spent.items() if each in self._waiting or spent > self._served
            }
            self._spent = behind
