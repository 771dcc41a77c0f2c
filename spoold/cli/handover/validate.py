"""`spoold validate`: a job folder looked through before it is handed over."""

import argparse
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from spoold.agent.configuration import Configuration
from spoold.cli import config
from spoold.cli.handover.folder import entries_of, hash_all, open_folder, read_job, sealable
from spoold.cli.handover.progress import Unit, progress
from spoold.core.completeness import IntakePolicy
from spoold.core.folder import MANIFEST, SEAL
from spoold.core.manifest import Manifest
from spoold.core.message.wire import MessageFacts
from spoold.core.problem import printable
from spoold.core.schedule.retry import DEFAULT
from spoold.core.schedule.window import Windows
from spoold.core.seal import parse_seal
from spoold.core.terms import Defaults, timing_errors
from spoold.intake.examination import Examination
from spoold.storage.entry import Entry
from spoold.storage.files import Files
from spoold.storage.link import LinkedFiles
from spoold.storage.record import NewRecipient
from spoold.storage.spooldir import valid_name

_SEAL_LIMIT = 256 * 1024 * 1024


class _NoSink:
    """Keeps nothing: only the problems are wanted."""

    def __init__(self) -> None:
        self._messages = 0
        self.seen: set[int] = set()
        self.repeated = 0

    def add_message(self, path: str, facts: MessageFacts | None) -> int:
        self._messages += 1
        return self._messages

    def add_recipients(self, recipients: list[NewRecipient]) -> None:
        for recipient in recipients:
            key = hash((recipient.address, recipient.message))
            self.repeated += key in self.seen
            self.seen.add(key)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What intake would say of a folder: `problems` reject it, `failures` are recipients that would fail alone."""

    problems: tuple[str, ...]
    failures: tuple[str, ...]
    summary: str


def run(options: argparse.Namespace) -> int:
    """Every problem on standard error, a summary on standard output; 1 if there was a problem."""
    found = inspect(options, options.jobdir, Path(options.jobdir).resolve().name)
    for problem in (*found.problems, *found.failures):
        print(problem, file=sys.stderr)
    if found.problems:
        print(f"{options.jobdir}: would not be sent")
    elif found.failures:
        print(f"{options.jobdir}: would be sent but for the recipients above: {found.summary}")
    else:
        print(f"{options.jobdir}: good: {found.summary}")
    return int(bool(found.problems or found.failures))


def inspect(options: argparse.Namespace, folder: str, name: str) -> Inspection:
    """Look through a job folder that is to become the job `name`; notes go to standard output. Raises UsageError."""
    files = LinkedFiles()
    problems: list[str] = []
    with files.closing(open_folder(files, folder)) as root:
        if not valid_name(name):
            problems.append(
                f"the folder's name '{printable(name)}' cannot be a job's: expected letters, digits and . _ @ + -, at most 100"
            )
        agent = _agent(options)
        entries = entries_of(files, root)
        manifest = read_job(files, root, entries, problems)
        summary = ""
        failures: list[str] = []
        if manifest is not None:
            problems += timing_errors(manifest.timing, agent.defaults, time.time())
            summary, failures = _examine(files, root, entries, manifest, agent.intake, problems)
        problems += _check_seal(files, root, entries)
    return Inspection(tuple(problems), tuple(failures), summary)


def _examine(
    files: Files,
    root: int,
    entries: dict[str, Entry],
    manifest: Manifest,
    policy: IntakePolicy,
    problems: list[str],
) -> tuple[str, list[str]]:
    """(a summary, the recipients that would fail alone, a line each); `problems` gets what rejects the job."""
    sink = _NoSink()
    now = datetime.fromtimestamp(time.time(), UTC)
    examination = Examination(files, root, entries, manifest, policy, sink, date=now, token="validate")  # noqa: S106
    with progress("Recipients", Unit.RECIPIENTS) as told:
        findings = examination.run(lambda done: told(done, manifest.expect.recipients))
    problems.extend(findings.errors)
    failures: list[str] = []
    if not manifest.strict:
        failures = list(findings.failures)
        if findings.failed > len(failures):
            failures.append(f"… and {findings.failed - len(failures)} more bad recipients")
    for word, wanted, found in (
        ("recipients", manifest.expect.recipients, findings.recipients),
        ("messages", manifest.expect.messages, findings.messages),
    ):
        if wanted is not None and wanted != found and not findings.errors:
            problems.append(f"{MANIFEST}: expect: {wanted} {word}; there are {found}")
    for warning in findings.warnings:
        print(f"note: {warning}")
    if sink.repeated:
        print(f"note: {sink.repeated} recipient(s) stand twice with the same message and would be sent it once")
    return f"{findings.recipients} recipient(s), {findings.messages} message(s)", failures


def _agent(options: argparse.Namespace) -> Configuration:
    """This machine's agent's limits, if it has one; a folder can be looked through without."""
    try:
        return config.read(config.find(options.config)).agent
    except config.ConfigError:
        if options.config is not None:
            raise
        defaults = Defaults(ZoneInfo("UTC"), DEFAULT, Windows.always())
        return Configuration({}, defaults, IntakePolicy(), keep_done=None)


def _check_seal(files: Files, root: int, entries: dict[str, Entry]) -> list[str]:
    if SEAL not in entries:
        return []
    seal = parse_seal(files.read_small(root, (SEAL,), _SEAL_LIMIT).decode(errors="surrogateescape"))
    if seal.problem is not None:
        return [f"{SEAL}: not valid: needs {seal.problem}"]
    problems = []
    with progress("Seal", Unit.BYTES) as told:
        hashes = hash_all(files, root, {name: entries[name] for name in seal.hashes if name in entries}, told)
    for name, expected in sorted(seal.hashes.items()):
        if name not in hashes:
            problems.append(f"{SEAL}: lists {printable(name)}, which is missing")
        elif hashes[name] != expected:
            problems.append(f"{SEAL}: {printable(name)} was changed since it was sealed; seal it again")
    problems += [
        f"{SEAL}: {printable(name)} is not in it; seal the folder again"
        for name in sorted(sealable(entries).keys() - seal.hashes.keys())
    ]
    return problems
