"""`spoold status`: the agent and its jobs, from the files that the agent writes; once, or live."""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from spoold.cli.command import UsageError, configuration, open_spool
from spoold.cli.status.bar import console, share, show, speed
from spoold.cli.status.overview import failures_of, overview
from spoold.cli.status.page import page
from spoold.cli.status.view import Agent, Job, enrich, read_job
from spoold.core.folder import REPORT
from spoold.core.problem import inert_json, printable
from spoold.core.quantity import format_duration
from spoold.storage.spooldir import Spool, valid_name

_LIMIT = 64 * 1024 * 1024
_EVERY = 1.0
#: The rate and the end of so many live jobs are looked up in their own reports.
_ENRICHED = 50
_FAILURES = 8
#: Lines of a live view that are not rows of the table, and failures in it.
_FRAME = 9
_LIVE_FAILURES = 5
#: Looks for which a job that was there may be missing.
_PATIENCE = 10

T = TypeVar("T")


class _MissingError(Exception):
    """There is no such job, or it has no report; the text says which."""


def run(options: argparse.Namespace) -> int:
    """Show it once, or again and again until Ctrl-C, which is no failure."""
    if options.watch and options.json:
        raise UsageError("--json prints one JSON document: expected it without --watch")
    spool = open_spool(configuration(options).spool)
    name = None if options.job is None else options.job.rstrip("/").rpartition("/")[2]
    try:
        if options.json:
            sys.stdout.buffer.write(_json(spool, name))
        elif options.watch:
            _watch(spool, name)
        else:
            out = console()
            show(out, _look(spool, name, out))
    except _MissingError as error:
        print(f"spoold: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if not options.watch:
            raise
    return 0


# --- once -----------------------------------------------------------------------------------------------------------


def _look(spool: Spool, name: str | None, out: Console, *, live: bool = False) -> RenderableType:
    width = out.width if out.is_terminal else None
    ascii_only = out.options.ascii_only
    if name is not None:
        found = _job(spool, name)
        if isinstance(found, str):
            return Text(f"{name}: in new/, not taken yet; it waits for {found}")
        return page(found, width=width, ascii_only=ascii_only)
    agent = _view(spool, failures=_LIVE_FAILURES if live else 0)
    last = failures_of(agent.jobs, _LIVE_FAILURES) if live else Group()
    taken = len(agent.warnings) + len(agent.relays) + 2 * len(last.renderables)
    rows = max(3, out.height - _FRAME - taken) if live else None
    path = printable(str(spool.path), 500)
    return Group(
        *overview(agent, path, time.time(), width=width, rows=rows, ascii_only=ascii_only).renderables,
        *last.renderables,
    )


def _view(spool: Spool, *, failures: int) -> Agent:
    """The agent's list, with the rates of the jobs that are being sent, and the end of those that wait."""
    try:
        agent = Agent.model_validate(_state(spool))
    except ValidationError:
        raise _MissingError("status.json is not what an agent writes; a running agent replaces it") from None
    live = sorted((job for job in agent.jobs if job.live), key=lambda job: job.state != "sending")
    known = {job.job: enrich(spool, job, failures=failures) for job in live[:_ENRICHED]}
    return agent.model_copy(update={"jobs": tuple(known.get(job.job, job) for job in agent.jobs)})


def _job(spool: Spool, name: str) -> Job | str:
    """A job, or what an upload waits for. Raises _MissingError."""
    folder = _folder(spool, name)
    if folder == "new":
        return _waits_for(spool, name)
    try:
        return read_job(spool, folder, name, failures=_FAILURES)
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError) and _folder(spool, name) != folder:
            return _job(spool, name)  # it changed its folder in between
        raise _unreadable(name, error) from None


def _folder(spool: Spool, name: str) -> str:
    """Where it stands; while it is taken, in new/ still. Raises _MissingError."""
    valid = valid_name(name)
    folder = (spool.find(name) or ("new" if spool.taking(name) else spool.find(name))) if valid else None
    if folder is None:
        raise _MissingError(f"{printable(name)}: no such job in this spool")
    return folder


def _waits_for(spool: Spool, name: str) -> str:
    if spool.find(name) is None and spool.taking(name):
        return "nothing: it is being taken"
    upload = next((item for item in _state(spool)["uploads"] if item["upload"] == name), None)
    return printable(upload["waits_for"], 1000) if upload else "the agent's next look"


def _unreadable(name: str, error: Exception) -> _MissingError:
    why = error.strerror if isinstance(error, OSError) else f"{REPORT}/status.json is not what an agent writes"
    return _MissingError(f"{name}: its report cannot be read: {why}")


