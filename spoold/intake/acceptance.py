"""From a taken upload to an accepted job: examined, put into the database, and accepted or rejected in one commit.

Most jobs are small: they are kept until a whole batch of them goes into the database in that one commit. One with more
recipients than a chunk has goes in chunk by chunk before, invisible until it is accepted; a really large one is
examined in a process of its own.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from spoold.core.completeness import HOLD, MANIFEST, Rule
from spoold.core.document.reader import DocumentError
from spoold.core.manifest import Manifest, parse_manifest
from spoold.core.message.wire import MessageFacts
from spoold.core.problem import printable
from spoold.core.state import JobState, Standing
from spoold.core.terms import manifest_errors, terms_of
from spoold.intake.custody import ChangedError, Taken
from spoold.intake.examination import Examination, Findings
from spoold.intake.inbox import LARGE_READING, Seen, read_manifest
from spoold.intake.settings import Settings
from spoold.intake.time_limit import TimeLimit
from spoold.intake.worker import examine_apart
from spoold.storage.admission import Admission, Candidate, TwinError, rows_of
from spoold.storage.files import Entry
from spoold.storage.manifest import compact_of
from spoold.storage.record import Admitted, NewMessage, NewRecipient
from spoold.storage.spooldir import Spool, clean_name, valid_name

_MANIFEST_LIMIT = 64 * 1024 + 1
#: Recipients a second that are taken at most while other jobs are being sent: a million in less than half a minute.
_PACE = 50_000
#: From this many files, or from a list of this many bytes on, a job is looked through by itself, after the small ones …
_LARGE_FILES = 200
_LARGE_LIST = 64 * 1024
#: … and from these on in a process of its own, whose start takes the time of some ten thousand recipients.
_HUGE_FILES = 2000
_HUGE_LIST = 1024 * 1024
_LISTED = 20


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job that only has to be accepted; `job_id` is there where its recipients are in the database already."""

    candidate: Candidate
    recipients: int
    failed: int
    job_id: int | None


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job that the agent answers for from now on; `name` is the one that it got."""

    job_id: int
    name: str
    admitted: Admitted
    recipients: int
    failed: int
    """Recipients that nothing is sent to: of these the report tells before the first message leaves."""

    @property
    def state(self) -> JobState:
        return self.admitted.standing.state


def is_large(entries: Mapping[str, Entry]) -> bool:
    """Whether an upload of these files may take so long that others should not wait for it."""
    return _exceeds(entries, _LARGE_FILES, _LARGE_LIST) or sum(entry.size for entry in entries.values()) > LARGE_READING


def _exceeds(entries: Mapping[str, Entry], files: int, size: int) -> bool:
    return len(entries) > files or any(
        entry.size > size and name.lower().endswith((".csv", ".txt")) for name, entry in entries.items()
    )


class Acceptance:
    """See the module. For intake's threads; `clock` gives POSIX seconds."""

    def __init__(self, spool: Spool, admission: Admission, *, clock: Callable[[], float]) -> None:
        self._spool = spool
        self._admission = admission
        self._clock = clock

    def prepare(
        self,
        name: str,
        root: int,
        seen: Seen,
        taken: Taken,
        rule: Rule,
        errors: list[str],
        settings: Settings,
        time_limit: TimeLimit,
    ) -> Prepared:
        """Examine the taken folder `root`. `errors` is what is known to be wrong already.

        Whatever is raised, nothing of the job stays in the database.
        """
        content = _Content(self._admission, name, taken.hashes, self._clock())
        try:
            return self._prepare(content, name, root, seen, taken, rule, errors, settings, time_limit)
        except Exception:
            self.discard(content.job_id)
            raise

    def discard(self, job_id: int | None) -> None:
        """Forget a job that is not to be accepted after all."""
        if job_id is not None:
            self._admission.discard(job_id)

    def accept(self, jobs: Sequence[Prepared]) -> list[Accepted]:
        """Accept all of these, all the small ones in one commit, or reject what was accepted before."""
        small = [job.candidate for job in jobs if job.job_id is None]
        results = iter(self._admission.accept_all(small) if small else [])
        return [self._accept_large(job, job.job_id) if job.job_id else self._told(job, next(results)) for job in jobs]

    def _accept_large(self, job: Prepared, job_id: int) -> Accepted:
        candidate = job.candidate
        admitted = candidate.admitted
        try:
            name = self._admission.accept(job_id, admitted, unique=candidate.unique)
        except TwinError as twin:  # taken at the same time
            admitted = _rejected(admitted, twin)
            self._admission.empty(job_id)
            name = self._admission.accept(job_id, admitted)
        return Accepted(job_id, name, admitted, job.recipients, job.failed)

    def _told(self, job: Prepared, result: tuple[int, str] | TwinError) -> Accepted:
        if isinstance(result, TwinError):
            admitted = _rejected(job.candidate.admitted, result)
            rejected = replace(job.candidate, admitted=admitted, unique=False, messages=(), recipients=())
            return self.accept([replace(job, candidate=rejected)])[0]
        return Accepted(*result, job.candidate.admitted, job.recipients, job.failed)

    def _prepare(
        self,
        content: "_Content",
        name: str,
        root: int,
        seen: Seen,
        taken: Taken,
        rule: Rule,
        errors: list[str],
        settings: Settings,
        time_limit: TimeLimit,
    ) -> Prepared:
        now = content.due_at
        raw = b""
        if MANIFEST in taken.hashes:
            raw = self._spool.files.read_small(root, (MANIFEST,), _MANIFEST_LIMIT)
        cancelled = rule is Rule.CANCELLED
        upload = name if valid_name(name) else clean_name(name)
        if upload != name:
            errors.append(
                f"the folder's name '{printable(name)}' cannot be a job's: expected letters, digits and . _ @ + -,"
                " at most 100, not beginning with . or -"
            )
        manifest: Manifest | None = None
        if MANIFEST in taken.hashes:
            try:
                manifest = parse_manifest(raw, zone=settings.defaults.zone)
            except DocumentError as error:
                errors.extend(str(problem) for problem in error.problems)
        elif not cancelled and not errors:
            _, problem, _ = read_manifest(self._spool.files, root, seen.entries, settings.defaults.zone)
            errors.append(problem or f"{MANIFEST} is missing")
        findings = Findings()
        if manifest is not None and not errors:
            errors.extend(manifest_errors(manifest, settings.defaults, settings.relays, now))
        if manifest is not None and not errors and not cancelled:
            for name in taken.unread:
                if seen.entries[name].size <= settings.policy.max_message:
                    # The limit was raised meanwhile, by a reload.
                    raise ChangedError(f"{printable(name)} was too large to be read, and no longer is")
            twin = None if manifest.allow_duplicate else self._twin(taken)
            if twin is not None:
                errors.append(f"duplicate of {twin}")
            else:
                findings = self._examine(content, root, seen, manifest, settings, time_limit)
                errors.extend(findings.errors)
        admitted = self._judge(
            upload, raw, seen, taken, manifest, findings, errors, settings, cancelled=cancelled, now=now
        )
        rejected = admitted.standing.state is JobState.REJECTED
        if rejected:
            # Nothing of a rejected job is ever sent: what was put into the database of it goes again.
            content.drop()
        unique = manifest is not None and not manifest.allow_duplicate and not cancelled and not rejected
        candidate = Candidate(admitted, now, now, unique, content.messages, content.recipients)
        return Prepared(candidate, findings.recipients, findings.failed, content.job_id)

    def _twin(self, taken: Taken) -> str | None:
        return next(filter(None, map(self._admission.twin, (taken.digest, *taken.earlier))), None)

    def _examine(
        self, content: "_Content", root: int, seen: Seen, manifest: Manifest, settings: Settings, time_limit: TimeLimit
    ) -> Findings:
        now = content.due_at
        terms = terms_of(manifest.timing, settings.defaults, now)
        # A message is dated when it may first be sent.
        date = datetime.fromtimestamp(max(now, terms.send_after or now), terms.zone)
        token = secrets.token_hex(10)
        entries, policy = seen.entries, settings.policy
        if _exceeds(entries, _HUGE_FILES, _HUGE_LIST):
            findings = examine_apart(root, entries, manifest, policy, content, time_limit, date=date, token=token)
        else:
            findings = Examination(
                self._spool.files, root, entries, manifest, policy, content, time_limit, date=date, token=token
            ).run()
        if not findings.errors:
            count, lines = content.drop_duplicates()
            if count:
                listed = ", ".join(map(str, lines)) + (" …" if count > len(lines) else "")
                findings.warnings.append(
                    f"{count} recipient(s) stand twice with the same message and are sent it once; the repeats are in line {listed}"
                )
            if findings.failed:
                findings.warnings.append(
                    f"{findings.failed} recipient(s) failed at once, such as {findings.failures[0]}"
                )
        return findings

    def _judge(
        self, upload: str, raw: bytes, seen: Seen, taken: Taken, manifest: Manifest | None, findings: Findings, errors: list[str],
        settings: Settings, *, cancelled: bool, now: float,
    ) -> Admitted:  # fmt: skip
        held = HOLD in seen.entries
        if cancelled:
            standing = Standing(JobState.CANCELLED, "cancelled before it was taken")
            errors = []
        elif errors:
            reason = errors[0] if len(errors) == 1 else f"{errors[0]} (and {len(errors) - 1} more errors)"
            standing = Standing(JobState.REJECTED, reason)
        elif held:
            standing = Standing(JobState.HELD)
        elif (
            manifest is not None and (after := terms_of(manifest.timing, settings.defaults, now).send_after or 0) > now
        ):
            standing = Standing(JobState.SCHEDULED, None, after)
        else:
            standing = Standing(JobState.SENDING)
        return Admitted(
            upload, raw, seen.folder, taken.digest, standing, tuple(findings.warnings), tuple(errors),
            held and not cancelled, cancelled,
            None if manifest is None else compact_of(manifest, raw, None, settings.defaults.zone),
        )  # fmt: skip


