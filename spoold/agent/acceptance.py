"""From a taken upload to an accepted job: examined, put into the database, and accepted or rejected in one commit."""

import secrets
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from spoold.agent.examination import Examination, Findings
from spoold.agent.inbox import Seen, read_manifest
from spoold.agent.taking import ChangedError, Taken
from spoold.agent.terms import Defaults, compact_of, manifest_errors, terms_of
from spoold.core.completeness import HOLD, MANIFEST, IntakePolicy, Rule
from spoold.core.document import DocumentError
from spoold.core.manifest import Manifest, parse_manifest
from spoold.core.message import MessageFacts
from spoold.core.problem import printable
from spoold.core.state import JobState, Standing
from spoold.storage.admission import Admission, TwinError
from spoold.storage.record import Admitted, NewRecipient, id_in_job
from spoold.storage.spooldir import FOLDERS, Spool, clean_name, valid_name

_MANIFEST_LIMIT = 64 * 1024 + 1
#: Recipients a second that are taken at most while other jobs are being sent: a million in less than half a minute.
_PACE = 50_000


@dataclass(frozen=True, slots=True)
class Settings:
    """What the configuration says that intake needs; replaced as a whole when it is read again."""

    policy: IntakePolicy
    defaults: Defaults
    relays: Collection[str]


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


class Acceptance:
    """See the module. For intake's threads; `clock` gives POSIX seconds."""

    def __init__(self, spool: Spool, admission: Admission, *, clock: Callable[[], float]) -> None:
        self._spool = spool
        self._admission = admission
        self._clock = clock

    def admit(
        self, name: str, root: int, seen: Seen, taken: Taken, rule: Rule, errors: list[str], settings: Settings
    ) -> Accepted:
        """From the taken folder `root` to an accepted job, which may be a rejected one.

        `errors` is what is known to be wrong already. Whatever is raised, nothing of the job stays in the database.
        """
        job_id = self._admission.begin(name, b"", self._clock())
        try:
            return self._admit(job_id, name, root, seen, taken, rule, errors, settings)
        except (OSError, ChangedError):
            self._admission.discard(job_id)
            raise

    def _admit(
        self,
        job_id: int,
        name: str,
        root: int,
        seen: Seen,
        taken: Taken,
        rule: Rule,
        errors: list[str],
        settings: Settings,
    ) -> Accepted:
        now = self._clock()
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
        elif not cancelled:
            errors.append(read_manifest(self._spool.files, root, seen.entries)[1] or f"{MANIFEST} is missing")
        findings = Findings()
        if manifest is not None and not errors:
            errors.extend(manifest_errors(manifest, settings.defaults, settings.relays, now))
        if manifest is not None and not errors and not cancelled:
            twin = None if manifest.allow_duplicate else self._admission.twin(taken.digest)
            if twin is not None:
                errors.append(f"duplicate of {twin}")
            else:
                findings = self._examine(job_id, root, seen, taken.hashes, manifest, now, settings)
                errors.extend(findings.errors)
                if taken.unread is not None and not errors:
                    # The limit was raised meanwhile, by a reload.
                    raise ChangedError(f"{printable(taken.unread)} was too large to be read, and no longer is")
        admitted = self._judge(
            upload, raw, seen, taken, manifest, findings, errors, settings, cancelled=cancelled, now=now
        )
        job = None
        if admitted.standing.state is not JobState.REJECTED:
            unique = manifest is not None and not manifest.allow_duplicate and not cancelled
            try:
                job = self._admission.accept(job_id, admitted, self._is_free, unique=unique)
            except TwinError as twin:  # taken at the same time
                admitted = _reject(admitted, f"duplicate of {twin}")
        if job is None:
            # Nothing of a rejected job is ever sent: what was put into the database of it goes again.
            self._admission.empty(job_id)
            job = self._admission.accept(job_id, admitted, self._is_free)
        return Accepted(job_id, job, admitted, findings.recipients, findings.failed)

    def _examine(
        self,
        job_id: int,
        root: int,
        seen: Seen,
        hashes: Mapping[str, bytes],
        manifest: Manifest,
        now: float,
        settings: Settings,
    ) -> Findings:
        terms = terms_of(manifest.timing, settings.defaults, now)
        sink = _DatabaseSink(self._admission, job_id, hashes, now)
        examination = Examination(
            self._spool.files, root, seen.entries, manifest, settings.policy, sink,
            # A message is dated when it may first be sent.
            date=datetime.fromtimestamp(max(now, terms.send_after or now), terms.zone),
            token=secrets.token_hex(10),
        )  # fmt: skip
        findings = examination.run()
        if not findings.errors:
            count, lines = self._admission.drop_duplicates(job_id)
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

    def _is_free(self, name: str) -> bool:
        return self._spool.find(name, FOLDERS[1:]) is None


def _reject(admitted: Admitted, error: str) -> Admitted:
    return replace(admitted, standing=Standing(JobState.REJECTED, error), warnings=(), errors=(error,))


class _DatabaseSink:
    """An examination's sink that writes to the database, messages always before the recipients that get them."""

    def __init__(self, admission: Admission, job_id: int, hashes: Mapping[str, bytes], due_at: float) -> None:
        self._admission = admission
        self._job_id = job_id
        self._hashes = hashes
        self._due_at = due_at
        self._recipients = 0
        self._messages = 0
        self._pending: list[tuple[int, str, bytes | None, MessageFacts | None]] = []
        self._begun = time.monotonic()
        self._commits = admission.commits

    def add_message(self, path: str, facts: MessageFacts | None) -> int:
        self._messages += 1
        message_id = id_in_job(self._job_id, self._messages)
        self._pending.append((message_id, path, self._hashes.get(path), facts))
        return message_id

    def add_recipients(self, recipients: list[NewRecipient]) -> None:
        self._admission.add(self._job_id, self._pending, self._recipients + 1, recipients, self._due_at)
        self._recipients += len(recipients)
        self._pending = []
        self._give_way(len(recipients))

    def _give_way(self, added: int) -> None:
        """Leave the machine to the others, if there are any that commit something."""
        alone = self._admission.commits == self._commits + 1
        rest = self._begun + added / _PACE - time.monotonic()
        if rest > 0 and not alone:
            time.sleep(rest)
        self._begun, self._commits = time.monotonic(), self._admission.commits
