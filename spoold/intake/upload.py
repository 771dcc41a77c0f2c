"""What is known of an upload while it stands in new/."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import tzinfo

from spoold.core.completeness import Verdict
from spoold.core.folder import SEAL, is_content, is_hidden
from spoold.core.problem import printable
from spoold.event import log
from spoold.intake.claim import wanted
from spoold.intake.custody import moves
from spoold.intake.time_limit import TimeLimit
from spoold.storage.entry import Entry, Kind

Identity = tuple[int, int, int, int]


def identity(entry: Entry) -> Identity:
    """Changes with the content, and with whatever else there is to change."""
    return (*entry.fingerprint, entry.ctime_ns)


@dataclass(frozen=True, slots=True)
class Counts:
    """Recipients, message files that they get, and whether one has no message of its own; None where unknown."""

    recipients: int | None = None
    messages: int | None = None
    needs_shared: bool = False


@dataclass(slots=True)
class Upload:
    """One folder in new/, and what is known of it. Moments are monotonic seconds."""

    name: str
    first_seen: float
    changed_at: float
    renamed_in: bool = False
    arrived: bool | None = None
    """How the next folder of this name came, as far as that was told and it was not looked at yet."""
    folder: int = 0
    """The inode of what was looked at."""
    look_at: float = 0.0
    waits_for: str | None = None
    """As status.json shows it."""
    busy: bool = False
    looked: bool = False
    tree: int = 0
    problem: str | None = None
    finish: Callable[[], None] | None = None
    """What is left to do of an upload that has become a job."""
    hashes: dict[str, tuple[Identity, str]] = field(default_factory=dict)
    counts: tuple[int, Counts] | None = None
    unread: tuple[tuple[int, int], frozenset[str]] | None = None
    left: tuple[int, frozenset[str]] | None = None
    wrong: tuple[tuple[Identity, tzinfo] | None, tuple[str, bool]] | None = None
    """What is wrong with job.yaml, and whether more bytes could cure it, as long as it is that file."""
    queued: bool = False
    """Whether it waits for its owner's lane, where what takes long is done."""
    slow: bool = False
    """Whether looking at it takes long."""
    owner: int = 0
    """The folder's uid, once looked at."""
    patient: bool = False
    """Whether it is read in nobody's way: else a large reading raises LargeReadingError."""
    time_limit: TimeLimit = field(default_factory=TimeLimit)

    def meet(self, folder: int) -> None:
        """The look is at this inode: of another one of the same name nothing is known."""
        if folder != self.folder:
            if self.folder:
                self.renamed_in = bool(self.arrived)
            self.folder, self.tree, self.looked = folder, 0, False
            self.hashes.clear()
            self.counts = self.unread = self.left = self.wrong = self.problem = None
        self.arrived = None

    def tell(self, problem: str) -> None:
        """Say what is wrong, in status.json and once in the log."""
        if self.waits_for != problem:
            log("upload.problem", upload=printable(self.name), problem=problem)
        self.waits_for = problem


@dataclass(frozen=True, slots=True)
class Whole:
    """An upload as it was when it was judged complete, by the names of its files."""

    entries: Mapping[str, Entry]
    renamed_in: bool

    def vanished(self, found: Mapping[str, Entry]) -> str | None:
        """A file that is not there any more."""
        return min((name for name in self._files() if name not in found), default=None)

    def changed(self, found: Mapping[str, Entry]) -> bool:
        """Whether the sender has changed anything since."""
        return self._prints(self.entries) != self._prints(found)

    def is_other(self, found: Mapping[str, Entry]) -> bool:
        """Whether nothing is left of it: it is another upload that happens to have the same inode."""
        # The next upload often gets the inodes of one that was just removed, its files' too.
        return not any(
            name in found and found[name].fingerprint == self.entries[name].fingerprint for name in self._files()
        )

    def _files(self) -> list[str]:
        return [name for name, entry in self.entries.items() if counts(name) and entry.kind is not Kind.DIRECTORY]

    @staticmethod
    def _prints(entries: Mapping[str, Entry]) -> dict[str, object]:
        return {
            name: entry.kind if entry.kind is Kind.DIRECTORY else entry.fingerprint
            for name, entry in entries.items()
            if counts(name)
        }


def counts(name: str) -> bool:
    return (is_content(name) or name == SEAL) and not is_hidden(name)


@dataclass(frozen=True, slots=True)
class Seen:
    """One look's result: the verdict, and what it was passed on."""

    verdict: Verdict
    entries: dict[str, Entry]
    owner: int
    folder: int
    """The folder's inode."""
    unread: frozenset[str] = frozenset()
    """Messages that are larger than may be sent: they are refused by their size, and nobody need read them."""
    left: Mapping[str, bytes | None] = field(default_factory=dict)
    """Files of an upload to be copied that the job does not name, with their hashes where these are known: they are read, for
    they are part of what *the same content* means, and stay behind."""

    @property
    def to_copy(self) -> int:
        """Bytes."""
        moved = moves(self.entries.values(), self.owner)
        return sum(
            entry.size
            for entry in wanted(self.entries.values())
            if entry.kind is Kind.FILE
            and (entry.links > 1 or not moved)
            and entry.name not in self.unread
            and entry.name not in self.left
        )
