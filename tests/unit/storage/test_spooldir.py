"""The spool's folders, names, moves and lock."""

import os
import socket
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoold.storage.files import Files
from spoold.storage.spooldir import FOLDERS, Spool, SpoolError, clean_name, valid_name


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    Spool.create(tmp_path / "spool")
    opened = Spool(tmp_path / "spool", Files())
    yield opened
    opened.close()


def test_spool_is_made_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "deep/spool"
    assert Spool.create(path) == ["tmp", "new", "active", "deferred", "done", ".spoold"]
    assert Spool.create(path) == []
    assert oct((path / ".spoold").stat().st_mode & 0o777) == "0o700"


@pytest.mark.parametrize("missing", ["tmp", *FOLDERS, ".spoold"])
def test_folder_that_is_missing_is_named_with_the_way_out(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "spool"
    Spool.create(path)
    (path / missing).rmdir()
    with pytest.raises(SpoolError, match=f"{missing} is missing.*spoold init {path}"):
        Spool(path, Files())


def test_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    Spool.create(path)
    (path / "new").rmdir()
    (path / "new").symlink_to(tmp_path)
    with pytest.raises(SpoolError, match=r"cannot open the spool: .*\(new\)"):
        Spool(path, Files())


def test_lock_is_taken_once_and_names_its_holder(spool: Spool) -> None:
    other = Spool(spool.path, Files())
    assert not spool.is_locked()
    spool.lock()
    assert other.is_locked()
    with pytest.raises(SpoolError) as caught:
        other.lock()
    assert f"in use by spoold, pid {os.getpid()} on {socket.gethostname()};" in str(caught.value)
    assert "\n" not in str(caught.value)
    other.close()


def test_lock_ends_with_its_holder_whatever_the_file_says(tmp_path: Path) -> None:
    Spool.create(tmp_path)
    (tmp_path / ".spoold/lock").write_text("spoold, pid 1 on a machine with a very long name that must not stay\n" * 3)
    first = Spool(tmp_path, Files())
    first.lock()
    assert (tmp_path / ".spoold/lock").read_text() == f"spoold, pid {os.getpid()} on {socket.gethostname()}\n"
    first.close()
    second = Spool(tmp_path, Files())
    assert not second.is_locked()
    second.lock()
    second.close()


def test_lock_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    Spool.create(tmp_path / "spool")
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "spool/.spoold/lock").symlink_to(tmp_path / "precious")
    spool = Spool(tmp_path / "spool", Files())
    with pytest.raises(OSError):
        spool.lock()
    assert (tmp_path / "precious").read_text() == "precious"
    spool.close()


def test_jobs_and_hidden_forms_are_told_apart(spool: Spool) -> None:
    for name in ("b", "a", ".claim-c", ".claim-a", ".taken-x", ".hidden"):
        (spool.path / "new" / name).mkdir()
    assert spool.jobs("new") == ["a", "b"]
    assert spool.hidden("new", ".claim-") == ["a", "c"]


def test_move_takes_the_whole_folder_and_replaces_no_job(spool: Spool) -> None:
    (spool.path / "new/a").mkdir()
    (spool.path / "new/a/file").write_text("content")
    spool.move("a", "new", "active", "a.2")
    assert (spool.path / "active/a.2/file").read_text() == "content"
    assert spool.find("a") is None
    assert spool.find("a.2") == "active"
    (spool.path / "new/a.2").mkdir()
    with pytest.raises(OSError):
        spool.move("a.2", "new", "active")
    assert (spool.path / "active/a.2/file").read_text() == "content"


def test_descriptor_of_a_job_follows_its_folder_and_no_link(spool: Spool, tmp_path: Path) -> None:
    (spool.path / "active/a").mkdir()
    with spool.job("active", "a") as fd:
        spool.move("a", "active", "done")
        spool.files.replace(fd, "file", [b"there"])
    assert (spool.path / "done/a/file").read_bytes() == b"there"
    (spool.path / "active/link").symlink_to(tmp_path)
    with pytest.raises(OSError), spool.job("active", "link"):
        pass


@given(st.text(alphabet=string.ascii_letters + string.digits + "._@+-/ ä\n\0", max_size=110))
def test_valid_names_are_those_of_the_contract_and_clean_ones_are_valid(name: str) -> None:
    allowed = set(string.ascii_letters + string.digits + "._@+-")
    expected = 1 <= len(name) <= 100 and set(name) <= allowed and name[0] not in ".-"
    assert valid_name(name) == expected
    assert valid_name(clean_name(name))
