"""Removing trees that somebody else made: as deep, as large and as closed as they like."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spoold.storage.files import Files

OTHER = 12345


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def nest(folder: Path, levels: int) -> None:
    """So many folders in each other, each with a file, deeper than any path may be long."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=below))
        os.close(fd)
        fd = below
    os.close(fd)


class Counting(Files):
    """Real files; keeps how many descriptors were open at most."""

    most = 0

    def open_directory(self, parent: int | None, name: str) -> int:
        fd = super().open_directory(parent, name)
        self.most = max(self.most, len(os.listdir("/proc/self/fd")))
        return fd


def test_thousands_of_folders_in_each_other_are_removed_by_few_descriptors(tmp_path: Path, root: int) -> None:
    (tmp_path / "deep").mkdir()
    nest(tmp_path / "deep", 5000)
    files, before = Counting(), len(os.listdir("/proc/self/fd"))
    files.remove_tree(root, "deep")
    assert os.listdir(tmp_path) == []
    assert files.most <= before + 4
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_all_that_may_be_removed_is_gone_when_the_first_refusal_is_told(tmp_path: Path) -> None:
    """A folder of another user in the middle of a tree, as somebody without root's rights meets it."""
    tree = tmp_path / "spool" / "tree"
    for name in ("a/b", "closed/inner", "empty", "z"):
        (tree / name).mkdir(parents=True)
        (tree / name / "file").touch()
    (tree / "empty" / "file").unlink()
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.chown(path, OTHER, OTHER)
    for name in ("closed", "closed/inner"):
        os.chown(tree / name, 0, 0)
        (tree / name).chmod(0o755)
    # One that cannot even be looked into, and is empty.
    os.chown(tree / "empty", 0, 0)
    (tree / "empty").chmod(0o700)
    code = (
        "import os, sys; from spoold.storage.files import Files\n"
        f"fd = os.open({str(tmp_path / 'spool')!r}, os.O_RDONLY)\n"
        f"os.setgroups([]); os.setgid({OTHER}); os.setuid({OTHER})\n"
        "try: Files().remove_tree(fd, 'tree')\n"
        "except OSError as error: print(error.strerror)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "Permission denied\n"
    assert sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*")) == [
        "closed", "closed/inner", "closed/inner/file",
    ]  # fmt: skip


def test_folder_that_is_moved_out_while_it_is_removed_leads_nobody_elsewhere(tmp_path: Path, root: int) -> None:
    (tmp_path / "tree/a/b").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/precious").touch()

    class Moving(Files):
        def names(self, fd: int) -> list[str]:
            found = super().names(fd)
            if found == ["b"]:
                (tmp_path / "tree/a").rename(tmp_path / "elsewhere/a")
            return found

    with pytest.raises(OSError, match="was moved while it was being removed"):
        Moving().remove_tree(root, "tree")
    assert (tmp_path / "elsewhere/precious").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_what_another_mount_holds_is_not_removed(tmp_path: Path, root: int) -> None:
    (tmp_path / "tree/mount").mkdir(parents=True)
    (tmp_path / "tree/file").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/precious").touch()
    mount = ["mount", "--bind", str(tmp_path / "elsewhere"), str(tmp_path / "tree/mount")]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no mounts here")
    try:
        with pytest.raises(OSError, match="mount"):
            Files().remove_tree(root, "tree")
        assert (tmp_path / "elsewhere/precious").exists()
        assert os.listdir(tmp_path / "tree") == ["mount"]
    finally:
        subprocess.run(["umount", str(tmp_path / "tree/mount")], check=True)


def test_removal_ends_as_soon_as_nobody_wants_it_any_more(tmp_path: Path, root: int) -> None:
    (tmp_path / "tree").mkdir()
    for number in range(100):
        (tmp_path / "tree" / str(number)).touch()
    wanted = iter([True] * 11)
    Files().remove_tree(root, "tree", lambda: next(wanted, False))
    assert len(os.listdir(tmp_path / "tree")) == 90
