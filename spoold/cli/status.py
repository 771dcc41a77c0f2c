"""`spoold status`: the agent and its jobs, from the files that the agent writes."""

import argparse
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from rich import box
from rich.console import Console
from rich.table import Table

from spoold.cli.command import UsageError, configuration, open_spool
from spoold.core.problem import printable
from spoold.core.quantity import format_duration
from spoold.storage.spooldir import Spool, valid_name

_LIMIT = 64 * 1024 * 1024
#: A longer reason is cut in the table; `spoold status JOB` has all of it.
_REASON = 60


def run(options: argparse.Namespace) -> int:
    """Show it once, or again and again until Ctrl-C, which is no failure."""
    if options.watch and options.json:
        raise UsageError("--json prints one JSON document: expected it without --watch")
    spool = open_spool(configuration(options).spool)
    if not options.watch:
        return _show(spool, options)
    try:
        return _watch(spool, options)
    except KeyboardInterrupt:
        return 0


def _watch(spool: Spool, options: argparse.Namespace) -> int:
    console = Console(highlight=False)
    while True:
        if console.is_terminal:
            console.clear()
        code = _show(spool, options)
        sys.stdout.flush()
        if code:
            return code
        time.sleep(1)


def _show(spool: Spool, options: argparse.Namespace) -> int:
    if options.job is not None:
        return _show_job(spool, options.job.rstrip("/").rpartition("/")[2], as_json=options.json)
    state = _agent(spool)
    if options.json:
        sys.stdout.buffer.write(orjson.dumps(state, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        return 0
    _print_agent(state, spool.path)
    return 0


def _agent(spool: Spool) -> dict[str, Any]:
    """The agent's status.json, with `running` as it is now; what stands in the folders where there is none."""
    try:
        state: dict[str, Any] = orjson.loads(spool.files.read_small(spool.root, ("status.json",), _LIMIT))
    except (OSError, orjson.JSONDecodeError):
        state = {"agent": {"state": "stopped"}, "relays": [], "uploads": [], "jobs": [], "warnings": []}
        for folder in ("active", "deferred", "done"):
            for name in spool.jobs(folder):
                state["jobs"].append({"job": name, "folder": folder, "state": folder, "total": None, "counts": {}})
    state["running"] = spool.is_locked()
    if not state["running"]:
        state["agent"]["state"] = "stopped"
        # Nobody has looked at new/ since; say what is there.
        state["uploads"] = [
            {"upload": printable(name), "waits_for": "an agent: none runs on this spool", "since": None}
            for name in spool.jobs("new")
        ]
    return state


def _print_agent(state: dict[str, Any], path: Path) -> None:
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    agent = state["agent"]
    if state["running"]:
        console.print(
            f"spoold {agent.get('version')} {agent['state']}, pid {agent.get('pid')}, spool {path}", markup=False
        )
    else:
        console.print(f"No agent runs on {path}. What follows is as the last one left it.", markup=False)
    for warning in state["warnings"]:
        console.print(f"Warning: {warning}", markup=False)
    for relay in state["relays"]:
        if not relay["up"]:
            console.print(f"Relay {relay['relay']}: {relay['error']}", markup=False)
    if state["uploads"]:
        console.print("\nIn new/, not taken yet:")
        for upload in state["uploads"]:
            console.print(f"  {upload['upload']}: waits for {upload['waits_for']}", markup=False)
    if not state["jobs"]:
        console.print("\nNo jobs.")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Job", overflow="fold")
    table.add_column("State", overflow="fold")
    for name in ("Total", "Sent", "Failed", "Deferred", "To send"):
        table.add_column(name, justify="right")
    for job in state["jobs"]:
        counts = job["counts"]
        words = job["state"] + (f": {printable(job['reason'], _REASON)}" if job.get("reason") else "")
        if job.get("next_at"):
            words += f", next {_in(job['next_at'])}"
        table.add_row(
            *(
                _plain(value)
                for value in (
                    job["job"], words, job["total"], counts.get("sent"),
                    _sum(counts, "failed", "expired"), counts.get("deferred"),
                    _sum(counts, "queued", "sending", "uncertain"),
                )
            )
        )  # fmt: skip
    console.print(table)


def _sum(counts: dict[str, int], *states: str) -> int | None:
    return sum(counts.get(state, 0) for state in states) if counts else None


def _plain(value: object) -> str:
    return "-" if value is None else str(value).replace("[", "\\[")


def _in(moment: str) -> str:
    seconds = datetime.fromisoformat(moment).timestamp() - time.time()
    return f"in {format_duration(seconds)}" if seconds > 0 else "now"


def _show_job(spool: Spool, name: str, *, as_json: bool) -> int:
    folder = spool.find(name) if valid_name(name) else None
    if folder is None:
        print(f"spoold: {name}: no such job in this spool", file=sys.stderr)
        return 1
    if folder == "new":
        upload = next((item for item in _agent(spool)["uploads"] if item["upload"] == name), None)
        waits = upload["waits_for"] if upload else "the agent's next look"
        if as_json:
            print(orjson.dumps({"job": name, "state": "uploading", "waits_for": waits}).decode())
        else:
            print(f"{name}: in new/, not taken yet; it waits for {waits}")
        return 0
    path = ("report", "status.json" if as_json else "status.txt")
    try:
        with spool.job(folder, name) as root:
            text = spool.files.read_small(root, path, _LIMIT)
    except OSError as error:
        print(f"spoold: {name}: its report cannot be read: {error.strerror}", file=sys.stderr)
        return 1
    sys.stdout.buffer.write(text)
    return 0
