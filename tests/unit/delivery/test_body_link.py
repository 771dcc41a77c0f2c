"""A message that got a second name after it was taken, as by a back-up made of links: it is what was taken, and is sent."""

import os
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from spoold.delivery.body import WHOLE, BodyReader
from spoold.smtp.session import BodyError
from spoold.storage.files import Files
from spoold.storage.spooldir import Spool
from tests.unit.delivery.test_body import TEXT, lay_out


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


async def _read(reader: BodyReader, message: object) -> bytes | Exception:
    (body,) = await reader.many([("job", message)])  # type: ignore[list-item]
    if not isinstance(body, AsyncIterator):
        return body
    try:
        return b"".join([piece async for piece in body])
    except BodyError as error:
        return error


@pytest.mark.parametrize("size", [0, WHOLE + 1000])
async def test_message_with_a_second_name_is_sent_the_slow_way_as_the_fast(
    tmp_path: Path, threads: ThreadPoolExecutor, size: int
) -> None:
    message = lay_out(tmp_path, "active", TEXT + b"line\n" * (size // 5))
    os.link(tmp_path / "active/job/message.eml", tmp_path / "backup")
    spool = Spool(tmp_path, Files())
    reader = BodyReader(spool, threads)
    slow = await _read(reader, message)
    assert isinstance(slow, bytes)
    assert b"..dot\r\n" in slow
    reader._cache.clear()
    assert await _read(reader, message) == slow
    with (tmp_path / "backup").open("r+b") as file:
        file.write(b"X")
    reader._cache.clear()
    assert "was changed after the job was taken" in str(await _read(reader, message))
    (tmp_path / "active/job/message.eml").unlink()
    (tmp_path / "active/job/message.eml").symlink_to(tmp_path / "backup")
    reader._cache.clear()
    assert "a symbolic link" in str(await _read(reader, message))
    spool.close()
