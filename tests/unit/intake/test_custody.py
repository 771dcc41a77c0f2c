"""Custody an upload out of its sender's hands, and giving it back, whatever was in between."""

import hashlib
import itertools
import os
from pathlib import Path

import pytest

from spoold.intake.claim import claim, give_back, make_way, remove_rest, set_aside
from spoold.intake.custody import ChangedError, Taken, content_digest, digest, leave, secure, take
from spoold.intake.time_limit import OvertimeError, TimeLimit
from spoold.storage.entry import Entry
from spoold.storage.entry import Path as Names
from spoold.storage.files import Files
from spoold.storage.spooldir import Spool, plain_name
from tests.servers.upload import read, write

JOB = {"job.yaml": b"sender: a@b.example\n", "message.eml": b"Subject: x\n\nx\n", "messages/deep/1.eml": b"one"}


class Scripted(Files):
    """Real files; the rename of `fail_rename` fails once, and files in `changed` are overwritten as they are opened."""

    def __init__(self) -> None:
        self.fail_rename: str | None = None
        self.changed: dict[str, bytes] = {}

    def rename(self, from_fd: int, name: str, to_fd: int, new_name: str) -> None:
        if name == self.fail_rename:
            self.fail_rename = None
            raise OSError(5, "Input/output error")
        super().rename(from_fd, name, to_fd, new_name)

    def open_file(self, root: int, path: Names, *, known: bool = False) -> int:
        if path[-1] in self.changed:
            data = self.changed.pop(path[-1])
            with self.directory(root, path[:-1]) as parent:
                fd = os.open(path[-1], os.O_WRONLY | os.O_TRUNC, dir_fd=parent)
            os.write(fd, data)
            os.close(fd)
        return super().open_file(root, path, known=known)


@pytest.fixture
def files() -> Scripted:
    return Scripted()


def _upload(spool: Spool, name: str = "job", content: dict[str, bytes] | None = None) -> Path:
    return write(spool.path / "new" / name, JOB if content is None else content)


def _look(spool: Spool, name: str = "job") -> list[Entry]:
    with spool.job("new", name) as root:
        return spool.files.walk(root, max_entries=1000, max_depth=20)


def _take(spool: Spool, name: str = "job", *, owner: int | None = None) -> Taken:
    entries = _look(spool, name)
    claim(spool, name)
    make_way(spool, name, entries)
    taking = take(spool, name, entries, os.geteuid() if owner is None else owner)
    secure(spool, [taking])
    return digest(spool, taking)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_upload_is_taken_whole_with_its_hashes(spool: Spool) -> None:
    folder = _upload(spool)
    inodes = {name: (folder / name).stat().st_ino for name in JOB}
    taken = _take(spool)
    there = spool.path / "active" / ".take-job"
    assert read(there) == JOB
    assert {name: (there / name).stat().st_ino for name in JOB} == inodes, "moved, not copied"
    assert taken.hashes == {name: hashlib.sha256(data).digest() for name, data in JOB.items()}
    assert taken.digest == content_digest(taken.hashes)
    assert _names(spool.path / "new") == [".claim-job"]
    assert read(spool.path / "new" / ".claim-job") == {}
    set_aside(spool, "job", "job")
    remove_rest(spool, "job")
    assert _names(spool.path / "new") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_upload_of_another_owner_is_copied(spool: Spool) -> None:
    folder = _upload(spool)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 12345, 12345)
    taken = _take(spool, owner=12345)
    there = spool.path / "active" / ".take-job"
    assert read(there) == JOB
    assert taken.hashes == {name: hashlib.sha256(data).digest() for name, data in JOB.items()}
    assert {path.stat().st_uid for path in there.rglob("*")} == {0}
    assert read(spool.path / "new" / ".claim-job") == JOB


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_copy_that_takes_too_long_leaves_nothing_and_goes_back_whole(spool: Spool) -> None:
    folder = _upload(spool)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 12345, 12345)
    entries = _look(spool)
    claim(spool, "job")
    make_way(spool, "job", entries)
    ticks = itertools.count()
    time_limit = TimeLimit(lambda: float(next(ticks)))
    with time_limit.within(4.0), pytest.raises(OvertimeError, match=r"^reading it took longer than 4 s"):
        take(spool, "job", entries, 12345, time_limit=time_limit)
    assert read(spool.path / "active" / ".take-job")
    leave(spool, "job")
    assert _names(spool.path / "active" / ".take-job") == []
    assert give_back(spool, "job") == "job"
    assert read(spool.path / "new" / "job") == JOB


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_file_of_a_third_owner_is_refused_and_given_back(spool: Spool) -> None:
    os.chown(_upload(spool) / "message.eml", 12345, 12345)
    with pytest.raises(ChangedError, match=r"^message\.eml belongs to another user than the folder$"):
        _take(spool)
    assert give_back(spool, "job") == "job"
    assert read(spool.path / "new" / "job") == JOB


def test_report_ready_and_rests_of_transfers_are_left_behind(spool: Spool) -> None:
    rest = {"report/status.json": b"{}", "READY": b"", ".message.eml.Ab3dE9": b"half", "messages/.1.eml.aaaaaa": b"x"}
    _upload(spool, content={**JOB, **rest, "HOLD": b"", ".note": b"mine", "letter.part": b"a name like any other"})
    _take(spool)
    kept = {"HOLD": b"", ".note": b"mine", "letter.part": b"a name like any other"}
    assert read(spool.path / "active" / ".take-job") == {**JOB, **kept}


