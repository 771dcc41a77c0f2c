"""Files of an upload that have several names, all of them in it: plain files to whoever copies them, and to nobody else."""

from collections import Counter
from dataclasses import replace

from spoold.storage.entry import Entry, Kind, Path
from spoold.storage.files import Files


def own_links(found: list[Entry], owner: int) -> list[Entry]:
    """The entries of a tree of this owner, those hard links as plain files of which every name is in it.

    One that has a name elsewhere may be anybody's file, or be changed from there: it stays what it is.
    """
    names = Counter(entry.inode for entry in found if entry.kind is Kind.HARD_LINK and entry.uid == owner)
    if not names:
        return found
    return [
        replace(entry, kind=Kind.FILE) if entry.kind is Kind.HARD_LINK and names[entry.inode] == entry.links else entry
        for entry in found
    ]


class LinkedFiles(Files):
    """Reads files with several names too: for whoever has looked at what they are (`own_links`), and looks again."""

    def __init__(self, files: Files | None = None) -> None:
        self._files = files or Files()

    def open_file(self, root: int, path: Path, *, known: bool = True) -> int:
        return self._files.open_file(root, path, known=True)

    def open_directory(self, parent: int | None, name: str) -> int:
        return self._files.open_directory(parent, name)

    def read(self, fd: int, size: int) -> bytes:
        return self._files.read(fd, size)

    def stat(self, root: int, path: Path) -> Entry | None:
        return self._files.stat(root, path)
