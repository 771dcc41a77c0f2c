"""Which signals the agent hears, from its first moment on: SIGTERM and SIGINT end it, SIGHUP reloads.

Until the event loop listens they wait: nobody who signals a process that has just begun kills it. SIGUSR1, SIGUSR2 and SIGALRM, which
other programs take for something, mean nothing here.
"""

import signal
from asyncio import AbstractEventLoop
from collections.abc import Callable

_ENDING = (signal.SIGTERM, signal.SIGINT)
_HEARD = (*_ENDING, signal.SIGHUP)
_UNHEARD = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)


def hold() -> None:
    """To be called first, and in the main thread: what is signalled waits for `listen`."""
    for number in _UNHEARD:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)


def listen(loop: AbstractEventLoop, end: Callable[[signal.Signals], None], reload: Callable[[], None]) -> None:
    """From here on `end` and `reload` are called in the event loop; what has waited is heard at once."""
    for number in _ENDING:
        loop.add_signal_handler(number, end, number)
    loop.add_signal_handler(signal.SIGHUP, reload)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
