"""How log events are written: for people on a terminal, as JSON elsewhere, with priorities under journald.

All lines go through one `Sink`: nobody is held up by whoever reads them, or does not.
"""

import functools
import logging
import os
import sys
import warnings
from collections.abc import MutableMapping
from typing import Any

import orjson

from spoold.cli.config import LogSettings
from spoold.cli.sink import Logger, Sink, Stream
from spoold.core.problem import inert_json, printable
from spoold.event import log, rebind, structlog

_STDERR = 2
#: Characters of one field on a terminal.
_LIMIT = 10_000
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def configure(settings: LogSettings) -> None:
    """Set up structlog for the rest of the process; standard error gets the events."""
    console = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    journal = not console and _is_journal()
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=not console),
    ]
    sink = _sink()
    if console:
        processors.append(_shown)
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty() and "NO_COLOR" not in os.environ))
    else:
        processors.append(_json_with_priority if journal else _json)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.level.upper())),
        logger_factory=lambda *_: Logger(sink),
        cache_logger_on_first_use=True,
    )
    rebind(settings.level, lambda: sink.dropped)
    # watchdog's remarks, on notifications that were lost and the like, are nothing to act on: the regular look makes up.
    logging.getLogger("watchdog").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"watchdog\.")


def take_over() -> None:
    """Let what Python and the libraries write to standard error take the same way, for the rest of the process."""
    sys.stderr = Stream(_sink(), _descriptor())


@functools.cache
def _sink() -> Sink:
    """The one of this process."""
    return Sink(_descriptor(), lambda lines: log("log.dropped", lines=lines))


def _descriptor() -> int:
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError):
        return _STDERR


def _is_journal() -> bool:
    """Whether standard error is the stream to journald that `$JOURNAL_STREAM` names (systemd.exec(5)).

    The variable alone says little: whoever works in a session that systemd began has it, in pipes and files too.
    """
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _json(_: Any, __: str, line: MutableMapping[str, Any]) -> bytes:
    """A line of JSON in which everything can be seen; what is no text for JSON, such as a name that is not UTF-8, is shown."""
    try:
        data = orjson.dumps(line, default=str)
    except TypeError:
        data = orjson.dumps(_shown(_, __, line), default=str)
    return inert_json(data)


def _json_with_priority(_: Any, __: str, line: MutableMapping[str, Any]) -> bytes:
    """A line that journald reads the priority of: `<N>` first (sd-daemon(3))."""
    priority = _PRIORITIES.get(line.get("level", "info"), 6)
    return b"<%d>" % priority + _json(_, __, line)


def _shown(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The line for a terminal: text from outside is one line, in which everything can be seen."""
    return {name: _text(value) for name, value in line.items()}


def _text(value: Any) -> Any:
    if isinstance(value, str | bytes):
        return printable(value, _LIMIT)
    if isinstance(value, list | tuple):
        return [_text(each) for each in value]
    return value if value is None or isinstance(value, int | float) else printable(str(value), _LIMIT)
