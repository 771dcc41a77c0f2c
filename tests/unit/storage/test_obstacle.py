"""Things of every kind under names that are the agent's to give: removed, or out of the way under a name that is told."""

import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from spoold.storage.entry import NotRegularError
from spoold.storage.files import Files
from spoold.storage.obstacle import clear, rename_over, set_aside


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"/proc/self/cwd/{path.name}" if len(str(path)) > 100 else str(path))


def fill(path: Path) -> None:
    path.mkdir()
    (path / "x").touch()


def link(path: Path) -> None:
    path.with_name("other").touch()
    path.hardlink_to(path.with_name("other"))


KINDS: dict[str, Callable[[Path], object]] = {
    "a file": lambda path: path.write_text("theirs"),
    "a folder": fill,
    "an empty folder": lambda path: path.mkdir(),
    "a FIFO": lambda path: os.mkfifo(path),
    "a link": lambda path: path.symlink_to("/etc/passwd"),
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a hard link": link,
    "a socket": bind,
}


@pytest.mark.parametrize("place", ["report.csv", ".report.csv.tmp"])
@pytest.mark.parametrize("kind", KINDS)
def test_file_is_put_into_its_place_whatever_stands_there_or_under_its_temporary_name(
    tmp_path: Path, root: int, kind: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    KINDS[kind](tmp_path / place)
    with capture_logs() as logs:
        Files().replace(root, "report.csv", [b"ours"])
    assert (tmp_path / "report.csv").read_bytes() == b"ours"
    assert not (tmp_path / "report.csv").is_symlink()
    asides = [name for name in os.listdir(tmp_path) if name not in ("report.csv", "other")]
    assert [line["now"] for line in logs] == asides
    # Empty folders are in nobody's way; a rename takes a folder's place only where that is made to give way.
    full = kind == "a folder" or (kind == "an empty folder" and place == "report.csv")
    assert len(asides) == full
    if full:
        assert logs[0]["where"] == f"{tmp_path}/{place}"
        assert re.fullmatch(r"\.aside-report\.csv(\.tmp)?-[0-9a-f]{8}", asides[0])
    if kind == "a hard link":
        assert (tmp_path / "other").read_bytes() == b""


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "a file"])
def test_nothing_but_a_file_of_one_name_is_appended_to(
    tmp_path: Path, root: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a FIFO waited for."""
    monkeypatch.chdir(tmp_path)
    KINDS[kind](tmp_path / "lines")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises((OSError, NotRegularError)):
        Files().open_append(root, "lines", 0)
    assert len(os.listdir("/proc/self/fd")) == before
    assert "nowhere" not in os.listdir(tmp_path)
    clear(Files(), root, "lines")
    os.close(Files().open_append(root, "lines", 0))


def test_name_that_is_as_long_as_names_can_be_is_set_aside_too(tmp_path: Path, root: int) -> None:
    name = "." + "ü" * 127
    (tmp_path / name).mkdir()
    aside = set_aside(Files(), root, name)
    assert aside is not None
    assert os.listdir(tmp_path) == [aside]
    assert set_aside(Files(), root, "nothing") is None


def test_folder_that_is_not_empty_gives_way_to_one_that_is_renamed_over_it(tmp_path: Path, root: int) -> None:
    fill(tmp_path / "job")
    fill(tmp_path / "mine")
    (tmp_path / "mine/y").touch()
    rename_over(Files(), root, "mine", root, "job")
    assert sorted(os.listdir(tmp_path / "job")) == ["x", "y"]
    assert len(os.listdir(tmp_path)) == 2
