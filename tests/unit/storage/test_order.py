"""The order of steps that a power cut, or a kill between two of them, relies on."""

import os
from pathlib import Path
from typing import Any, cast

import pytest

from spoold.intake.pickup import Pickups
from spoold.storage.draft import Draft
from spoold.storage.files import Files
from spoold.storage.spooldir import Spool

PICKUP = b"X-Sender: <a@x.example>\nX-Receiver: <b@x.example>\nSubject: x\n\nHello\n"


class Watched(Files):
    """Notes what was renamed, removed and synced, in order, by paths."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, str]] = []

    def rename(self, from_fd: int, name: str, to_fd: int, new_name: str) -> None:
        super().rename(from_fd, name, to_fd, new_name)
        self.steps.append(("rename", f"{_path(to_fd)}/{new_name}"))

    def unlink(self, parent: int, name: str) -> None:
        super().unlink(parent, name)
        self.steps.append(("unlink", f"{_path(parent)}/{name}"))

    def sync(self, fd: int) -> None:
        super().sync(fd)
        self.steps.append(("sync", _path(fd)))

    def at(self, step: str, path: Path | str) -> int:
        """The place of the last such step."""
        return max(n for n, found in enumerate(self.steps) if found == (step, str(path)))


def _path(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


@pytest.fixture
def files() -> Watched:
    return Watched()


def test_draft_is_durable_under_its_new_name_before_anybody_hears_of_it(spool: Spool, files: Watched) -> None:
    tmp, new = spool.fd("tmp"), spool.fd("new")
    with Draft(files, tmp, "job") as draft:
        draft.add(("messages", "1.eml"), [b"x"])
        hidden = next((spool.path / "tmp").iterdir())
        draft.publish(new, "job")
    renamed = files.at("rename", spool.path / "new/job")
    # What is in it first, from the files to the folder itself; then the folders that it went from and to.
    inside = [files.at("sync", path) for path in (hidden / "messages/1.eml", hidden / "messages", hidden)]
    assert inside == sorted(inside)
    assert inside[-1] < renamed
    assert files.at("sync", spool.path / "new") > renamed
    assert files.at("sync", spool.path / "tmp") > renamed


def test_picked_up_file_goes_once_its_folder_stands_for_it(spool: Spool, files: Watched) -> None:
    path = spool.path / "new/mail.eml"
    path.write_bytes(PICKUP)
    entry = files.stat(spool.fd("new"), ("mail.eml",))
    assert entry is not None
    assert Pickups(spool, rest=cast("Any", None)).take(entry) == "mail"
    gone = files.at("unlink", path)
    (picked,) = [n for n, (step, to) in enumerate(files.steps) if step == "rename" and "/.picked-" in to]
    assert picked < gone
    assert ("sync", str(spool.path / "new")) in files.steps[picked:gone]


def test_file_that_is_appended_to_is_cut_to_where_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    path.write_bytes(b"one\ntwo\nhalf of thr")
    files = Files()
    root = os.open(tmp_path, os.O_RDONLY)
    with files.closing(root), files.closing(files.open_append(root, path.name, 8)) as fd:
        assert path.read_bytes() == b"one\ntwo\n"
        files.write(fd, b"three\n")
    assert path.read_bytes() == b"one\ntwo\nthree\n"
