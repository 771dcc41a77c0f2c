"""Files below one directory, by name, with the folder kept open that was looked into last."""

import os
from collections.abc import Iterator
from typing import Self

from spoold.storage.entry import Entry
from spoold.storage.files import Files


class Tree:
    """The files below one directory, by name. Thousands stand in one folder: it is kept open.

    For one thread, and for the length of a with block; `root` stays open longer.
    """

    def __init__(self, files: Files, root: int) -> None:
        self._files = files
        self._root = self._fd = root
        self._folder = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._look_into("", self._root)

    def locate(self, name: str) -> tuple[int, str]:
        """The descriptor of the folder that `name` stands in, valid until the next call, and its last part."""
        folder, _, child = name.rpartition("/")
        if folder != self._folder:
            if folder:
                with self._files.directory(self._root, tuple(folder.split("/"))) as fd:
                    self._look_into(folder, os.dup(fd))
            else:
                self._look_into("", self._root)
        return self._fd, child

    def chunks(self, name: str) -> Iterator[bytes]:
        """The content of the file `name` in pieces. Raises as `Files.open_file` does."""
        fd, child = self.locate(name)
        yield from self._files.chunks(fd, (child,))

    def stat(self, name: str) -> Entry | None:
        """The entry `name`, but for its name, None where there is none."""
        try:
            fd, child = self.locate(name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return self._files.stat(fd, (child,))

    def _look_into(self, folder: str, fd: int) -> None:
        if self._fd != self._root:
            os.close(self._fd)
        self._folder, self._fd = folder, fd
