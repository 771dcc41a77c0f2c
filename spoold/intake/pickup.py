"""Single message files in new/ that bring their envelope along (`core.message.envelope`): each becomes an upload like any other.

The job's folder is made as `new/.pickup-…`, whole and synced; renamed to `new/.picked-…`, it stands for the file from
then on; then the file goes, and the folder gets its name in new/, sealed. After a kill the first form is rubbish and
the second is finished: it names the file's inode and time, so that a new file of the same name is never mistaken for
the one that it stands for.
"""

import functools
import os
import re
from collections.abc import Iterable, Iterator

from spoold.core.completeness import IntakePolicy
from spoold.core.document.writer import manifest_text
from spoold.core.folder import MANIFEST
from spoold.core.manifest import DEFAULT_MESSAGE
from spoold.core.message.envelope import ENVELOPE_LIMIT, Pickup, read_pickup
from spoold.core.problem import printable
from spoold.failpoint import failpoint
from spoold.intake.claim import IN_THE_WAY
from spoold.intake.rest import Rest
from spoold.intake.upload import Upload
from spoold.storage.draft import Draft, NameTakenError
from spoold.storage.entry import Entry, Kind, NotRegularError
from spoold.storage.obstacle import set_aside, tolerating
from spoold.storage.spooldir import Spool, clean_name, marked, plain_name

SUFFIX = ".eml"
MAKING = ".pickup-"
PICKED = ".picked-"
#: The rest of such a name: inode, time, and the upload's name.
_PICKED = re.compile(r"[0-9a-f]+-[0-9a-f]+-[^.].*", re.DOTALL)
NO_JOB = "a job is a folder, and this is none; `rsync -a job host:new/` (without a / behind job) makes one"
_NO_ENVELOPE = f"{NO_JOB}; or a file NAME.eml that begins with X-Sender and X-Receiver lines"


