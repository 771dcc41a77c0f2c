"""What stands in new/: looks at each upload, remembers what was seen, and says when it is complete.

For one thread at a time per upload. Hashes, counts and the parsed manifest are kept as long as the files stay as they
are, so that looking again is cheap.
"""

import contextlib
import functools
import operator
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import tzinfo

from spoold.core.completeness import IntakePolicy, Look, Rule, Verdict, judge, recipients_file
from spoold.core.folder import CANCEL, CONTROL_FILES, DEFAULT_RECIPIENTS, MANIFEST, MAX_DEPTH, REPORT, SEAL
from spoold.core.manifest import DEFAULT_MESSAGE, Expect, InlineRecipient, Manifest
from spoold.core.recipient.address import AddressError, parse_address
from spoold.core.recipient.list import RecipientsError, Row, read_csv, read_txt
from spoold.core.seal import parse_seal
from spoold.intake.claim import wanted
from spoold.intake.custody import hash_of, moves
from spoold.intake.parser import parse_apart
from spoold.intake.rest import Rest
from spoold.intake.time_limit import OvertimeError, TimeLimit
from spoold.intake.upload import Counts, Seen, Upload, Whole, identity
from spoold.storage.entry import Entry, Kind, NotRegularError, TreeTooLargeError
from spoold.storage.files import Files
from spoold.storage.link import LinkedFiles, own_links
from spoold.storage.manifest import Manifests, read_manifest
from spoold.storage.tree import Tree

#: Bytes of an upload that others do not wait for while they are read.
LARGE_READING = 64 * 1024 * 1024
#: A folder with more files is listed when nobody waits.
_LISTED = 2000
#: So many files that a job does not name, of so many bytes together, are copied with the others.
_FEW = 100
_SMALL = 1024 * 1024
_SEAL_LIMIT = 256 * 1024 * 1024


class LargeReadingError(Exception):
    """Much has to be read to say whether the upload is complete."""