def _state(spool: Spool) -> dict[str, Any]:
    """The agent's status.json, with `running` as it is now; what stands in the folders where there is none."""
    try:
        state: dict[str, Any] = orjson.loads(spool.files.read_small(spool.root, ("status.json",), _LIMIT))
    except (OSError, orjson.JSONDecodeError):
        state = {"agent": {"state": "stopped"}, "relays": [], "uploads": [], "jobs": [], "warnings": []}
        for folder in ("active", "deferred", "done"):
            for name in spool.jobs(folder):
                state["jobs"].append({"job": name, "folder": folder, "state": folder, "total": None, "counts": {}})
    if not isinstance(state, dict) or not isinstance(state.get("agent"), dict):
        raise _MissingError("status.json is not what an agent writes; a running agent replaces it")
    state["running"] = spool.is_locked()
    if not state["running"]:
        state["agent"]["state"] = "stopped"
        # Nobody has looked at new/ since; say what is there.
        state["uploads"] = [
            {"upload": printable(name), "waits_for": "an agent: none runs on this spool", "since": None}
            for name in spool.jobs("new")
        ]
    return state


def _json(spool: Spool, name: str | None) -> bytes:
    if name is None:
        return inert_json(orjson.dumps(_state(spool), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    folder = _folder(spool, name)
    if folder == "new":
        found = {"job": name, "state": "uploading", "waits_for": _waits_for(spool, name)}
        return orjson.dumps(found, option=orjson.OPT_APPEND_NEWLINE)
    try:
        with spool.job(folder, name) as root:
            return spool.files.read_small(root, (REPORT, "status.json"), _LIMIT)
    except OSError as error:
        raise _unreadable(name, error) from None


# --- live -----------------------------------------------------------------------------------------------------------


def _interrupted(number: int, frame: FrameType | None) -> None:
    """The first Ctrl-C ends the watch; a second must not hurt while the terminal is put in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _watch(spool: Spool, name: str | None) -> None:
    signal.signal(signal.SIGINT, _interrupted)
    out = console()
    if not out.is_interactive:
        for line in _changes(spool, name):
            print(line, flush=True)
        return
    looks = _looks(lambda: _look(spool, name, out, live=True))
    view = next(looks)
    try:
        with Live(
            view, console=out, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        ) as live:
            for view in looks:
                live.update(view, refresh=True)
    finally:
        out.print(view)  # the screen is as it was before: leave the last look there


def _looks(look: Callable[[], T]) -> Iterator[T]:
    """A look every second. A job that was there may be missing for a moment: it is being taken, or changes its folder."""
    missed, seen = 0, False
    while True:
        try:
            found = look()
        except _MissingError:
            missed += 1
            if not seen or missed > _PATIENCE:
                raise
        else:
            missed, seen = 0, True
            yield found
        time.sleep(_EVERY)


def _changes(spool: Spool, name: str | None) -> Iterator[str]:
    """A line for every job whose state or progress, in per cent, has changed since the last look."""
    shown: dict[str, object] = {}
    for told in _looks(lambda: _all_told(spool) if name is None else _one_told(spool, name)):
        now = time.strftime("%H:%M:%S")
        for key, (state, line) in told.items():
            if key not in shown or shown[key] != state:
                shown[key] = state
                yield f"{now} {line}"


def _one_told(spool: Spool, name: str) -> dict[str, tuple[object, str]]:
    found = _job(spool, name)
    if isinstance(found, str):
        return {name: (found, f"{name}: in new/, waits for {found}")}
    return {name: _told(found)}


def _all_told(spool: Spool) -> dict[str, tuple[object, str]]:
    """By a key for each thing: what counts as a change of it, and the line that tells it."""
    agent = _view(spool, failures=0)
    told: dict[str, tuple[object, str]] = {job.job: _told(job) for job in reversed(agent.jobs)}
    for upload in agent.uploads:
        told[f"new/{upload.upload}"] = (upload.waits_for, f"new/{upload.upload}: waits for {upload.waits_for}")
    for relay in agent.relays:
        told[f"relay {relay.relay}"] = (relay.up, f"relay {relay.relay}: {'up' if relay.up else relay.error}")
    told[""] = (agent.running, f"agent: {agent.agent.state}")
    return told


def _told(job: Job) -> tuple[object, str]:
    """What counts as a change of a job, and the line that tells it."""
    percent = None if job.progress is None else int(100 * job.progress)
    line = f"{job.job}: {job.state}" + (f" ({job.reason})" if job.reason else "")
    if job.total and job.counts:
        counts = ", ".join(f"{count} {state}" for state, count in job.counts.items() if count)
        line += f", {share(job.progress)} of {job.total}: {counts}"
    if job.speed:
        line += f", {speed(job.speed)}"
    if job.live and job.eta is not None:
        line += f", through in {format_duration(job.eta.timestamp() - time.time())}"
    return (job.state, job.reason, percent), line