class Pickups:
    """See the module. For intake's threads; a file is for one of them at a time. `rest` tells how long files were not
    changed."""

    def __init__(self, spool: Spool, *, rest: Rest) -> None:
        self._spool = spool
        self._rest = rest
        #: What is wrong with files that were picked up, by the name of their upload; lost with the process, which
        #: then says less about them.
        self.errors: dict[str, tuple[str, ...]] = {}

    def look(self, upload: Upload, policy: IntakePolicy, now: float) -> Entry | str:
        """The file `new/NAME` if it is complete, else what it waits for; `now` is monotonic. Raises OSError."""
        upload.looked = True
        entry = self._spool.files.stat(self._spool.fd("new"), (upload.name,))
        if entry is None or entry.kind is not Kind.FILE or not upload.name.lower().endswith(SUFFIX):
            return NO_JOB
        upload.meet(entry.inode)
        seen = hash((*entry.fingerprint, entry.ctime_ns))
        if seen != upload.tree:
            at_rest = 0.0 if upload.tree else self._rest.since(entry.ctime_ns / 1e9)
            upload.tree, upload.changed_at = seen, now - at_rest
        pickup = self._read(entry)
        if pickup is None:
            return _NO_ENVELOPE
        if upload.renamed_in:
            return entry
        if not policy.quiet:
            return "a rename from tmp/ (intake.quiet is off)"
        if entry.mtime_ns // 10**9 == 0:
            return "the rest of it (its time is 0, as rsync --partial leaves it)"
        if entry.size == pickup.length and now - upload.changed_at < policy.stale:
            return "the rest of it: there is only an envelope"
        if now - upload.changed_at < policy.settle:
            return f"{policy.settle:g} s without a change"
        return entry

    def take(self, entry: Entry) -> str | None:
        """Make an upload of the complete file `entry`; returns its name in new/, None where the file changed meanwhile.

        Raises OSError.
        """
        files, new = self._spool.files, self._spool.fd("new")
        pickup = self._read(entry)
        if pickup is None:
            return None
        with Draft(files, new, MAKING[1:] + clean_name(entry.name)) as draft:
            draft.add((DEFAULT_MESSAGE,), _after(files.chunks(new, entry.path), pickup.length))
            draft.add(("recipients.csv",), [_recipients(pickup)])
            values = {"sender": pickup.sender, "description": f"picked up from {printable(entry.name, 100)}"}
            draft.add((MANIFEST,), [manifest_text(values).encode()])
            draft.seal()
            failpoint("pickup-written")
            now = files.stat(new, entry.path)
            if now is None or now.fingerprint != entry.fingerprint:
                return None
            name = clean_name(os.path.splitext(entry.name)[0])
            try:
                draft.publish(new, picked := _mark(entry) + name)
            except NameTakenError:  # by whoever it be: it is left alone
                draft.publish(new, picked := _mark(entry) + marked(name))
        failpoint("pickup-renamed")
        return self._finish(picked, entry.name, pickup)

    def _read(self, entry: Entry) -> Pickup | None:
        try:
            head = self._spool.files.read_small(self._spool.fd("new"), entry.path, ENVELOPE_LIMIT)
        except NotRegularError:
            return None
        return read_pickup(head, printable(entry.name))

    def _finish(self, picked: str, name: str | None, pickup: Pickup | None = None) -> str:
        """The folder `picked` stands for the file `new/NAME`, which is in the way: remove it, and put the folder in."""
        files, new = self._spool.files, self._spool.fd("new")
        if name is not None and (there := files.stat(new, (name,))) is not None and picked.startswith(_mark(there)):
            files.unlink(new, name)
            files.sync(new)
        failpoint("pickup-removed")
        wanted = plain_name(picked.split("-", 3)[3])
        while True:
            upload = self._free_name(wanted)
            if pickup is not None and pickup.problems:
                self.errors[upload] = tuple(map(str, pickup.problems))
            try:
                self._spool.move(picked, "new", "new", upload)
            except OSError as error:
                self.errors.pop(upload, None)
                if error.errno not in IN_THE_WAY:
                    raise
            else:
                return upload

    def _free_name(self, wanted: str) -> str:
        name, number = wanted, 1
        while self._spool.files.stat(self._spool.fd("new"), (name,)) is not None:
            number += 1
            name = f"{wanted}.{number}"
        return name

    def recover(self) -> None:
        """Finish what a killed process had begun; before intake looks into new/. Raises OSError only for the machine's.

        What it had not finished making is rubbish.
        """
        files, new = self._spool.files, self._spool.fd("new")
        picked = self._spool.hidden("new", PICKED)
        if not picked:
            return
        entries = [files.stat(new, (name,)) for name in self._spool.jobs("new")]
        standing = {_mark(entry): entry.name for entry in entries if entry is not None}
        for name in picked:
            if _PICKED.fullmatch(name) is None:
                set_aside(files, new, PICKED + name)  # nobody's who makes such a folder
                continue
            mark = PICKED + "-".join(name.split("-", 2)[:2]) + "-"
            with tolerating(functools.partial(set_aside, files, new, PICKED + name)):
                self._finish(PICKED + name, standing.get(mark))


def _mark(entry: Entry) -> str:
    """How the name of the folder that stands for this file begins."""
    return f"{PICKED}{entry.inode:x}-{entry.mtime_ns % 2**64:x}-"


def _after(chunks: Iterable[bytes], length: int) -> Iterator[bytes]:
    """The chunks without their first `length` bytes."""
    for chunk in chunks:
        if rest := chunk[length:]:
            yield rest
        length = max(0, length - len(chunk))


def _recipients(pickup: Pickup) -> bytes:
    """One row a line of the file, so that the report's lines are those of the list."""
    lines = ["address\n"]
    for address in pickup.receivers:
        quoted = printable(address, 500).replace('"', '""')
        lines.append(f'"{quoted}"\n')
    return "".join(lines).encode()