@pytest.mark.parametrize("own", [True, False])
def test_file_that_changed_since_the_look_gives_the_whole_back(spool: Spool, own: bool) -> None:
    folder = _upload(spool)
    entries = _look(spool)
    (folder / "message.eml").write_bytes(b"Subject: other\n\nlonger than before\n")
    claim(spool, "job")
    uid = os.geteuid() if own else os.geteuid() + 1
    entries = [Entry(e.name, e.kind, e.size, e.mtime_ns, e.ctime_ns, e.inode, uid) for e in entries]
    make_way(spool, "job", entries)
    with pytest.raises(ChangedError, match=r"^message\.eml changed while the upload was being taken$"):
        take(spool, "job", entries, uid)
    assert give_back(spool, "job") == "job"
    assert read(spool.path / "new" / "job") == {**JOB, "message.eml": b"Subject: other\n\nlonger than before\n"}
    assert _names(spool.path / "active") == []


def test_file_that_changes_while_it_is_copied_is_noticed(spool: Spool, files: Scripted) -> None:
    _upload(spool)
    uid = os.geteuid() + 1
    entries = [Entry(e.name, e.kind, e.size, e.mtime_ns, e.ctime_ns, e.inode, uid) for e in _look(spool)]
    claim(spool, "job")
    files.changed = {"message.eml": b"Subject: x\n\nsomething else entirely\n"}
    make_way(spool, "job", entries)
    with pytest.raises(ChangedError, match=r"^message\.eml changed"):
        take(spool, "job", entries, uid)


@pytest.mark.parametrize("failing", ["job.yaml", "message.eml", "1.eml"])
def test_failure_at_any_file_gives_the_whole_back(spool: Spool, files: Scripted, failing: str) -> None:
    _upload(spool)
    entries = _look(spool)
    claim(spool, "job")
    files.fail_rename = failing
    make_way(spool, "job", entries)
    with pytest.raises(OSError, match="Input/output error"):
        take(spool, "job", entries, os.geteuid())
    assert give_back(spool, "job") == "job"
    assert read(spool.path / "new" / "job") == JOB
    assert _names(spool.path / "active") == []
    assert _names(spool.path / "new") == ["job"]


def test_upload_given_back_does_not_replace_one_that_came_meanwhile(spool: Spool) -> None:
    _upload(spool)
    _take(spool)
    later = {"job.yaml": b"sender: later@b.example\n"}
    _upload(spool, content=later)
    assert give_back(spool, "job") == "job.2"
    assert read(spool.path / "new" / "job.2") == JOB
    assert read(spool.path / "new" / "job") == later


def test_what_was_written_into_the_claimed_folder_wins_over_what_was_taken(spool: Spool) -> None:
    _upload(spool)
    _take(spool)
    # A late writer, whose folder it still is: the newer bytes are those of the upload.
    (spool.path / "new" / ".claim-job" / "message.eml").write_bytes(b"new")
    assert give_back(spool, "job") == "job"
    assert read(spool.path / "new" / "job") == {**JOB, "message.eml": b"new"}


def test_long_name_is_claimed_too(spool: Spool) -> None:
    name = "ß" * 127
    _upload(spool, name)
    entries = _look(spool, name)
    key = claim(spool, name)
    make_way(spool, key, entries)
    take(spool, key, entries, os.geteuid())
    assert read(spool.path / "active" / f".take-{key}") == JOB
    assert give_back(spool, key) == key
    assert read(spool.path / "new" / key) == JOB


@pytest.mark.parametrize("planted", ["folder", "file"])
def test_claim_that_is_in_the_way_hinders_nobody_and_is_left_alone(spool: Spool, planted: str) -> None:
    _upload(spool)
    other = spool.path / "new" / ".claim-job"
    if planted == "folder":
        other.mkdir()
        (other / "x").touch()
    else:
        other.touch()
    key = claim(spool, "job")
    assert key != "job"
    assert plain_name(key) == "job"
    assert read(spool.path / "new" / f".claim-{key}") == JOB
    assert other.exists()
    assert give_back(spool, key) == "job"
    assert read(spool.path / "new" / "job") == JOB


def test_symlinks_in_a_claimed_folder_are_not_followed_when_it_is_removed(spool: Spool, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    folder = _upload(spool)
    (folder / "link").symlink_to(outside)
    (folder / "precious").symlink_to(outside / "precious")
    _take(spool)
    assert not (spool.path / "active" / ".take-job" / "link").is_symlink()
    set_aside(spool, "job", "job")
    remove_rest(spool, "job")
    assert (outside / "precious").read_text() == "x"
    assert _names(spool.path / "new") == []


def test_digest_names_content_alone() -> None:
    def digest(**hashes: bytes) -> bytes:
        return content_digest({name.replace("_", "."): value for name, value in hashes.items()})

    a, b = b"a" * 32, b"b" * 32
    plain = digest(job_yaml=a, message_eml=b)
    assert plain == digest(message_eml=b, job_yaml=a)
    assert plain != digest(job_yaml=b, message_eml=a)
    assert plain != digest(job_yaml=a)
    assert plain != digest(job_yaml=a, message_eml=b, list_pdf=a)
    base = {"job.yaml": a, "message.eml": b}
    for name in ("READY", "HOLD", "CANCEL", "RETRY", "SHA256SUMS", "report/status.json", ".a.Ab3dE9", "messages/.x"):
        assert content_digest({**base, name: a}) == plain, name
    # Where one name ends and the other begins is part of it.
    assert content_digest({"ab": a}) != content_digest({"a": b"b" + a[:31]})