def _rejected(admitted: Admitted, twin: TwinError) -> Admitted:
    error = f"duplicate of {twin}"
    return replace(admitted, standing=Standing(JobState.REJECTED, error), warnings=(), errors=(error,))


class _Content:
    """What the examination finds in a job: one chunk of it is kept, more goes into the database, as job `job_id`."""

    def __init__(self, admission: Admission, upload: str, hashes: Mapping[str, bytes], due_at: float) -> None:
        self._admission = admission
        self._upload = upload
        self._hashes = hashes
        self.due_at = due_at
        self.job_id: int | None = None
        self.messages: list[NewMessage] = []
        """Those that are not in the database."""
        self.recipients: list[NewRecipient] = []
        """The same."""
        self._written = 0
        self._numbered = 0
        self._begun = time.monotonic()
        self._commits = admission.commits

    def add_message(self, path: str, facts: MessageFacts | None) -> int:
        self._numbered += 1
        self.messages.append(NewMessage(self._numbered, path, self._hashes.get(path), facts))
        return self._numbered

    def add_recipients(self, recipients: list[NewRecipient]) -> None:
        if self.job_id is None and not self.recipients:
            self.recipients = recipients
        else:
            self.add_rows(len(recipients), rows_of(recipients))

    def add_rows(self, count: int, rows: bytes) -> None:
        """The same of recipients that were written down already; these are never kept."""
        if self.job_id is None:
            self.job_id = self._admission.begin(self._upload, self.due_at)
        if self.recipients:
            kept, self.recipients = self.recipients, []
            self.add_rows(len(kept), rows_of(kept))
        self._admission.add(self.job_id, self.messages, self._written + 1, rows, self.due_at)
        self._written += count
        self.messages = []
        self._give_way(count)

    def _give_way(self, added: int) -> None:
        """Leave the machine to the others, if there are any that commit something."""
        now = time.monotonic()
        if self._admission.commits > self._commits + 1:
            time.sleep(max(self._begun + added / _PACE - now, 0.0))
        self._begun, self._commits = time.monotonic(), self._admission.commits

    def drop(self) -> None:
        """Nothing of this is to be sent."""
        self.messages, self.recipients = [], []
        if self.job_id is not None:
            self._admission.empty(self.job_id)

    def drop_duplicates(self) -> tuple[int, list[int]]:
        """Leave each address once for each message; gives how many were too many, and some of their lines."""
        if self.job_id is not None:
            return self._admission.drop_duplicates(self.job_id, _LISTED)
        seen: set[tuple[str, int | None]] = set()
        kept: list[NewRecipient] = []
        lines: list[int] = []
        for recipient in self.recipients:
            key = (recipient.address, recipient.message)
            if recipient.failure is None and key in seen:
                lines.append(recipient.line)
                continue
            if recipient.failure is None:
                seen.add(key)
            kept.append(recipient)
        self.recipients = kept
        return len(lines), lines[:_LISTED]
