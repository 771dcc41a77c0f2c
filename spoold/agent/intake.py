"""Takes complete uploads and makes jobs of them.

Each upload is looked at in a worker thread; one that is complete is claimed, taken, examined, put into the database,
accepted in one commit, and only then moved to where it belongs. Whatever goes wrong before that commit, the upload
goes back to new/.
"""

import contextlib
import os
import secrets
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime

from spoold.agent.event import log
from spoold.agent.examination import Examination, Findings
from spoold.agent.inbox import Inbox, Seen, Upload, read_manifest
from spoold.agent.projector import Projector
from spoold.agent.taking import ChangedError, Taken, claim, drop_claim, give_back, take
from spoold.agent.terms import Defaults, manifest_errors, terms_of
from spoold.core.completeness import HOLD, MANIFEST, IntakePolicy, Rule
from spoold.core.document import DocumentError
from spoold.core.manifest import Manifest, parse_manifest
from spoold.core.message import MessageFacts
from spoold.core.problem import printable
from spoold.core.state import JobState, Standing
from spoold.storage.admission import Admission, TwinError
from spoold.storage.database import DatabaseError
from spoold.storage.record import Admitted, NewRecipient, id_in_job
from spoold.storage.spooldir import CLAIM, FOLDERS, TAKE, TAKEN, Spool, clean_name, valid_name
from spoold.storage.store import Store

#: Seconds until an upload that could not be taken is looked at again.
_AFTER_ERROR = 30.0
_MANIFEST_LIMIT = 64 * 1024 + 1


@dataclass(frozen=True, slots=True)
class Settings:
    """What the configuration says that intake needs; replaced as a whole when it is read again."""

    policy: IntakePolicy
    defaults: Defaults
    relays: Collection[str]


