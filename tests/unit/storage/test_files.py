"""Files: no symbolic link is ever followed, nothing hangs, and what is replaced is replaced whole."""

import errno
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from spoold.storage.entry import Kind, NotRegularError, TreeTooLargeError
from spoold.storage.files import Files
from spoold.storage.kernel import ReadBuffer


@pytest.fixture
def files() -> Files:
    return Files()


@pytest.fixture
def root(tmp_path: Path, files: Files) -> Iterator[int]:
    """The descriptor of a job's folder, `tmp_path/job`; what is beside it is out of bounds."""
    (tmp_path / "job").mkdir()
    (tmp_path / "secret").write_text("secret")
    with files.closing(files.open_directory(None, str(tmp_path / "job"))) as fd:
        yield fd


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def descriptors() -> list[str]:
    return os.listdir("/proc/self/fd")


def test_file_is_read_in_pieces_through_real_folders(tmp_path: Path, files: Files, root: int) -> None:
    (tmp_path / "job/a/b").mkdir(parents=True)
    (tmp_path / "job/a/b/c").write_bytes(b"12345")
    assert list(files.chunks(root, ("a", "b", "c"), 2)) == [b"12", b"34", b"5"]
    assert files.read_small(root, ("a", "b", "c"), 3) == b"123"


def test_symbolic_link_in_place_of_a_file_is_refused(tmp_path: Path, files: Files, root: int) -> None:
    (tmp_path / "job/message").symlink_to(tmp_path / "secret")
    with pytest.raises(NotRegularError) as caught:
        files.open_file(root, ("message",))
    assert caught.value.kind is Kind.SYMLINK


@pytest.mark.parametrize("operation", ["open_file", "sync_file", "chunks"])
def test_symbolic_link_on_the_way_is_refused_and_leaves_no_descriptor_open(
    tmp_path: Path, files: Files, root: int, operation: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_text("secret")
    (tmp_path / "job/real").mkdir()
    (tmp_path / "job/real/link").symlink_to(tmp_path / "elsewhere")
    before = descriptors()
    with pytest.raises(OSError) as caught:
        list(getattr(files, operation)(root, ("real", "link", "file")) or ())
    assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)
    assert descriptors() == before
    assert files.stat(root, ("real", "link", "file")) is None


def test_parent_folder_as_a_name_is_no_way_out_by_a_link(tmp_path: Path, files: Files, root: int) -> None:
    (tmp_path / "job/up").symlink_to("..")
    with pytest.raises(OSError):
        files.open_file(root, ("up", "secret"))


def test_hard_link_is_refused(tmp_path: Path, files: Files, root: int) -> None:
    os.link(tmp_path / "secret", tmp_path / "job/message")
    before = descriptors()
    with pytest.raises(NotRegularError) as caught:
        files.open_file(root, ("message",))
    assert caught.value.kind is Kind.HARD_LINK
    assert descriptors() == before


@pytest.mark.timeout(10)
def test_fifo_is_refused_without_waiting_for_a_writer(tmp_path: Path, files: Files, root: int) -> None:
    os.mkfifo(tmp_path / "job/message")
    before = descriptors()
    with pytest.raises(NotRegularError) as caught:
        files.open_file(root, ("message",))
    assert caught.value.kind is Kind.FIFO
    assert descriptors() == before


def test_socket_and_directory_are_refused_by_kind(files: Files) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="s") as folder,  # a socket's path must be short
        socket.socket(socket.AF_UNIX) as server,
        files.closing(files.open_directory(None, folder)) as root,
    ):
        server.bind(f"{folder}/socket")
        Path(folder, "directory").mkdir()
        for name, kind in (("socket", Kind.SOCKET), ("directory", Kind.DIRECTORY)):
            with pytest.raises(NotRegularError) as caught:
                files.open_file(root, (name,))
            assert caught.value.kind is kind
            assert files.stat(root, (name,)).kind is kind  # type: ignore[union-attr]


