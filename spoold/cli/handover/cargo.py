"""A job folder that is to be copied into a spool: which of its files go, and the seal that they get."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from spoold.cli.handover.folder import entries_of, hash_all, open_folder, sealable
from spoold.cli.handover.progress import Told
from spoold.core.folder import READY, REPORT, SEAL, is_hidden
from spoold.core.seal import format_seal
from spoold.storage.entry import Entry, Kind
from spoold.storage.link import LinkedFiles

#: Top-level names that stay behind: the agent's, or meant for another way of handing over.
LEFT_BEHIND = (READY, REPORT, SEAL)


@dataclass(frozen=True, slots=True)
class Cargo:
    """`entries` are the files that go, `size` their bytes together, `seal` the text of the SHA256SUMS beside them."""

    path: Path
    entries: tuple[Entry, ...]
    size: int
    seal: bytes

    @property
    def digest(self) -> str:
        """Names the content, in hexadecimal."""
        return hashlib.sha256(self.seal).hexdigest()


def load(path: str, told: Told) -> Cargo:
    """Hash what is in the folder `path`; `told` hears of bytes done and bytes in all. Raises UsageError, OSError."""
    files = LinkedFiles()
    with files.closing(open_folder(files, path)) as root:
        entries = entries_of(files, root)
        going = tuple(
            entry
            for name, entry in sorted(entries.items())
            if entry.kind is Kind.FILE and entry.path[0] not in LEFT_BEHIND and not is_hidden(name)
        )
        hashes = hash_all(files, root, sealable(entries), told)
    seal = format_seal(hashes).encode(errors="surrogateescape")
    return Cargo(Path(path).resolve(), going, sum(entry.size for entry in going), seal)
