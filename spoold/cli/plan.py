"""`spoold plan`: when a job would start, pause and end under its windows and rates, sent already or not."""

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any

import orjson
from rich import box
from rich.console import Console
from rich.table import Table

from spoold.cli.command import UsageError, configuration, open_spool
from spoold.cli.config import Config
from spoold.cli.handover.folder import entries_of, open_folder, read_job
from spoold.core.manifest import Manifest, parse_manifest
from spoold.core.message.wire import MessageFacts
from spoold.core.moment import for_people, rfc3339
from spoold.core.schedule.forecast import Forecast, Load, forecast
from spoold.core.schedule.planner import JobSnapshot
from spoold.core.schedule.rate import advance, permit_at
from spoold.core.state import RecipientState
from spoold.core.terms import Terms, manifest_errors, terms_of
from spoold.delivery.limiter import Limiter, speed
from spoold.delivery.route import gone
from spoold.intake.examination import Examination
from spoold.storage.files import Files
from spoold.storage.record import NewRecipient
from spoold.storage.spooldir import Spool, valid_name

#: How long one transaction is taken to last where neither a rate nor a measurement says more, seconds.
_ASSUMED = 0.25
_SHOWN = 20
_LIMIT = 64 * 1024 * 1024
_REASONS = {"window": "outside the windows", "scheduled": "before send_after", "retry": "waits for a retry",
            "relay": "the relay cannot be used", "disk": "the disk is nearly full", "held": "HOLD",
            "uncertain": "only uncertain recipients are left"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Subject:
    """The job that is asked about: what is to be sent of it, and from which state."""

    name: str
    manifest: Manifest
    terms: Terms
    unsent: Mapping[str, int]
    recipients: int
    held: bool = False
    next_due: float | None = None
    transactions: int = 1
    last_at: float | None = None
    """When the last one went, None where none did."""


def run(options: argparse.Namespace) -> int:
    """A table for people, `--json` for programs; 1 if the job would never be sent."""
    found = configuration(options)
    now = time.time()
    name = options.job.rstrip("/").rpartition("/")[2]
    spool = open_spool(found.spool)
    folder = spool.find(name, ("active", "deferred", "done")) if valid_name(name) else None
    if folder is not None and ("/" in options.job or folder == "done") and _is_elsewhere(options.job, spool, folder):
        folder = None
    if folder == "done":
        print(f"spoold: {name}: is done already", file=sys.stderr)
        return 1
    subject = _of_job(spool, folder, name, found) if folder is not None else _of_folder(options.job, spool, found, now)
    if subject is None:
        return 1
    limiter = Limiter(found.agent.limits, {})
    shared = speed(limiter.of_relay(subject.manifest.relay))
    rate = subject.terms.rate
    assumed = math.isinf(shared) and rate is None
    relay = found.agent.relays.get(subject.manifest.relay)
    if math.isinf(shared) and relay is not None:
        each = subject.recipients / max(subject.transactions, 1)
        shared = relay.connections * min(each, relay.recipients_per_message) / _ASSUMED
    load = Load(
        recipients=float(subject.recipients),
        speed=rate.speed if rate else math.inf,
        shared_speed=shared,
        others=_others(spool, name),
        lanes=limiter.lanes(0, subject.terms.domain_rates, subject.unsent, now),
        permit_at=permit_at(advance(None, rate, subject.last_at), rate, now) if rate and subject.last_at else now,
    )
    snapshot = JobSnapshot(
        unfinished=subject.recipients,
        open=0,
        ready=subject.next_due is None or subject.next_due <= now,
        next_due=subject.next_due or now,
        held=subject.held,
        send_after=subject.terms.send_after,
        expires_at=subject.terms.expires_at,
        schedule=subject.terms.schedule,
        relay_up=relay is not None,
    )
    course = forecast(snapshot, load, now)
    if options.json:
        _print_json(subject, course, subject.terms.zone, assumed=assumed)
    else:
        _print(subject, course, subject.terms.zone, assumed=assumed)
    if relay is None:
        print(f"spoold: {subject.name}: {gone(subject.manifest.relay)}", file=sys.stderr)
    return 0


def _is_elsewhere(path: str, spool: Spool, folder: str) -> bool:
    """Whether `path` is a folder of its own, not the job of that name in the spool's `folder`."""
    return Path(path).is_dir() and Path(path).resolve().parent != (spool.path / folder).resolve()


def _of_job(spool: Spool, folder: str, name: str, found: Config) -> _Subject | None:
    """A job in the spool, by its report."""
    files = spool.files
    try:
        with spool.job(folder, name) as root:
            status: dict[str, Any] = orjson.loads(files.read_small(root, ("report", "status.json"), _LIMIT))
            statistics: dict[str, Any] = orjson.loads(files.read_small(root, ("report", "statistics.json"), _LIMIT))
            manifest = parse_manifest(files.read_small(root, ("job.yaml",), 65537), zone=found.agent.defaults.zone)
    except (OSError, orjson.JSONDecodeError) as error:
        print(f"spoold: {name}: its report cannot be read: {error}", file=sys.stderr)
        return None
    accepted_at = datetime.fromisoformat(status["accepted_at"]).timestamp()
    last_at = statistics["attempts"]["last_at"]
    next_at = status["next_at"] and datetime.fromisoformat(status["next_at"]).timestamp()
    final = {state.label for state in RecipientState if state.final}
    unsent = {
        domain["domain"]: sum(count for state, count in domain.items() if state not in {*final, "domain", "total"})
        for domain in statistics["domains"]
    }
    recipients = sum(count for state, count in status["counts"].items() if state not in final)
    return _Subject(
        name,
        manifest,
        terms_of(manifest.timing, found.agent.defaults, accepted_at),
        unsent,
        recipients,
        held=status["state"] == "held",
        next_due=next_at if status["reason"] == "retry" else None,
        last_at=last_at and datetime.fromisoformat(last_at).timestamp(),
    )


class _CountingSink:
    """Counts recipients by domain."""

    def __init__(self) -> None:
        self.messages = 0
        self.domains: Counter[str] = Counter()

    def add_message(self, path: str, facts: MessageFacts | None) -> int:
        self.messages += 1
        return self.messages

    def add_recipients(self, recipients: list[NewRecipient]) -> None:
        self.domains.update(recipient.domain for recipient in recipients if recipient.failure is None)


def _of_folder(path: str, spool: Spool, found: Config, now: float) -> _Subject | None:
    """A folder that has not been sent yet, here or in new/."""
    name = path.rstrip("/").rpartition("/")[2]
    if not Path(path).is_dir() and valid_name(name) and spool.find(name, ("new",)):
        path = str(spool.path / "new" / name)
    if not Path(path).is_dir():
        raise UsageError(f"{path}: neither a job in this spool nor a folder")
    files = Files()
    root = open_folder(files, path)
    entries = entries_of(files, root)
    problems: list[str] = []
    manifest = read_job(files, root, entries, problems)
    sink = _CountingSink()
    if manifest is not None:
        problems += manifest_errors(manifest, found.agent.defaults, found.agent.relays, now)
        examination = Examination(
            files, root, entries, manifest, found.agent.intake, sink, date=datetime.fromtimestamp(now, UTC), token="plan",  # noqa: S106
        )  # fmt: skip
        problems += examination.run().errors
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems or manifest is None:
        return None
    terms = terms_of(manifest.timing, found.agent.defaults, now)
    return _Subject(
        name, manifest, terms, sink.domains, sink.domains.total(), "HOLD" in entries, transactions=sink.messages
    )


def _others(spool: Spool, name: str) -> tuple[float, ...]:
    """What the jobs that are being sent now have left."""
    try:
        state: dict[str, Any] = orjson.loads(spool.files.read_small(spool.root, ("status.json",), _LIMIT))
    except (OSError, orjson.JSONDecodeError):
        return ()
    return tuple(
        float(sum(job["counts"].get(state, 0) for state in ("queued", "sending", "deferred", "uncertain")))
        for job in state["jobs"]
        if job["state"] == "sending" and job["job"] != name
    )


def _print_json(subject: _Subject, course: Forecast, zone: tzinfo, *, assumed: bool) -> None:
    document = {
        "job": subject.name,
        "recipients": subject.recipients,
        "start": rfc3339(course.start, zone),
        "end": rfc3339(course.end, zone),
        "unsent": course.unsent,
        "speed_assumed": assumed,
        "pauses": [
            {"begin": rfc3339(pause.begin, zone), "end": rfc3339(pause.end, zone), "reason": pause.reason}
            for pause in course.pauses
        ],
    }
    sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _print(subject: _Subject, course: Forecast, zone: tzinfo, *, assumed: bool) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(f"{subject.name}: {subject.recipients} recipient(s) to send", markup=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "From", "Until", ""):
        table.add_column(column, no_wrap=bool(column))
    if course.start is None and not course.pauses:
        table.add_row("Start", "never", "", "")
    rows = [
        (pause.begin, "Pause" if course.start and pause.begin >= course.start else "Wait", pause)
        for pause in course.pauses
    ]
    started = False
    for begin, word, pause in rows[:_SHOWN]:
        if course.start is not None and not started and begin >= course.start:
            table.add_row("Start", for_people(course.start, zone), "", "")
            started = True
        reason = _REASONS.get(pause.reason, pause.reason)
        table.add_row(word, for_people(begin, zone), for_people(pause.end, zone), reason)
    if len(rows) > _SHOWN:
        table.add_row("…", "", "", f"and {len(rows) - _SHOWN} more pauses")
    if course.start is not None and not started:
        table.add_row("Start", for_people(course.start, zone), "", "")
    end = f"{course.unsent} expire unsent" if course.unsent else "" if course.end else "not by itself"
    table.add_row("End", for_people(course.end, zone), "", end)
    console.print(table)
    if assumed and course.start is not None:
        console.print("No rate is set and nothing was measured: the end assumes a quarter of a second a message.")
