"""A real sshd on a port of 127.0.0.1, with keys and configuration of its own, and the real clients that use
it.

`host` is a name that only this server's client configuration knows, so that `rsync job spool:/new/` reads as
in real life. It logs in as the user who runs the tests. As root, sshd insists on the folder /run/sshd: it is
made if missing, the one thing outside of the server's own folder.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.servers.process import HOST, Server, find_program

StrPath = str | os.PathLike[str]

_SERVER = """\
ListenAddress {host}:{port}
HostKey {root}/host_key
AuthorizedKeysFile {root}/client_key.pub
PidFile none
UsePAM no
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 200
MaxSessions 200
UseDNS no
PrintMotd no
PrintLastLog no
Subsystem sftp internal-sftp
"""

_CLIENT = """\
Host {name}
HostName {host}
Port {port}
User {user}
IdentityFile {root}/client_key
IdentitiesOnly yes
IdentityAgent none
UserKnownHostsFile {root}/known_hosts
GlobalKnownHostsFile /dev/null
StrictHostKeyChecking yes
BatchMode yes
ConnectTimeout 10
LogLevel ERROR
"""


class Sshd(Server):
    """A context manager. `src` and `dest` are paths: `src` on this side, `dest` on the server's.

    The methods return what the client program did (text output); a failure is a `returncode`, not an
    exception.
    """

    name = "sshd"
    greeting = b"SSH-2.0"
    #: The server's name for ssh, scp and rsync, together with `options` or `environment`.
    host = "spool"

    @property
    def options(self) -> list[str]:
        """What ssh and scp need on their command line to find and trust this server."""
        return ["-F", str(self._root / "client_config")]

    @property
    def environment(self) -> dict[str, str]:
        """The current environment, with an RSYNC_RSH that finds this server: for programs that call rsync."""
        return {**os.environ, "RSYNC_RSH": f"ssh -F {self._root}/client_config"}

    def rsync(self, src: StrPath, dest: StrPath, *args: str) -> subprocess.CompletedProcess[str]:
        """Upload with `rsync args… src spool:dest`; without `args`, `-a`. A trailing slash in `src` means
        what it does.
        """
        return _run(["rsync", *(args or ("-a",)), os.fspath(src), f"{self.host}:{os.fspath(dest)}"], self.environment)

    def scp(self, src: StrPath, dest: StrPath) -> subprocess.CompletedProcess[str]:
        """Upload with `scp -r -p src spool:dest` (the sftp protocol)."""
        target = f"{self.host}:{os.fspath(dest)}"
        return _run(["scp", *self.options, "-q", "-r", "-p", os.fspath(src), target], self.environment)

    def run(self, command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a shell command on the server: `touch …/READY`, `tar -x`, `cat > …`."""
        return _run(["ssh", *self.options, self.host, command], self.environment, stdin)

    def popen_rsync(self, src: StrPath, dest: StrPath, *args: str) -> subprocess.Popen[bytes]:
        """Begin an upload to be cut in the middle: give `--bwlimit=KiB/s` in `args`, then kill what is
        returned.

        Use it in a `with` statement, so that its pipes are closed. The server's rsync ends by itself a moment
        after.
        """
        return subprocess.Popen(
            ["rsync", *(args or ("-a",)), os.fspath(src), f"{self.host}:{os.fspath(dest)}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=self.environment,
        )

    def log(self) -> str:
        """sshd's own log since the start."""
        return (self._root / "log").read_text(errors="replace")

    def _prepare(self) -> None:
        self._programs = {name: find_program(name) for name in ("sshd", "ssh", "scp", "rsync", "ssh-keygen")}
        self._root = Path(tempfile.mkdtemp(prefix="sshd-"))

    def _lay_out(self) -> None:
        for name in ("host_key", "client_key"):
            command: list[StrPath] = [
                self._programs["ssh-keygen"],
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-C",
                "",
                "-f",
                self._root / name,
            ]
            subprocess.run(command, check=True, timeout=20)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)

    def _launch(self) -> "subprocess.Popen[bytes]":
        values = {
            "name": self.host,
            "host": HOST,
            "port": self.port,
            "root": self._root,
            "user": pwd.getpwuid(os.geteuid()).pw_name,
        }
        (self._root / "server_config").write_text(_SERVER.format(**values))
        (self._root / "client_config").write_text(_CLIENT.format(**values))
        key = (self._root / "host_key.pub").read_text()
        (self._root / "known_hosts").write_text(f"[{HOST}]:{self.port} {key}")
        with open(self._root / "log", "wb") as log:
            # sshd executes itself for each connection: it wants to be called by its absolute path.
            return subprocess.Popen(
                [self._programs["sshd"], "-D", "-e", "-f", self._root / "server_config"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    def _remove(self) -> None:
        shutil.rmtree(self._root)


def _run(command: list[str], environment: dict[str, str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, input=stdin, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