class Inbox:
    """Looks at uploads. `zone` is the agent's; `rest` tells how long files were not changed, `monotonic` gives seconds that no one
    sets."""

    def __init__(
        self,
        files: Files,
        policy: IntakePolicy,
        zone: tzinfo,
        *,
        rest: Rest,
        monotonic: Callable[[], float],
    ) -> None:
        # What a look finds is looked at again as it is taken.
        self._files = LinkedFiles(files)
        self.policy = policy
        self.zone = zone
        self._rest = rest
        self._monotonic = monotonic
        self.manifests = Manifests(parse_apart)
        #: By the inodes of their folders.
        self._whole: dict[int, Whole] = {}
        self._cancelled: set[int] = set()

    def remember(self, seen: "Seen", *, renamed_in: bool) -> None:
        """The upload was judged complete and is about to be taken: should it come back, it is to be as whole as now."""
        self._whole.setdefault(seen.folder, Whole(seen.entries, renamed_in))

    def forget(self, folder: int) -> None:
        """The upload whose folder had this inode is none any more."""
        self._whole.pop(folder, None)
        self._cancelled.discard(folder)

    def cancel(self, folder: int) -> None:
        """CANCEL was asked for while the upload with this inode was being taken."""
        self._cancelled.add(folder)

    def look(self, root: int, upload: Upload) -> Seen:
        """Look at the upload whose folder is `root`. Raises OSError where that cannot be read, and LargeReadingError."""
        now = self._monotonic()
        folder = os.fstat(root)
        upload.owner = folder.st_uid
        arrived = bool(upload.arrived)
        upload.meet(folder.st_ino)
        first = not upload.looked
        try:
            most = self.policy.max_recipients + 1000
            found = self._files.walk(
                root,
                max_entries=most if upload.patient else min(most, _LISTED),
                max_depth=MAX_DEPTH,
                skip=frozenset({REPORT}),
            )
        except TreeTooLargeError as error:
            if not upload.patient:
                raise LargeReadingError from None
            return Seen(self._too_large(upload, now, str(error)), {}, folder.st_uid, folder.st_ino)
        found = own_links(found, folder.st_uid)
        entries = {entry.name: entry for entry in found}
        # In whatever order they come.
        tree = functools.reduce(operator.xor, (hash((entry.name, identity(entry))) for entry in found), len(found))
        if tree != upload.tree or not upload.looked:
            # At the first look the files' own times say how long they have been at rest; rsync cannot set those back.
            at_rest = 0.0
            if not upload.looked and found:
                # The folder's own time is that of the last rename, the agent's among them: what it gives back rests anew.
                latest = max(folder.st_ctime_ns, max(entry.ctime_ns for entry in found))
                at_rest = self._rest.since(latest / 1e9)
            upload.changed_at = now - at_rest
            upload.tree, upload.looked = tree, True
            upload.time_limit = TimeLimit(self._monotonic)
        vanished = self._vanished(upload, entries, arrived=None if first else arrived)
        unread = frozenset[str]()
        left: Mapping[str, bytes | None] = {}
        try:
            with upload.time_limit.within(self.policy.max_time):
                manifest = None
                if upload.folder in self._cancelled or self._asks_cancel(entries):
                    verdict = Verdict(Rule.CANCELLED)  # whatever else is in it, and however long that takes to be read
                else:
                    facts = replace(self._facts(root, upload, entries, now), vanished=vanished)
                    verdict, manifest = judge(facts, self.policy), facts.manifest
                if verdict.rule is not None and manifest is not None:
                    unread = self._unread(root, upload, entries, manifest)
                if verdict.rule is not None and not moves(found, folder.st_uid):
                    left = self._left(root, upload, entries, manifest, unread)
        except OvertimeError as error:
            verdict = Verdict(Rule.STALE, errors=(str(error),))
        return Seen(verdict, entries, folder.st_uid, folder.st_ino, unread, left)

    def _asks_cancel(self, entries: Mapping[str, Entry]) -> bool:
        entry = entries.get(CANCEL)
        return entry is not None and entry.kind is Kind.FILE

    def _vanished(self, upload: Upload, entries: Mapping[str, Entry], *, arrived: bool | None) -> str | None:
        """A file that vanished while the upload was being taken. How it came counts only while it is what came; `arrived` is how
        what stands there since the last look came, None at the first one, which finds the upload as it came."""
        whole = self._whole.get(upload.folder)
        if whole is None:
            return None
        if whole.is_other(entries):
            self.forget(upload.folder)
            if arrived is not None:
                upload.renamed_in = arrived
            return None
        upload.renamed_in = whole.renamed_in and not whole.changed(entries)
        return whole.vanished(entries)

    def _large(self, entries: dict[str, Entry], manifest: Manifest) -> frozenset[str]:
        """The files that are larger than a message may be, other than those that are read as something else."""
        limit, others = self.policy.max_message, (MANIFEST, SEAL, recipients_file(manifest, entries.keys()))
        return frozenset(
            name
            for name, entry in entries.items()
            if entry.size > limit and entry.kind is Kind.FILE and name not in others
        )

    def _unread(self, root: int, upload: Upload, entries: dict[str, Entry], manifest: Manifest) -> frozenset[str]:
        """The messages that are larger than `max_message` and that some recipient would get."""
        key = (upload.tree, self.policy.max_message)
        if upload.unread is not None and upload.unread[0] == key:
            return upload.unread[1]
        large, found = self._large(entries, manifest), set[str]()
        # What is wrong with a list is told when the upload is taken.
        with contextlib.suppress(RecipientsError, NotRegularError, OSError):
            source = recipients_file(manifest, entries.keys())
            for row in self._rows(root, upload, entries, manifest, source) if large else ():
                path = row.message or manifest.message
                if path in large and path not in found:
                    with contextlib.suppress(AddressError):
                        parse_address(row.address)
                        found.add(path)
                if len(found) == len(large):
                    break
        upload.unread = (key, frozenset(found))
        return upload.unread[1]

    def _left(
        self, root: int, upload: Upload, entries: dict[str, Entry], manifest: Manifest | None, unread: frozenset[str]
    ) -> dict[str, bytes | None]:
        """The files that the job does not name: not copied, unless they are few and small."""
        named = {MANIFEST, SEAL, *CONTROL_FILES, *DEFAULT_RECIPIENTS, DEFAULT_MESSAGE, *unread}
        if manifest is not None:
            named |= {manifest.message, recipients_file(manifest, entries.keys()) or ""}
        files = [entry for entry in wanted(entries.values()) if entry.kind is Kind.FILE and entry.name not in named]
        if len(files) <= _FEW and sum(entry.size for entry in files) <= _SMALL:
            return {}
        if upload.left is None or upload.left[0] != upload.tree:
            others = {entry.name for entry in files}
            # What is wrong with a list is told when the upload is taken.
            with contextlib.suppress(RecipientsError, NotRegularError, OSError):
                source = None if manifest is None else recipients_file(manifest, entries.keys())
                for row in () if manifest is None else self._rows(root, upload, entries, manifest, source):
                    others.discard(row.message or "")
                    if not others:
                        break
            upload.left = (upload.tree, frozenset(others))
        known = upload.hashes
        return {
            name: bytes.fromhex(known[name][1]) if name in known and known[name][0] == identity(entries[name]) else None
            for name in upload.left[1]
        }

    def _too_large(self, upload: Upload, now: float, problem: str) -> Verdict:
        if upload.problem != problem:
            upload.problem, upload.changed_at = problem, now
        look = Look({}, {}, manifest_problem=problem, unchanged_for=now - upload.changed_at)
        verdict = judge(look, self.policy)
        return Verdict(verdict.rule, f"fewer files: it has {problem}", self.policy.stale, verdict.errors)

    def _facts(self, root: int, upload: Upload, entries: dict[str, Entry], now: float) -> Look:
        files = {name: entry.mtime_ns // 10**9 for name, entry in entries.items() if entry.kind is Kind.FILE}
        directories = frozenset(name for name, entry in entries.items() if entry.kind is Kind.DIRECTORY)
        specials = {
            name: entry.kind.value for name, entry in entries.items() if name not in files and name not in directories
        }
        manifest, problem, incomplete = self._manifest(root, upload, entries)
        seal, wrong = None, frozenset[str]()
        if SEAL in files:
            text = self._files.read_small(root, (SEAL,), _SEAL_LIMIT).decode(errors="surrogateescape")
            seal = parse_seal(text)
            if seal.problem is None and seal.hashes.keys() <= files.keys():
                wrong = self._wrong(root, upload, entries, seal.hashes, manifest)
        newline, counts = True, Counts()
        source = recipients_file(manifest, entries.keys()) if manifest is not None else None
        if source and source in files:
            newline = self._ends_in_newline(root, entries[source])
        if manifest is not None and (manifest.expect != Expect() or manifest.message not in entries):
            counts = self._count(root, upload, entries, manifest, source)
        return Look(
            files, specials, directories, manifest, problem, incomplete, seal, wrong, newline, counts.recipients, counts.messages,
            counts.needs_shared, upload.renamed_in, now - upload.changed_at,
        )  # fmt: skip

    def _manifest(
        self, root: int, upload: Upload, entries: dict[str, Entry]
    ) -> tuple[Manifest | None, str | None, bool]:
        """See `read_manifest`. What is wrong is remembered as long as the file stays as it is."""
        entry = entries.get(MANIFEST)
        key = None if entry is None else (identity(entry), self.zone)
        if upload.wrong is not None and upload.wrong[0] == key:
            return None, *upload.wrong[1]

        def parse(source: bytes) -> Manifest:
            if not upload.patient and not self.manifests.knows(source, self.zone):
                raise LargeReadingError
            return self.manifests.parse(source, self.zone)

        manifest, problem, incomplete = read_manifest(self._files, root, entries, parse)
        upload.wrong = None if problem is None or key is None else (key, (problem, incomplete))
        return manifest, problem, incomplete

    def _wrong(
        self, root: int, upload: Upload, entries: dict[str, Entry], wanted: Mapping[str, str], manifest: Manifest | None
    ) -> frozenset[str]:
        """The sealed files whose hashes differ; hashes each file again only when it has changed.

        What is too large comes last: once the list is known to be whole it says whether that is a message, which is
        refused by its size, whatever is in it.
        """
        large = frozenset[str]() if manifest is None else self._large(entries, manifest)
        wrong = self._differing(root, upload, entries, {name: wanted[name] for name in wanted.keys() - large})
        if wrong or manifest is None or not large:
            return wrong
        left = large - self._unread(root, upload, entries, manifest)
        return self._differing(root, upload, entries, {name: wanted[name] for name in wanted.keys() & left})

    def _differing(
        self, root: int, upload: Upload, entries: dict[str, Entry], wanted: Mapping[str, str]
    ) -> frozenset[str]:
        hashes = upload.hashes
        new = [name for name in wanted if name not in hashes or hashes[name][0] != identity(entries[name])]
        self._check(upload, [entries[name] for name in new])
        with Tree(self._files, root) as tree:
            for name in new:
                digest = hash_of(upload.time_limit.over(tree.chunks(name)))
                hashes[name] = (identity(entries[name]), digest.hexdigest())
        return frozenset(name for name, expected in wanted.items() if hashes[name][1] != expected)

    def _check(self, upload: Upload, entries: list[Entry]) -> None:
        """Raise LargeReadingError if reading these would keep others waiting."""
        if not upload.patient and sum(entry.size for entry in entries) > LARGE_READING:
            raise LargeReadingError

    def _ends_in_newline(self, root: int, entry: Entry) -> bool:
        if entry.size == 0:
            return False
        fd = self._files.open_file(root, entry.path)
        try:
            os.lseek(fd, -1, os.SEEK_END)
            return self._files.read(fd, 1) == b"\n"
        finally:
            os.close(fd)

    def _count(
        self, root: int, upload: Upload, entries: dict[str, Entry], manifest: Manifest, source: str | None
    ) -> Counts:
        """What is in the list of recipients; nothing where it cannot be read."""
        if upload.counts is not None and upload.counts[0] == upload.tree:
            return upload.counts[1]
        recipients = 0
        messages: set[str] = set()
        needs_shared = False
        found = Counts()
        # What is wrong with a list is told when the upload is taken.
        with contextlib.suppress(RecipientsError, NotRegularError, OSError):
            for row in self._rows(root, upload, entries, manifest, source):
                recipients += 1
                needs_shared = needs_shared or not row.message
                path = row.message or manifest.message
                if path not in messages and path in entries:
                    messages.add(entries[path].name)
            found = Counts(recipients, len(messages), needs_shared)
        upload.counts = (upload.tree, found)
        return found

    def _rows(
        self, root: int, upload: Upload, entries: dict[str, Entry], manifest: Manifest, source: str | None
    ) -> Iterable[Row | InlineRecipient]:
        if isinstance(manifest.recipients, tuple):
            return manifest.recipients
        if source is None or source not in entries:
            return ()
        read = read_txt if source.lower().endswith(".txt") else read_csv
        self._check(upload, [entries[source]])
        return read(upload.time_limit.over(self._files.chunks(root, entries[source].path)), source)
