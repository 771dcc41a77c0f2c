"""The bytes of messages, read from a job's folder as they were taken, or not at all.

A file whose content is no longer what intake hashed is never sent.
"""

import asyncio
import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

from spoold.core.message import MessageFacts, prepare, stuff
from spoold.core.problem import printable
from spoold.smtp.session import BodyError
from spoold.storage.files import NotRegularError
from spoold.storage.record import Message
from spoold.storage.spooldir import Spool

#: A message up to this size is read whole; a larger one is streamed.
WHOLE = 512 * 1024
_CACHE = 16
_LOOKS = 10


class BodyReader:
    """Gives the wire form of messages, dot-stuffed. The last few small ones are kept, for messages with many
    recipients.
    """

    def __init__(self, spool: Spool, threads: ThreadPoolExecutor) -> None:
        self._spool = spool
        self._threads = threads
        self._cache: OrderedDict[int, bytes] = OrderedDict()

    async def body(self, job: str, message: Message) -> bytes | AsyncIterator[bytes]:
        """The message's body for a session. Raises BodyError at once if it cannot be read; a stream may raise it
        later.
        """
        cached = self._cache.get(message.id)
        if cached is not None:
            self._cache.move_to_end(message.id)
            return cached
        loop = asyncio.get_running_loop()
        if message.size > WHOLE:
            return self._stream(job, message)
        whole = await loop.run_in_executor(self._threads, self._read, job, message)
        self._cache[message.id] = whole
        if len(self._cache) > _CACHE:
            self._cache.popitem(last=False)
        return whole

    def _read(self, job: str, message: Message) -> bytes:
        return b"".join(self._pieces(job, message))

    async def _stream(self, job: str, message: Message) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        pieces = self._pieces(job, message)
        try:
            while piece := await loop.run_in_executor(self._threads, next, pieces, b""):
                yield piece
        finally:
            await loop.run_in_executor(self._threads, pieces.close)

    def _open(self, job: str) -> int:
        """The descriptor of a job's folder, which may move between two steps of looking for it."""
        for _ in range(_LOOKS):
            folder = self._spool.find(job, ("active", "deferred"))
            if folder is not None:
                with contextlib.suppress(FileNotFoundError):
                    return self._spool.files.open_directory(self._spool.fd(folder), job)
        raise BodyError(f"the job's folder {job} is missing")

    def _pieces(self, job: str, message: Message) -> Generator[bytes, None, None]:
        digest = hashlib.sha256()
        facts = MessageFacts(message.size, message.eight_bit, message.eight_bit_header, message.added)
        path = tuple(message.path.split("/"))

        def hashed(chunks: Iterator[bytes]) -> Iterator[bytes]:
            for chunk in chunks:
                digest.update(chunk)
                yield chunk

        held: bytes | None = None
        try:
            with self._spool.files.closing(self._open(job)) as root:
                # The last piece waits for the digest, so that a stream ends before its dot when the file was changed.
                for piece in stuff(prepare(hashed(self._spool.files.chunks(root, path)), facts)):
                    if held:
                        yield held
                    held = piece
        except NotRegularError as error:
            raise BodyError(f"{message.path} has become {error} since the job was taken") from None
        except OSError as error:
            raise BodyError(f"{message.path} cannot be read: {error.strerror}") from None
        if digest.digest() != message.sha256:
            raise BodyError(
                f"{printable(message.path)} was changed after the job was taken and is not sent; put the original back"
            )
        if held:
            yield held
