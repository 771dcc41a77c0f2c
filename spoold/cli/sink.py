"""Where log lines go: one thread writes them to standard error, and nobody waits for it.

No work depends on the log. A line for which there is no room, and one that cannot be written (a closed pipe, a full disk, a terminal
that is gone, a pipe that nobody reads), is dropped and counted. The order stays; a line is written whole, or what there is of it is
ended before the next one.
"""

import atexit
import io
import os
import select
import threading
from collections import deque
from collections.abc import Callable

#: Bytes that may wait to be written.
_ROOM = 1 << 20
#: So many bytes are written to a pipe as one (pipe(7)), so that lines of several processes do not mix.
_AT_ONCE = select.PIPE_BUF
#: How long one look takes, in seconds, at a descriptor that is full and does not block.
_LOOK = 1.0
#: How long the end waits for the last lines, in seconds.
LAST_LINES = 2.0


class Sink:
    """Lines for the descriptor `fd`. `recovered` is told, in the thread that writes, how many lines were lost once one could be
    written again. For any thread."""

    def __init__(self, fd: int, recovered: Callable[[int], None] = lambda _: None) -> None:
        self._fd = fd
        self._recovered = recovered
        self._lines: deque[bytes] = deque()
        self._waiting = 0
        self._dropped = 0
        self._told = 0
        self._torn = False
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="log", daemon=True).start()
        atexit.register(self.flush, LAST_LINES)

    @property
    def dropped(self) -> int:
        """How many lines were dropped since the start."""
        return self._dropped

    def write(self, line: bytes) -> None:
        """Take a line with its end, or drop it; never waits for whoever reads, and raises nothing."""
        with self._changed:
            if self._waiting and self._waiting + len(line) > _ROOM:
                self._dropped += 1
                return
            self._lines.append(line)
            self._waiting += len(line)
            self._changed.notify_all()

    def flush(self, within: float) -> bool:
        """Wait until all lines are written or dropped, for at most `within` seconds; returns whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, within)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                lines = [self._lines.popleft()]
                size = len(lines[0])
                while self._lines and size + len(self._lines[0]) <= _AT_ONCE:
                    lines.append(self._lines.popleft())
                    size += len(lines[-1])
            lost = self._put(b"".join(lines))
            with self._changed:
                self._dropped += lost
                self._waiting -= size
                news = 0 if lost else self._dropped - self._told
                self._told += news
                self._changed.notify_all()
            if news:
                self._recovered(news)

    def _put(self, data: bytes) -> int:
        """Write as much as can be; returns how many lines of it were lost."""
        if self._torn and self._put_all(b"\n"):
            return data.count(b"\n")
        return self._put_all(data).count(b"\n")

    def _put_all(self, data: bytes) -> bytes:
        """Returns what could not be written."""
        left = memoryview(data)
        while left:
            try:
                written = os.write(self._fd, left)
            except BlockingIOError:
                self._wait()
            except OSError:
                break
            else:
                self._torn = left[written - 1] != _END
                left = left[written:]
        return bytes(left)

    def _wait(self) -> None:
        """Until there is room: whoever gave us the descriptor wants nobody to be held up by it."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.poll(_LOOK * 1000)


_END = ord("\n")


class Stream(io.TextIOBase):
    """In place of `sys.stderr` while the agent runs: what Python and the libraries say there must hold nobody up either."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, sink: Sink, fd: int) -> None:
        self._sink = sink
        self._fd = fd

    def write(self, text: str) -> int:
        if text:
            self._sink.write(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        try:
            return os.isatty(self._fd)
        except OSError:
            return False


class Logger:
    """structlog's: a method a level, each of which takes a line without its end."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def msg(self, line: str | bytes) -> None:
        data = line.encode("utf-8", "backslashreplace") if isinstance(line, str) else line
        self._sink.write(data + b"\n")

    debug = info = warning = error = critical = msg
