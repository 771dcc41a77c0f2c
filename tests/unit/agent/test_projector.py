"""When the projector writes what, with a reporter that only says what it was asked for."""

import asyncio
import contextlib
from typing import cast

from spoold.agent.projector import Projector
from spoold.agent.reporter import Paper, Reporter


class Asked(contextlib.nullcontext[None]):
    """As much of a reporter, and of its press, as the projector uses."""

    def __init__(self) -> None:
        super().__init__()
        self.press = self
        self.written: list[tuple[int, bool]] = []

    def write(self, papers: list[Paper], whole: bool) -> set[int]:
        self.written += [(paper.job_id, whole) for paper in papers]
        return set()

    def finish(self) -> None:
        pass


async def test_stop_writes_whole_what_was_only_brought_up_to_date_in_its_status() -> None:
    asked = Asked()
    projector = Projector(cast("Reporter", asked))
    projector.refresh([1, 2, 3])
    running = asyncio.create_task(projector.run())
    while len(asked.written) < 3:
        await asyncio.sleep(0)
    await projector.stop()
    await running
    assert asked.written[:3] == [(1, False), (2, False), (3, False)]
    assert sorted(asked.written[3:]) == [(1, True), (2, True), (3, True)]
