"""A terminal with a `spoold` command in it."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A command with a terminal of `columns` by `lines`: what it shows, as it comes."""

    def __init__(self, arguments: list[str], columns: int, lines: int = 40, environ: Mapping[str, str] | None = None):
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        settings = {**os.environ, "TERM": "xterm-256color", **(environ or {})}
        for name in ("COLUMNS", "LINES"):
            settings.pop(name, None)
        self.master = master
        self.raw = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "spoold", *arguments],
            stdin=slave, stdout=slave, stderr=slave, env=settings, start_new_session=True,
        )  # fmt: skip
        os.close(slave)

    def read(self) -> bool:
        """Take what has come; False once nobody has the terminal open any more."""
        if not select.select([self.master], [], [], 0.05)[0]:
            return True
        try:
            data = os.read(self.master, 65536)
        except OSError:
            return False
        self.raw += data
        return bool(data)

    def wait(self, look: Callable[[str], bool], timeout: float = 20.0) -> None:
        """Until what was shown so far is as `look` wants it."""
        deadline = time.monotonic() + timeout
        while not look(self.text):
            assert self.read(), self.text
            assert time.monotonic() < deadline, self.text

    def end(self, number: int | None = None) -> int:
        """The exit code, after a signal if there is to be one."""
        if number is not None:
            self.process.send_signal(number)
        deadline = time.monotonic() + 20
        while self.read():
            assert time.monotonic() < deadline, self.text
        os.close(self.master)
        return self.process.wait(20)

    @property
    def text(self) -> str:
        """Without control sequences."""
        return CONTROL.sub("", self.raw.decode()).replace("\r\n", "\n")
