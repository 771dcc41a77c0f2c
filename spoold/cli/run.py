"""`spoold run`: the agent."""

import argparse
import asyncio
import contextlib
import ctypes
import os
import resource
import time
from collections.abc import Callable

from spoold.agent.configuration import Configuration
from spoold.agent.supervisor import AgentError, Supervisor
from spoold.cli import config, log
from spoold.cli.command import configuration, open_spool
from spoold.storage.database import DatabaseError
from spoold.storage.owner import require_owner
from spoold.storage.spooldir import Spool

#: malloc.h
_M_ARENA_MAX = -8
#: sqlite3.h
_SQLITE_CONFIG_MEMSTATUS = 9


def run(options: argparse.Namespace) -> int:
    """Run until a signal, or, draining, until nothing is left that could be sent now."""
    found = configuration(options)
    log.configure(found.log)
    log.take_over()
    Spool.complete(found.spool)
    spool = open_spool(found.spool)
    require_owner(spool)
    spool.adopt_umask()
    _raise_limits()
    _share_heap()
    _count_no_allocations()

    def reload() -> Configuration:
        try:
            new = config.read(found.path)
        except config.ConfigError as error:
            raise ValueError(str(error)) from None
        if new.spool != found.spool:
            raise ValueError(f"{found.path}: spool: cannot change while the agent runs; restart it")
        log.configure(new.log)
        return new.agent

    async def agent() -> None:
        supervisor = Supervisor(
            spool, found.agent, clock=time.time, monotonic=time.monotonic, reload=reload, drain=options.drain
        )
        await supervisor.run()

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(agent())
    except AgentError as error:
        raise DatabaseError(str(error)) from None
    finally:
        spool.close()
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed; `SPOOLD_LOOP=asyncio` asks for the standard library's loop."""
    if os.environ.get("SPOOLD_LOOP") == "asyncio":
        return None
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _share_heap() -> None:
    """One heap for all threads, of glibc's: with one each, what every one of them keeps free adds up to 15-20 MB."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _count_no_allocations() -> None:
    """SQLite counts what it allocates, under one lock for all threads: who reads waits for who writes, a sixth of the time.
    Nobody asks for these counts. It must be told before the first connection.
    """
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import _sqlite3

        library = ctypes.CDLL(_sqlite3.__file__)
        library.sqlite3_shutdown()  # the module has initialised it
        library.sqlite3_config(_SQLITE_CONFIG_MEMSTATUS, 0)
        library.sqlite3_initialize()


def _raise_limits() -> None:
    """As many open files as the system lets us have: one a connection, and some for every job that is sent."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
