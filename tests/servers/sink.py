"""Postfix's smtp-sink(1), which takes everything and keeps each transaction in a file."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers.mailbox import Delivered
from tests.servers.process import HOST, comes_up, find_program, free_port, stop


class Sink:
    """A context manager. It has no TLS and refuses nobody."""

    def __init__(self) -> None:
        self.host = HOST
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._root = Path()

    def __enter__(self) -> Self:
        program = find_program("smtp-sink")
        self._root = Path(tempfile.mkdtemp(prefix="smtp-sink-"))
        self._root.chmod(0o777)
        # Without a user that it can become, smtp-sink does not start as root.
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        for _ in range(5):
            self.port = free_port()
            command = [program, *user, "-R", str(self._root), "-d", "kept.", f"{HOST}:{self.port}", "100"]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if comes_up(self._process, self.port, b"220"):
                return self
        raise RuntimeError("smtp-sink did not start")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process:
            stop(self._process)
        shutil.rmtree(self._root)

    def settle(self, timeout: float = 20) -> list[Delivered]:
        """Everything accepted, one entry a recipient: a file is whole before its transaction is answered.

        smtp-sink puts an empty line at the end of each.
        """
        found = []
        for file in sorted(self._root.iterdir()):
            head, received, data = re.split(
                rb"(^Received:.*\n(?:[ \t].*\n)*)", file.read_bytes(), maxsplit=1, flags=re.M
            )
            sender = re.search(rb"^X-Mail-Args: <(.*?)>", head, re.MULTILINE)
            assert sender is not None
            for recipient in re.findall(rb"^X-Rcpt-Args: <(.*?)>", head, re.MULTILINE):
                found.append(Delivered(recipient.decode(), sender[1].decode(), data.removesuffix(b"\n"), received))
        return found

    def log(self) -> str:
        """smtp-sink says nothing of what it takes."""
        return ""

    def reset(self) -> None:
        """Back to the state after the start."""
        for file in self._root.iterdir():
            file.unlink()
