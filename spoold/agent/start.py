"""A start that takes long, as the recovery of very many jobs: it goes on as long as nobody ends it, and is given the time it needs."""

import asyncio
from collections.abc import Callable

from spoold.agent.systemd import ServiceManager

#: How often the service manager is asked for more time, and for how much, in seconds.
_ASK_EVERY = 10.0
_MORE = 300.0


class Start:
    """See the module. `ended` says, in any thread, whether somebody wants the agent to end."""

    def __init__(self, service_manager: ServiceManager, ended: Callable[[], bool]) -> None:
        self._service_manager = service_manager
        self._ended = ended
        self._steps = 0

    def goes_on(self) -> bool:
        """To be asked before each step of a start, in any thread."""
        self._steps += 1
        return not self._ended()

    async def ask_for_time(self) -> None:
        """Until cancelled: ask for more time while the start moves. One that hangs is not waited for."""
        asked = -1
        while True:
            if self._steps != asked:
                asked = self._steps
                self._service_manager.extend(_MORE)
            await asyncio.sleep(_ASK_EVERY)
