"""From a taken upload to an accepted job: examined, put into the database, and accepted or rejected in one commit.

Most jobs are small: they are kept until a whole batch of them goes into the database in that one commit. One with more
recipients than a chunk has goes in chunk by chunk before, invisible until it is accepted; a really large one is
examined in a process of its own.
"""

import contextlib
import functools
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from spoold.core.completeness import Rule
from spoold.core.document.reader import READ_BYTES, DocumentError
from spoold.core.folder import HOLD, MANIFEST
from spoold.core.manifest import Manifest
from spoold.core.problem import printable
from spoold.core.state import JobState, Standing
from spoold.core.terms import manifest_errors, terms_of
from spoold.intake.content import Content
from spoold.intake.custody import ChangedError, Taken
from spoold.intake.examination import Examination, Findings
from spoold.intake.inbox import LARGE_READING
from spoold.intake.settings import Settings
from spoold.intake.time_limit import TimeLimit
from spoold.intake.upload import Seen
from spoold.intake.worker import examine_apart
from spoold.storage.admission import Admission, Candidate, TwinError
from spoold.storage.entry import Entry
from spoold.storage.manifest import Manifests, compact_of, read_manifest
from spoold.storage.record import Admitted
from spoold.storage.spooldir import Spool, clean_name, valid_name

#: From this many files, or from a list of this many bytes on, a job is looked through by itself, after the small ones …
_LARGE_FILES = 200
_LARGE_LIST = 64 * 1024
#: … and from these on in a process of its own, whose start takes the time of some ten thousand recipients.
_HUGE_FILES = 2000
_HUGE_LIST = 1024 * 1024


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

    def __init__(
        self,
        spool: Spool,
        admission: Admission,
        manifests: Manifests | None = None,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._manifests = manifests or Manifests()
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
        content = Content(self._admission, name, taken.hashes, self._clock())
        with self._whole(content):
            now = content.due_at
            raw = b""
            if MANIFEST in taken.hashes:
                raw = self._spool.files.read_small(root, (MANIFEST,), READ_BYTES)
            cancelled = rule is Rule.CANCELLED
            upload = name if valid_name(name) else clean_name(name)
            if upload != name:
                errors.append(
                    f"the folder's name '{printable(name)}' cannot be a job's: expected letters, digits and . _ @ + -,"
                    " at most 100, not beginning with . or -"
                )
            manifest: Manifest | None = None
            # Of one that is cancelled it only says what the report is headed with.
            if MANIFEST in taken.hashes and not (cancelled and not self._manifests.knows(raw, settings.defaults.zone)):
                try:
                    manifest = self._manifests.parse(raw, settings.defaults.zone)
                except DocumentError as error:
                    errors.extend(str(problem) for problem in error.problems)
            elif not cancelled and not errors:
                _, problem, _ = read_manifest(self._spool.files, root, seen.entries, self._parse(settings))
                errors.append(problem or f"{MANIFEST} is missing")
            findings = Findings()
            if manifest is not None and not errors:
                errors.extend(manifest_errors(manifest, settings.defaults, settings.relays, now))
            if manifest is not None and not errors and not cancelled:
                for path in taken.unread:
                    if seen.entries[path].size <= settings.policy.max_message:
                        # The limit was raised meanwhile, by a reload.
                        raise ChangedError(f"{printable(path)} was too large to be read, and no longer is")
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

    def _parse(self, settings: Settings) -> Callable[[bytes], Manifest]:
        return functools.partial(self._manifests.parse, zone=settings.defaults.zone)

    @contextlib.contextmanager
    def _whole(self, content: Content) -> Iterator[None]:
        """Whatever is raised, nothing of the job stays in the database."""
        try:
            yield
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

    def _twin(self, taken: Taken) -> str | None:
        return next(filter(None, map(self._admission.twin, (taken.digest, *taken.earlier))), None)

    def _examine(
        self, content: Content, root: int, seen: Seen, manifest: Manifest, settings: Settings, time_limit: TimeLimit
    ) -> Findings:
        now = content.due_at
        terms = terms_of(manifest.timing, settings.defaults, now)
        # A message is dated when it may first be sent.
        date = datetime.fromtimestamp(max(now, terms.send_after or now), terms.zone)
        token = secrets.token_hex(10)
        entries, policy = seen.entries, settings.policy
        if _exceeds(entries, _HUGE_FILES, _HUGE_LIST):
            findings = examine_apart(
                root, entries, manifest, policy, content, time_limit, absent=seen.left, date=date, token=token
            )
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
