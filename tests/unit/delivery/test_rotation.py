"""Turns: even within a priority, by weight between them, none never."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

from spoold.core.manifest import Priority
from spoold.delivery.rotation import Rotation


def job(name: str, priority: Priority = Priority.NORMAL) -> Any:
    return SimpleNamespace(name=name, queued=False, terms=SimpleNamespace(priority=priority))


def turns(rotation: Rotation, count: int) -> list[str]:
    found = []
    for _ in range(count):
        popped = rotation.pop()
        assert popped is not None
        found.append(popped.name)
        rotation.push(popped)
    return found


def test_jobs_of_one_priority_take_turns() -> None:
    rotation = Rotation()
    for name in "abc":
        rotation.push(job(name))
    assert turns(rotation, 6) == list("abcabc")


def test_higher_priorities_get_more_turns_and_no_one_none() -> None:
    rotation = Rotation()
    rotation.push(job("low", Priority.LOW))
    rotation.push(job("normal"))
    rotation.push(job("high", Priority.HIGH))
    found = turns(rotation, 210)
    assert found[0] == "high"
    assert Counter(found) == {"high": 160, "normal": 40, "low": 10}


def test_who_was_absent_has_not_saved_up_turns() -> None:
    rotation = Rotation()
    rotation.push(job("high", Priority.HIGH))
    turns(rotation, 1600)
    rotation.push(job("low", Priority.LOW))
    assert Counter(turns(rotation, 170))["low"] == 10


def test_job_is_in_the_rotation_once() -> None:
    rotation = Rotation()
    one = job("one")
    rotation.push(one)
    rotation.push(one)
    assert rotation.pop() is one
    assert rotation.pop() is None
    assert not rotation
