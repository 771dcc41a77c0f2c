"""A message gets one answer, by whichever way it is read: at once out of the kernel's memory, whole, or as a stream."""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from spoold.core.message.wire import scan
from spoold.delivery.body import WHOLE, BodyReader
from spoold.smtp.session import BodyError
from spoold.storage.files import Files
from spoold.storage.record import Message
from spoold.storage.spooldir import Spool

TEXT = b"From: a@x.example\nDate: x\nMessage-ID: <1@x.example>\n\nHello\n"
WAYS = ("at once", "whole", "stream")


class Slow(Files):
    """Nothing is in the kernel's memory."""

    def read_at_once(self, *_: object) -> None:
        return None


class Counting(Files):
    """Counts what was read at once."""

    at_once = 0

    def read_at_once(self, *arguments: object) -> bytes | None:
        found = super().read_at_once(*arguments)  # type: ignore[arg-type]
        self.at_once += found is not None
        return found


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def lay_out(root: Path, way: str) -> tuple[Path, list[Message]]:
    """A job of two messages, the second of which is read as `way` says; its file."""
    Spool.create(root)
    job = root / "active/job"
    (job / "messages").mkdir(parents=True)
    messages = []
    for number in (1, 2):
        content = TEXT.replace(b"Hello", b"Hello %d" % number)
        if way == "stream":
            content += b"0123456\n" * (WHOLE // 8 + 1)
        (job / f"messages/{number}.eml").write_bytes(content)
        facts = scan([content], name="m", date="x", message_id="<x@x>")
        sha256 = hashlib.sha256(content).digest()
        messages.append(Message(number, f"messages/{number}.eml", sha256, facts.size, False, False, facts.added))
    return job / "messages/2.eml", messages


async def whole(reader: BodyReader, message: Message) -> bytes:
    (body,) = await reader.many([("job", message)])
    if isinstance(body, Exception):
        raise body
    return body if isinstance(body, bytes) else b"".join([piece async for piece in body])


async def read(root: Path, way: str, messages: list[Message], threads: ThreadPoolExecutor) -> bytes:
    """The second message, after the first one, of which the reader keeps the folder."""
    files = Slow() if way == "whole" else Counting()
    spool = Spool(root, files)
    try:
        reader = BodyReader(spool, threads)
        await whole(reader, messages[0])
        return await whole(reader, messages[1])
    finally:
        spool.close()
        assert way != "at once" or files.at_once  # type: ignore[union-attr]


@pytest.mark.parametrize("way", WAYS)
async def test_a_message_with_another_name_is_what_was_taken(
    tmp_path: Path, threads: ThreadPoolExecutor, way: str
) -> None:
    path, messages = lay_out(tmp_path / "spool", way)
    os.link(path, tmp_path / "backup.eml")
    body = await read(tmp_path / "spool", way, messages, threads)
    assert b"Hello 2\r\n" in body
    # The other name may go as well as come.
    (tmp_path / "backup.eml").unlink()
    assert await read(tmp_path / "spool", way, messages, threads) == body


def _rewrite(path: Path) -> None:
    """The same size and time: only the content tells."""
    times = path.stat()
    path.write_bytes(path.read_bytes().replace(b"Hello", b"Howdy"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _replace(path: Path) -> None:
    path.with_name("new").write_bytes(path.read_bytes().replace(b"Hello", b"Howdy"))
    path.with_name("new").rename(path)


def _link(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes().replace(b"Hello", b"Howdy"))
    path.unlink()
    os.link(other, path)


def _symlink(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def _folder_symlink(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.symlink_to("moved")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "rewritten": (_rewrite, "was changed after the job was taken"),
    "replaced": (_replace, "was changed after the job was taken"),
    "cut": (lambda path: os.truncate(path, 10), "was changed after the job was taken"),
    "emptied": (lambda path: os.truncate(path, 0), "was changed after the job was taken"),
    "another's second name": (_link, "was changed after the job was taken"),
    "a symbolic link": (_symlink, "has become a symbolic link since the job was taken"),
    "in a folder that is a symbolic link": (_folder_symlink, "cannot be read"),
    "a FIFO": (_fifo, "has become a FIFO since the job was taken"),
    "gone": (Path.unlink, "cannot be read: No such file or directory"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("change", CHANGES)
async def test_a_message_that_is_not_what_was_taken_is_not_sent(
    tmp_path: Path, threads: ThreadPoolExecutor, way: str, change: str
) -> None:
    path, messages = lay_out(tmp_path / "spool", way)
    spool = Spool(tmp_path / "spool", Slow() if way == "whole" else Files())
    reader = BodyReader(spool, threads)
    await whole(reader, messages[0])
    do, said = CHANGES[change]
    do(path)
    with pytest.raises(BodyError, match=said):
        await whole(reader, messages[1])
    spool.close()