def test_walk_tells_every_kind_and_enters_no_link(tmp_path: Path, files: Files, root: int) -> None:
    job = tmp_path / "job"
    (job / "sub").mkdir()
    (job / "sub/file").write_bytes(b"123")
    (job / "out").symlink_to(tmp_path)
    (job / "broken").symlink_to("nowhere")
    os.mkfifo(job / "fifo")
    os.link(tmp_path / "secret", job / "hard")
    (job / "report").mkdir()
    (job / "report/status.json").write_text("{}")
    found = files.walk(root, max_entries=100, max_depth=5, skip=frozenset({"report"}))
    assert {entry.name: entry.kind for entry in found} == {
        "sub": Kind.DIRECTORY, "sub/file": Kind.FILE, "out": Kind.SYMLINK, "broken": Kind.SYMLINK, "fifo": Kind.FIFO,
        "hard": Kind.HARD_LINK,
    }  # fmt: skip
    assert next(entry.size for entry in found if entry.name == "sub/file") == 3


def test_walk_ends_at_its_limits_and_leaves_no_descriptor_open(tmp_path: Path, files: Files, root: int) -> None:
    deep = tmp_path / "job"
    for level in range(6):
        deep = deep / f"{level}"
        deep.mkdir()
    before = descriptors()
    with pytest.raises(TreeTooLargeError, match="5 folders deep"):
        files.walk(root, max_entries=100, max_depth=5)
    with pytest.raises(TreeTooLargeError, match="more than 5 files"):
        files.walk(root, max_entries=5, max_depth=50)
    assert len(files.walk(root, max_entries=6, max_depth=7)) == 6
    assert descriptors() == before


def test_fingerprint_stays_over_a_rename_and_changes_with_the_content(tmp_path: Path, files: Files, root: int) -> None:
    (tmp_path / "job/a").write_bytes(b"1")
    before = files.stat(root, ("a",))
    files.rename(root, "a", root, "b")
    after = files.stat(root, ("b",))
    assert before is not None
    assert after is not None
    assert after.fingerprint == before.fingerprint
    (tmp_path / "job/b").write_bytes(b"22")
    assert files.stat(root, ("b",)).fingerprint != before.fingerprint  # type: ignore[union-attr]


# --- writing ----------------------------------------------------------------------------------------------------------


def test_replaced_file_is_the_old_one_until_it_is_the_new_one(tmp_path: Path, files: Files, root: int) -> None:
    target = tmp_path / "job/status.json"
    target.write_bytes(b"old")

    def content() -> Iterator[bytes]:
        yield b"ne"
        assert target.read_bytes() == b"old"
        yield b"w"

    with target.open("rb") as reader:
        assert files.replace(root, "status.json", content(), durable=True) == 3
        assert reader.read() == b"old"
    assert target.read_bytes() == b"new"
    assert names(tmp_path / "job") == ["status.json"]


