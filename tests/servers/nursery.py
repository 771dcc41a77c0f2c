"""Starts the agent without the half second that Python takes to import it: a process that has imported it once forks.

What comes out is a process like any other, with its own pid, files, environment, threads and exit code; only the time of
the imports is saved, some thousand times in a whole run of the tests. With `PLAIN` in its environment it is a user like any
other, even root's: without the right to read and write everybody's files. What must begin with `exec` (another user, a library
that is loaded before all others, a tracer) is started without it.
"""

import atexit
import contextlib
import ctypes
import functools
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

_REQUEST_LIMIT = 1 << 20
#: In the environment of a process that is to have no privileges.
PLAIN = "SPOOLD_TEST_PLAIN"
#: prctl.h and capability.h.
_PR_CAPBSET_DROP = 24
_CAPABILITIES = 64
_CAPABILITY_VERSION_3 = 0x20080522


class Forked:
    """One process; as much of `subprocess.Popen` as the tests want."""

    def __init__(self, nursery: "Nursery", pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._nursery = nursery
        self._pidfd = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """The exit code, negative for a signal, None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            ended, _, _ = select.select([self._pidfd], [], [], timeout)
            if not ended:
                raise subprocess.TimeoutExpired(["spoold"], timeout or 0)
            os.close(self._pidfd)
            self.returncode = self._nursery.reap(self.pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nursery:
    """See the module. For one thread."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )

    def start(
        self, arguments: Sequence[str], environ: Mapping[str, str], stdin: int, stdout: int, stderr: int
    ) -> Forked:
        """Run `spoold` with these arguments and these files."""
        request = json.dumps({"arguments": list(arguments), "environ": dict(environ), "cwd": os.getcwd()}).encode()
        socket.send_fds(self._socket, [request], [stdin, stdout, stderr])
        return Forked(self, int(self._socket.recv(64)))

    def reap(self, pid: int) -> int:
        """The exit code of one that has ended."""
        self._socket.send(json.dumps({"reap": pid}).encode())
        return int(self._socket.recv(64))

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


@functools.cache
def nursery() -> Nursery:
    """The one of this process."""
    made = Nursery()
    atexit.register(made.close)
    return made


def _serve(connection: socket.socket) -> list[str] | None:
    """Answer requests until there are no more; in each process that was forked, return its arguments."""
    while True:
        request, files, _, _ = socket.recv_fds(connection, _REQUEST_LIMIT, 3)
        if not request:
            return None
        asked = json.loads(request)
        if "reap" in asked:
            _, status = os.waitpid(asked["reap"], 0)
            connection.send(b"%d" % os.waitstatus_to_exitcode(status))
            continue
        pid = os.fork()
        if not pid:
            connection.close()
            for number, file in enumerate(files):
                os.dup2(file, number)
                os.close(file)
            os.chdir(asked["cwd"])
            os.environ.clear()
            os.environ.update(asked["environ"])
            time.tzset()
            if os.environ.pop(PLAIN, None):
                _become_plain()
            arguments: list[str] = asked["arguments"]
            return arguments
        for file in files:
            os.close(file)
        connection.send(b"%d" % pid)


def _become_plain() -> None:
    """Give up all capabilities of this process and of what it runs."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(_CAPABILITIES):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    header, nothing = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    if libc.capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    import spoold.cli.config
    import spoold.cli.log
    import spoold.cli.run
    import spoold.cli.status.status
    import spoold.failpoint
    from spoold.cli.main import entry

    found = _serve(socket.socket(fileno=int(sys.argv[1])))
    if found is not None:
        # It reads the environment once, when it is imported.
        importlib.reload(spoold.failpoint)
        sys.argv[1:] = found
        entry()
