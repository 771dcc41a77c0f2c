"""The bytes of messages, read from a job's folder as they were taken, or not at all.

A file whose content is no longer what intake hashed is never sent. One that is, is: whether it has got another name since,
as a back-up by hard links gives it, says nothing of what is in it.
"""

import asyncio
import contextlib
import hashlib
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

from spoold.core.message.wire import MessageError, prepare, stuff, wire
from spoold.core.problem import printable
from spoold.smtp.session import BodyError
from spoold.storage.entry import NotRegularError
from spoold.storage.kernel import ReadBuffer
from spoold.storage.record import Message
from spoold.storage.spooldir import Spool

#: A message up to this size is read whole; a larger one is streamed.
WHOLE = 512 * 1024
#: Messages with many recipients are read once: so many are kept, and so many bytes of them.
_CACHE = 16
_CACHED = 1024 * 1024
#: Up to this size a message that is in the kernel's memory is read by the event loop itself.
_AT_ONCE = 64 * 1024
#: How many jobs' folders are kept open for that.
_ROOTS = 32
_LOOKS = 10


#: A message on the wire, without the final dot.
Body = bytes | AsyncIterator[bytes]


class BodyReader:
    """Gives the wire form of messages, dot-stuffed. The last few small ones are kept, for messages with many
    recipients.
    """

    def __init__(self, spool: Spool, threads: ThreadPoolExecutor) -> None:
        self._spool = spool
        self._threads = threads
        self._buffer = ReadBuffer(_AT_ONCE)
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._roots: OrderedDict[str, int] = OrderedDict()
        """Descriptors of the folders of the jobs read last; they follow their folder from place to place."""

    async def many(self, wanted: Sequence[tuple[str, Message]]) -> list[Body | Exception]:
        """The bodies of messages, each with its job's name; an exception in the place of one that cannot be read.

        A stream may raise BodyError later.
        """
        bodies: list[Body | Exception | None] = [self._at_once(job, message) for job, message in wanted]
        missing = {
            message.id: (job, message) for (job, message), body in zip(wanted, bodies, strict=True) if body is None
        }
        if not missing:
            return [body for body in bodies if body is not None]
        loop = asyncio.get_running_loop()
        read = await loop.run_in_executor(self._threads, self._read, list(missing.values()))
        for message_id, body in list(read.items())[-_CACHE:]:
            if isinstance(body, bytes):
                self._cache[message_id] = body
        while len(self._cache) > _CACHE or sum(map(len, self._cache.values())) > _CACHED:
            self._cache.popitem(last=False)
        for job in {job for job, _ in missing.values()}:
            await self._keep_root(job)
        return [read[message.id] if body is None else body for (_, message), body in zip(wanted, bodies, strict=True)]

    def _at_once(self, job: str, message: Message) -> Body | None:
        """A body for which nobody has to wait: kept here, in the kernel's memory, or read as it is sent."""
        if message.size > WHOLE:
            return self._stream(job, message)
        if (cached := self._cache.get(message.id)) is not None:
            self._cache.move_to_end(message.id)
            return cached
        if (root := self._roots.get(job)) is None:
            return None
        content = self._spool.files.read_at_once(root, message.path, self._buffer)
        if content is None or hashlib.sha256(content).digest() != message.sha256:
            return None
        return wire(content, message.added)

    async def _keep_root(self, job: str) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError, BodyError):
            root = await loop.run_in_executor(self._threads, self._open, job)
            if (old := self._roots.pop(job, None)) is not None:
                os.close(old)
            self._roots[job] = root
        while len(self._roots) > _ROOTS:
            os.close(self._roots.popitem(last=False)[1])

    def _read(self, wanted: Sequence[tuple[str, Message]]) -> dict[int, bytes | Exception]:
        """Small messages by their ids; those of one folder share its descriptor."""
        found: dict[int, bytes | Exception] = {}
        files = self._spool.files
        for (job, folder), messages in groupby(wanted, key=lambda each: (each[0], _parent(each[1]))):
            group = [message for _, message in messages]
            try:
                with files.closing(self._open(job)) as root, files.directory(root, folder) as parent:
                    for message in group:
                        found[message.id] = self._whole(parent, message)
            except BodyError as error:
                found.update({message.id: error for message in group})
            except OSError as error:
                found.update({message.id: _unreadable(message, error) for message in group if message.id not in found})
        return found

    def _whole(self, parent: int, message: Message) -> bytes | Exception:
        name = message.path.rpartition("/")[2]
        try:
            content = b"".join(self._spool.files.chunks(parent, (name,), known=True))
            if hashlib.sha256(content).digest() != message.sha256:
                return _changed(message)
            return wire(content, message.added)
        except NotRegularError as error:
            return _not_regular(message, error)
        except OSError as error:
            return _unreadable(message, error)
        except Exception as error:  # noqa: BLE001 - one message's, whatever it is
            return error

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
        path = tuple(message.path.split("/"))

        def hashed(chunks: Iterator[bytes]) -> Iterator[bytes]:
            for chunk in chunks:
                digest.update(chunk)
                yield chunk

        held: bytes | None = None
        try:
            with self._spool.files.closing(self._open(job)) as root:
                # The last piece waits for the digest, so that a stream ends before its dot when the file was changed.
                for piece in stuff(prepare(hashed(self._spool.files.chunks(root, path, known=True)), message.added)):
                    if held:
                        yield held
                    held = piece
        except NotRegularError as error:
            raise _not_regular(message, error) from None
        except MessageError:  # it was none when it was taken
            raise _changed(message) from None
        except OSError as error:
            raise _unreadable(message, error) from None
        if digest.digest() != message.sha256:
            raise _changed(message)
        if held:
            yield held


def _parent(message: Message) -> tuple[str, ...]:
    return tuple(message.path.split("/")[:-1])


def _not_regular(message: Message, error: NotRegularError) -> BodyError:
    return BodyError(f"{message.path} has become {error} since the job was taken")


def _unreadable(message: Message, error: OSError) -> BodyError:
    return BodyError(f"{message.path} cannot be read: {error.strerror}")


def _changed(message: Message) -> BodyError:
    path = printable(message.path)
    return BodyError(f"{path} was changed after the job was taken and is not sent; put the original back")
