"""`spoold run`: the agent."""

import argparse
import asyncio
import contextlib
import ctypes
import os
import resource
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing

from spoold.agent.configuration import Configuration
from spoold.agent.supervisor import AgentError, Supervisor
from spoold.cli import config
from spoold.cli.command import configuration, open_spool
from spoold.cli.log import configure as configure_log
from spoold.cli.log import take_over
from spoold.event import log
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
    configure_log(found.log)
    take_over()
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
        configure_log(new.log)
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
    try:
        taken = ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1) == 1
    except (AttributeError, OSError):
        taken = False
    if not taken:
        log("agent.untuned", setting="one heap", reason="this C library has no such setting")


def _count_no_allocations() -> None:
    """SQLite counts what it allocates, under one lock for all threads: who reads waits for who writes, a sixth of the time.
    Nobody asks for these counts. It must be told before the first connection, and only the library that Python uses.
    """
    try:
        library = ctypes.CDLL(_sqlite_module())
        library.sqlite3_sourceid.restype = ctypes.c_char_p
        reason = _untold(library)
    except (ImportError, AttributeError, OSError) as error:
        reason = f"its library cannot be called: {error}"
    if reason is not None:
        log("agent.untuned", setting="SQLite without counts", reason=reason)


def _sqlite_module() -> str:
    import _sqlite3

    return _sqlite3.__file__


def _untold(library: ctypes.CDLL) -> str | None:
    """Why this library was not told, if it was not; it can be used in either case."""
    with closing(sqlite3.connect(":memory:")) as connection:
        (ours,) = connection.execute("SELECT sqlite_source_id()").fetchone()
    if library.sqlite3_sourceid() != ours.encode():
        return "the library that is found is not the one that Python uses"
    if library.sqlite3_shutdown() != sqlite3.SQLITE_OK:  # the module has initialised it
        return "it cannot be told any more"
    told = library.sqlite3_config(_SQLITE_CONFIG_MEMSTATUS, 0)
    library.sqlite3_initialize()
    return None if told == sqlite3.SQLITE_OK else f"it answers {told}"


def _raise_limits() -> None:
    """As many open files as the system lets us have: one a connection, and some for every job that is sent."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
