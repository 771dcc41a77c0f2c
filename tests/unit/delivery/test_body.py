"""The bytes of messages, out of folders that move while they are looked for."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from spoold.core.message.wire import scan
from spoold.delivery.body import WHOLE, BodyReader
from spoold.smtp.session import BodyError
from spoold.storage.entry import Entry
from spoold.storage.files import Files
from spoold.storage.record import Message
from spoold.storage.spooldir import Spool

TEXT = b"From: a@x.example\nDate: x\nMessage-ID: <1@x.example>\n\n.dot\n"


class Restless(Files):
    """Before and after its n-th look for the job, the job is moved to these folders."""

    def __init__(self, spool: Path, moves: dict[int, str]) -> None:
        self._spool = spool
        self._moves = moves
        self.looks = 0

    def stat(self, root: int, path: tuple[str, ...]) -> Entry | None:
        found = super().stat(root, path)
        if path == ("job",):
            self.looks += 1
            target = self._moves.get(self.looks)
            if target is not None:
                (place,) = self._spool.glob("*/job")
                place.rename(self._spool / target / "job")
        return found


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def lay_out(root: Path, folder: str, content: bytes = TEXT) -> Message:
    Spool.create(root)
    (root / folder / "job").mkdir()
    (root / folder / "job" / "message.eml").write_bytes(content)
    facts = scan([content], name="message.eml", date="x", message_id="<x@x>")
    return Message(1, "message.eml", hashlib.sha256(content).digest(), facts.size, False, False, facts.added)


@pytest.mark.parametrize(
    ("begins", "moves"),
    [
        ("deferred", {1: "active"}),
        ("active", {1: "deferred"}),
        ("deferred", {2: "active"}),
        ("deferred", {1: "active", 2: "deferred", 3: "active"}),
    ],
    ids=["between the looks", "behind the look", "before it is opened", "to and fro"],
)
async def test_a_job_that_changes_folder_while_its_message_is_opened_is_not_missing(
    tmp_path: Path, threads: ThreadPoolExecutor, begins: str, moves: dict[int, str]
) -> None:
    message = lay_out(tmp_path / "spool", begins)
    files = Restless(tmp_path / "spool", moves)
    spool = Spool(tmp_path / "spool", files)
    (body,) = await BodyReader(spool, threads).many([("job", message)])
    assert body == TEXT.replace(b"\n", b"\r\n").replace(b"\r\n.dot", b"\r\n..dot")
    assert files.looks > max(moves)
    spool.close()


async def test_a_job_whose_folder_is_gone_says_so(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    message = lay_out(tmp_path / "spool", "done")
    spool = Spool(tmp_path / "spool", Files())
    (body,) = await BodyReader(spool, threads).many([("job", message)])
    assert isinstance(body, BodyError)
    assert str(body) == "the job's folder job is missing"
    spool.close()


@pytest.mark.parametrize("size", [0, 2 * WHOLE], ids=["read whole", "streamed"])
async def test_a_message_that_was_changed_since_is_never_given_to_its_end(
    tmp_path: Path, threads: ThreadPoolExecutor, size: int
) -> None:
    content = TEXT + b"0123456\n" * (size // 8)
    message = lay_out(tmp_path / "spool", "active", content)
    changed = content.replace(b"dot", b"dog")
    (tmp_path / "spool/active/job/message.eml").write_bytes(changed)
    spool = Spool(tmp_path / "spool", Files())
    given: list[bytes] = []

    async def read() -> None:
        (body,) = await BodyReader(spool, threads).many([("job", message)])
        if isinstance(body, Exception):
            raise body
        assert not isinstance(body, bytes)
        async for piece in body:
            given.append(piece)

    with pytest.raises(BodyError, match="was changed after the job was taken"):
        await read()
    assert sum(map(len, given)) < message.size
    spool.close()
