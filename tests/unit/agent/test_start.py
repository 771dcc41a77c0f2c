"""A long start asks for time while it moves, and for no more once it hangs."""

import asyncio

import pytest

from spoold.agent.start import Start
from spoold.agent.systemd import ServiceManager


class Manager(ServiceManager):
    def __init__(self) -> None:
        super().__init__({})
        self.asked = 0

    def extend(self, seconds: float) -> bool:
        self.asked += 1
        return True


async def test_time_is_asked_for_as_long_as_there_are_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spoold.agent.start._ASK_EVERY", 0.001)
    manager = Manager()
    start = Start(manager, lambda: False)
    asking = asyncio.create_task(start.ask_for_time())
    for wanted in (1, 2, 3):
        while manager.asked < wanted:
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)
        assert manager.asked == wanted
        assert start.goes_on()
    asking.cancel()


def test_start_goes_on_until_somebody_ends_it() -> None:
    ended = False
    start = Start(Manager(), lambda: ended)
    assert start.goes_on()
    ended = True
    assert not start.goes_on()