class Intake:
    """See the module. `accepted` is told the id of each new job that is to be sent, from a worker thread."""

    def __init__(
        self,
        spool: Spool,
        admission: Admission,
        store: Store,
        projector: Projector,
        settings: Settings,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        accepted: Callable[[int], None],
        reserve: int,
    ) -> None:
        self._spool = spool
        self._admission = admission
        self._store = store
        self._projector = projector
        self._settings = settings
        self._clock = clock
        self._monotonic = monotonic
        self._accepted = accepted
        self._reserve = reserve
        self._inbox = Inbox(spool.files, settings.policy, clock=clock, monotonic=monotonic)
        self._uploads: dict[str, Upload] = {}
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="intake")
        self._renamed: set[str] = set()
        self._stopping = False

    # --- for the event loop -----------------------------------------------------------------------------------------

    def use(self, settings: Settings) -> None:
        self._settings = settings
        self._inbox.policy = settings.policy
        for upload in list(self._uploads.values()):
            upload.look_at = 0.0

    def hint(self, name: str, *, renamed_in: bool = False) -> None:
        """Something stirred in the upload `name`; `renamed_in` says that its folder was renamed in from tmp/."""
        if renamed_in:
            self._renamed.add(name)
        upload = self._uploads.get(name)
        if upload is not None:
            upload.renamed_in = upload.renamed_in or renamed_in
            upload.look_at = 0.0

    def scan(self) -> float | None:
        """Look for uploads and start what is due; returns the seconds until the next look is due, None without
        uploads.
        """
        if self._stopping:
            return None
        now = self._monotonic()
        names = set(self._spool.jobs("new"))
        for upload in list(self._uploads.values()):
            if upload.name not in names and not upload.busy:
                self._uploads.pop(upload.name, None)
        for name in names - self._uploads.keys():
            self._uploads[name] = Upload(name, now, now, name in self._renamed)
            log("upload.seen", upload=printable(name))
        self._renamed &= names
        wait: float | None = None
        for upload in list(self._uploads.values()):
            if upload.busy:
                continue
            if upload.look_at <= now:
                upload.busy = True
                self._threads.submit(self._handle, upload)
            else:
                wait = upload.look_at - now if wait is None else min(wait, upload.look_at - now)
        return wait

    @property
    def waiting(self) -> list[Upload]:
        """The uploads that are not complete yet, by name."""
        return sorted(self._uploads.values(), key=lambda upload: upload.name)

    @property
    def settling(self) -> bool:
        """Whether an upload is about to be taken: it is being looked at, or only time is missing."""
        return any(
            upload.busy or not upload.looked or (upload.waits_for or "").endswith("without a change")
            for upload in list(self._uploads.values())
        )

    def stop(self) -> None:
        """End; what is being taken is finished first."""
        self._stopping = True
        self._threads.shutdown(cancel_futures=True)

    # --- in a worker thread -----------------------------------------------------------------------------------------

    def _handle(self, upload: Upload) -> None:
        try:
            self._look(upload)
        except DatabaseError:
            upload.look_at = float("inf")  # the agent is about to end
        except ChangedError as error:
            self._problem(upload, str(error))
            upload.look_at = self._monotonic() + 1.0
        except OSError as error:
            hint = "; copy with `rsync --chmod=D2770,F0660`" if isinstance(error, PermissionError) else ""
            self._problem(upload, f"cannot be taken: {error.strerror or error}{hint}")
            upload.look_at = self._monotonic() + _AFTER_ERROR
        except Exception as error:  # noqa: BLE001 - one upload's surprise must not stop the others
            log("agent.task_failed", where=f"intake of {printable(upload.name)}", error=repr(error))
            self._problem(upload, f"internal error: {error!r}")
            upload.look_at = self._monotonic() + _AFTER_ERROR
        finally:
            upload.busy = False

    def _problem(self, upload: Upload, text: str) -> None:
        if upload.waits_for != text:
            log("upload.problem", upload=printable(upload.name), problem=text)
        upload.waits_for = text

    def _look(self, upload: Upload) -> None:
        begun = self._monotonic()
        try:
            with self._spool.job("new", upload.name) as root:
                seen = self._inbox.look(root, upload)
        except FileNotFoundError:
            return
        except NotADirectoryError:
            self._problem(
                upload,
                "a job is a folder, and this is none; `rsync -a job host:new/` (without a / behind job) makes one",
            )
            upload.look_at = begun + 10.0
            return
        verdict = seen.verdict
        if verdict.rule is None:
            upload.waits_for = verdict.waits_for
            # Notification may fail and network file systems have none: look again soon, but not all the time.
            cost = self._monotonic() - begun
            soonest = max(1.0, 10 * cost)
            upload.look_at = begun + max(0.05, min(verdict.look_again or soonest, soonest))
            return
        if self._spool.files.free_bytes(self._spool.root) < self._reserve:
            self._problem(upload, "the disk is nearly full; it is taken when there is room")
            upload.look_at = begun + 5.0
            return
        self._take(upload, seen, verdict.rule, list(verdict.errors))

    def _take(self, upload: Upload, seen: Seen, rule: Rule, errors: list[str]) -> None:
        name = claim(self._spool, upload.name)
        job_id: int | None = None
        try:
            if not seen.entries:
                # Too large to be looked at: nothing of it is taken but its report.
                self._spool.files.make_directory(self._spool.fd("active"), TAKE + name)
                taken = Taken({}, os.urandom(32))
            else:
                taken = take(self._spool, name, seen.entries.values(), seen.owner)
            if rule is Rule.SEALED and not errors:
                self._check_seal(upload, taken)
            with self._spool.job("active", TAKE + name) as root:
                job_id = self._admit(name, root, seen, taken, rule, errors)
        except (OSError, ChangedError):
            back = give_back(self._spool, name)
            if job_id is not None:
                self._admission.discard(job_id)
            if back != name:
                log("upload.problem", upload=printable(name), problem=f"was put back as {printable(back)}")
            raise

    def _check_seal(self, upload: Upload, taken: Taken) -> None:
        for name, (_, expected) in upload.hashes.items():
            if name in taken.hashes and taken.hashes[name].hex() != expected:
                raise ChangedError(f"{printable(name)} changed while the upload was being taken")

    def _admit(self, name: str, root: int, seen: Seen, taken: Taken, rule: Rule, errors: list[str]) -> int:
        """From the taken folder `root` to an accepted job; returns its id."""
        settings = self._settings
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
        job_id = self._admission.begin(name, raw, now)
        findings = Findings()
        if manifest is not None and not errors:
            errors.extend(manifest_errors(manifest, settings.defaults, settings.relays, now))
        if manifest is not None and not errors and not cancelled:
            twin = None if manifest.allow_duplicate else self._admission.twin(taken.digest)
            if twin is not None:
                errors.append(f"duplicate of {twin}")
            else:
                findings = self._examine(job_id, root, seen, taken.hashes, manifest, now)
                errors.extend(findings.errors)
        admitted = self._judge(upload, seen, taken, manifest, findings, errors, cancelled=cancelled, now=now)
        job = None
        if admitted.standing.state is not JobState.REJECTED:
            unique = manifest is not None and not manifest.allow_duplicate and not cancelled
            try:
                job = self._admission.accept(job_id, admitted, self._is_free, unique=unique)
            except TwinError as twin:  # taken at the same time
                admitted = _reject(admitted, f"duplicate of {twin}")
        if job is None:
            # Nothing of a rejected job is ever sent: what was put into the database of it goes again.
            self._admission.discard(job_id)
            job_id = self._admission.begin(name, raw, now)
            job = self._admission.accept(job_id, admitted, self._is_free)
        self._spool.move(TAKE + name, "active", admitted.standing.state.folder, job)
        self._clean(name, job)
        self._projector.write(job_id)
        self._admission.settle(job_id)
        self._uploads.pop(name, None)
        if admitted.standing.state is JobState.REJECTED:
            log("job.rejected", job=job, reason=admitted.standing.reason, problems=len(admitted.errors))
        elif cancelled:
            log("job.cancelled", job=job, reason="CANCEL was in the upload")
        else:
            log("job.accepted", job=job, recipients=findings.recipients, rule=rule.value)
            self._accepted(job_id)
        return job_id

    def _examine(
        self, job_id: int, root: int, seen: Seen, hashes: Mapping[str, bytes], manifest: Manifest, now: float
    ) -> Findings:
        settings = self._settings
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
        self, upload: str, seen: Seen, taken: Taken, manifest: Manifest | None, findings: Findings, errors: list[str],
        *, cancelled: bool, now: float,
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
            manifest is not None
            and (after := terms_of(manifest.timing, self._settings.defaults, now).send_after or 0) > now
        ):
            standing = Standing(JobState.SCHEDULED, None, after)
        else:
            standing = Standing(JobState.SENDING)
        return Admitted(
            upload, seen.folder, taken.digest, standing, tuple(findings.warnings), tuple(errors),
            held and not cancelled, cancelled,
        )  # fmt: skip

    def _is_free(self, name: str) -> bool:
        return self._spool.find(name, FOLDERS[1:]) is None

    def _clean(self, name: str, job: str) -> None:
        try:
            drop_claim(self._spool, name, job)
        except OSError as error:
            # Another user's folder that the agent may not empty: it was copied, and is never looked at again.
            log("upload.problem", upload=printable(name), problem=f"was taken; it cannot be removed: {error.strerror}")

    # --- at start ---------------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Finish or undo what a killed process had begun; before anything else uses the spool."""
        self._admission.discard_unaccepted()
        spool = self._spool
        for name in spool.hidden("new", TAKEN):
            with contextlib.suppress(OSError):
                spool.files.remove_tree(spool.fd("new"), TAKEN + name)
        claims = spool.hidden("new", CLAIM)
        for name in sorted({*claims, *spool.hidden("active", TAKE)}):
            claimed = spool.files.stat(spool.fd("new"), (CLAIM + name,))
            job = self._admission.claimed_by(name, claimed.inode if claimed else 0)
            if job is None:
                give_back(spool, name)
                continue
            if spool.files.stat(spool.fd("active"), (TAKE + name,)) is not None:
                spool.move(TAKE + name, "active", job[1].folder, job[0])
            self._clean(name, job[0])
        for job_id in self._admission.unsettled():
            # One that was rejected is looked at by nobody else, and may have no report yet.
            self._projector.write(job_id)
        self._admission.settle()


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

    def add_message(self, path: str, facts: MessageFacts | None) -> int:
        self._messages += 1
        message_id = id_in_job(self._job_id, self._messages)
        self._pending.append((message_id, path, self._hashes.get(path), facts))
        return message_id

    def add_recipients(self, recipients: list[NewRecipient]) -> None:
        self._admission.add(self._job_id, self._pending, self._recipients + 1, recipients, self._due_at)
        self._recipients += len(recipients)
        self._pending = []
