"""The thread that writes the log: what is lost is counted, what is written is whole and in order, and nobody waits."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from spoold.cli.sink import Sink, Stream
from tests.servers.agent import wait_for


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for fd in (reading, writing):
        try:
            os.close(fd)
        except OSError:
            continue  # the test has closed it


def lines(n: int, size: int = 100) -> list[bytes]:
    return [b"%07d" % number + b"x" * size + b"\n" for number in range(n)]


def test_lines_are_written_in_order(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        sink = Sink(file.fileno())
        for line in lines(3000):
            sink.write(line)
        assert sink.flush(20)
    assert (tmp_path / "log").read_bytes() == b"".join(lines(3000))
    assert sink.dropped == 0


def test_pipe_that_nobody_reads_holds_nobody_up_and_is_used_again_once_it_is_read(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    told: list[int] = []
    sink = Sink(writing, told.append)
    for line in lines(30_000):  # three times what finds room
        sink.write(line)
    dropped = sink.dropped
    assert dropped > 10_000
    begun = time.monotonic()
    assert not sink.flush(0.1)
    assert time.monotonic() - begun < 5
    got = bytearray()
    reader = threading.Thread(target=lambda: got.extend(iter_read(reading)), daemon=True)
    reader.start()
    assert sink.flush(20)
    sink.write(b"again\n")
    assert sink.flush(20)
    os.close(writing)
    reader.join(20)
    *written, last = bytes(got).splitlines(keepends=True)
    assert last == b"again\n"
    assert len(written) == 30_000 - dropped
    # Which ones found room hangs on when the pipe took some; they are whole, and in order. (No diff of a megabyte where not.)
    in_order = written == sorted(set(written) & set(lines(30_000)))
    assert in_order
    assert sum(told) == dropped


def iter_read(fd: int) -> Iterator[int]:
    while data := os.read(fd, 65536):
        yield from data


def test_descriptor_that_does_not_block_gets_every_line(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.set_blocking(writing, False)
    sink = Sink(writing)
    for line in lines(3000):
        sink.write(line)
    got = bytearray()
    while len(got) < 3000 * 108:
        got += os.read(reading, 65536)
    assert bytes(got) == b"".join(lines(3000))
    assert sink.flush(20)
    assert sink.dropped == 0


def test_closed_pipe_and_full_disk_are_counted(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    full = os.open("/dev/full", os.O_WRONLY)
    for fd in (pipe[1], full):
        sink = Sink(fd)
        for line in lines(5):
            sink.write(line)
        assert sink.flush(20)
        assert sink.dropped == 5
    os.close(full)


def test_line_that_was_cut_is_ended_before_the_next_one(tmp_path: Path) -> None:
    """A disk that is full in the middle of a line, and has room again."""
    program = f"""
import os, sys
sys.path.insert(0, {os.getcwd()!r})
from spoold.cli.sink import Sink
told = []
sink = Sink(1, told.append)
sink.write(b"whole\\n"); sink.write(b"cut" * 10 + b"\\n"); sink.flush(20)
sink.write(b"lost\\n"); sink.flush(20)
os.ftruncate(1, 12); os.lseek(1, 0, os.SEEK_END)
sink.write(b"again\\n"); sink.flush(20)
print(sink.dropped, told, file=sys.stderr)
"""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))

    with (tmp_path / "log").open("wb") as file:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=file, stderr=subprocess.PIPE, preexec_fn=limit, check=True
        )
    assert (tmp_path / "log").read_bytes() == b"whole\ncutcut\nagain\n"
    assert done.stderr == b"2 [2]\n"


def test_what_python_says_on_standard_error_takes_the_same_way(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    sink = Sink(writing)
    stream = Stream(sink, writing)
    print("a word \udcff", file=stream, flush=True)
    assert sink.flush(20)
    assert os.read(reading, 100) == b"a word \\udcff\n"
    assert stream.fileno() == writing
    assert not stream.isatty()


def test_sink_ends_with_its_process_though_nobody_reads(pipe: tuple[int, int]) -> None:
    program = "from spoold.cli.sink import Sink\ns = Sink(2)\nfor _ in range(3000): s.write(b'x' * 100 + b'\\n')"
    begun = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", program], stderr=pipe[1])
    code = wait_for(lambda: process.poll() is not None and (process.returncode,), 20)
    assert code == (0,)
    assert time.monotonic() - begun < 10