class Broken(Files):
    """One operation fails as on a full disk."""

    def __init__(self, operation: str) -> None:
        setattr(self, operation, self.fail)

    def fail(self, *_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("operation", ["create", "write", "sync", "rename"])
def test_failed_replacement_leaves_the_old_file_and_nothing_else(tmp_path: Path, root: int, operation: str) -> None:
    (tmp_path / "job/status.json").write_bytes(b"old")
    before = descriptors()
    with pytest.raises(OSError, match="No space left"):
        Broken(operation).replace(root, "status.json", [b"new"], durable=True)
    assert (tmp_path / "job/status.json").read_bytes() == b"old"
    assert names(tmp_path / "job") == ["status.json"]
    assert descriptors() == before


def test_content_that_cannot_be_made_leaves_the_old_file(tmp_path: Path, files: Files, root: int) -> None:
    (tmp_path / "job/status.json").write_bytes(b"old")

    def content() -> Iterator[bytes]:
        yield b"half"
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        files.replace(root, "status.json", content())
    assert (tmp_path / "job/status.json").read_bytes() == b"old"
    assert names(tmp_path / "job") == ["status.json"]


def test_replacing_writes_through_no_link_laid_in_its_way(tmp_path: Path, files: Files, root: int) -> None:
    for name in ("status.json", ".status.json.tmp"):
        (tmp_path / "job" / name).symlink_to(tmp_path / "secret")
    files.replace(root, "status.json", [b"new"])
    assert (tmp_path / "secret").read_text() == "secret"
    assert not (tmp_path / "job/status.json").is_symlink()
    assert (tmp_path / "job/status.json").read_bytes() == b"new"


def test_new_file_replaces_nothing_and_follows_nothing(tmp_path: Path, files: Files, root: int) -> None:
    (tmp_path / "job/link").symlink_to(tmp_path / "new-secret")
    with pytest.raises(FileExistsError):
        files.create(root, "link")
    assert not (tmp_path / "new-secret").exists()


def test_appending_cuts_a_torn_tail_and_refuses_a_shorter_file(tmp_path: Path, files: Files, root: int) -> None:
    path = tmp_path / "job/attempts.jsonl"
    path.write_bytes(b"one\ntw")
    with files.closing(files.open_append(root, "attempts.jsonl", 4)) as fd:
        files.write(fd, b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"
    before = descriptors()
    with pytest.raises(OSError) as caught:
        files.open_append(root, "attempts.jsonl", 9)
    assert caught.value.errno == errno.ESTALE
    assert path.read_bytes() == b"one\ntwo\n"
    assert descriptors() == before


def test_appending_follows_no_link(tmp_path: Path, files: Files, root: int) -> None:
    (tmp_path / "job/attempts.jsonl").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError) as caught:
        files.open_append(root, "attempts.jsonl", 0)
    assert caught.value.errno == errno.ELOOP
    assert (tmp_path / "secret").read_text() == "secret"


# --- removing ---------------------------------------------------------------------------------------------------------


def test_removed_tree_takes_nothing_with_it_that_its_links_point_to(tmp_path: Path, files: Files, root: int) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_text("stays")
    tree = tmp_path / "job/tree"
    (tree / "a/b").mkdir(parents=True)
    (tree / "a/b/file").write_text("goes")
    (tree / "a/folder-link").symlink_to(tmp_path / "elsewhere")
    (tree / "file-link").symlink_to(tmp_path / "secret")
    os.link(tmp_path / "secret", tree / "hard")
    os.mkfifo(tree / "fifo")
    before = descriptors()
    files.remove_tree(root, "tree")
    assert names(tmp_path / "job") == []
    assert (tmp_path / "elsewhere/file").read_text() == "stays"
    assert (tmp_path / "secret").read_text() == "secret"
    assert descriptors() == before


def test_removing_a_link_a_file_or_nothing_is_no_error(tmp_path: Path, files: Files, root: int) -> None:
    (tmp_path / "job/link").symlink_to(tmp_path)
    (tmp_path / "job/file").write_text("goes")
    for name in ("link", "file", "nothing"):
        files.remove_tree(root, name)
    assert names(tmp_path / "job") == []
    assert (tmp_path / "secret").exists()


def test_reading_at_once_gives_small_regular_files_and_nothing_else(tmp_path: Path) -> None:
    files = Files()
    folder = tmp_path / "job"
    (folder / "messages").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"canary")
    (folder / "messages/1.eml").write_bytes(b"one")
    (folder / "empty").touch()
    (folder / "link").symlink_to("messages/1.eml")
    (folder / "folder").symlink_to("messages")
    (folder / "out").symlink_to("../secret")
    (folder / "messages/2.eml").write_bytes(b"two")
    os.mkfifo(folder / "fifo")
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        opened = len(os.listdir("/proc/self/fd"))
        if files.read_at_once(root, "messages/2.eml", ReadBuffer(99)) is None:
            pytest.skip("this kernel or file system has no openat2 with RESOLVE_CACHED")
        assert files.read_at_once(root, "messages/2.eml", ReadBuffer(3)) == b"two"
        assert files.read_at_once(root, "messages/2.eml", ReadBuffer(2)) is None
        wrong = ["empty", "link", "folder/2.eml", "out", "fifo", "messages", "none"]
        wrong += ["../secret", "messages/../../secret"]
        assert [files.read_at_once(root, name, ReadBuffer(99)) for name in wrong] == [None] * len(wrong)
        assert len(os.listdir("/proc/self/fd")) == opened
    finally:
        os.close(root)
