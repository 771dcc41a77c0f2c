"""Mail servers of Debian that cannot be installed beside each other, each in a root directory of its own.

`python -m tests.servers.debian` downloads the packages, with the libraries that this machine lacks, and unpacks them
below `CACHE`, side by side; nothing is installed and no root is needed. A test then lays out a `Root`: the package's
files, the libraries, and its own etc/passwd, so that the program finds the users and the absolute paths that were
compiled into it. It runs there by chroot(8), which takes root.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.servers.process import find_program, unavailable

PACKAGES = ("exim4-daemon-light", "opensmtpd")
CACHE = Path(os.environ.get("SPOOLD_TEST_PACKAGES") or Path(__file__).parents[2] / ".cache" / "debian")
#: Ids that no distribution gives to anybody.
_FIRST_ID = 64_900


class Root:
    """The root directory of one server, below the system's temporary folder. `users` are made, each with its group."""

    def __init__(self, package: str, programs: Sequence[str], users: Sequence[str]) -> None:
        chroot = find_program("chroot")
        if os.geteuid() != 0:
            unavailable(f"{package} can only be started by root")
        unpacked = CACHE / package
        if not unpacked.is_dir():
            unavailable(f"{package} is not unpacked: run `python -m tests.servers.debian`")
        self._chroot = chroot
        # Not below pytest's folders: those are mode 0700, and the servers give up being root.
        self.path = Path(tempfile.mkdtemp(prefix=f"{package}-"))
        self.path.chmod(0o755)
        self._ids = {name: _FIRST_ID + number for number, name in enumerate(users)}
        for name in ("etc", "dev", "tmp", "var/log", "var/run", "bin", "usr/sbin"):
            (self.path / name).mkdir(parents=True)
        (self.path / "tmp").chmod(0o1777)
        self.write("etc/passwd", "root:x:0:0::/:/bin/sh\n" + self._lines("{0}:x:{1}:{1}::/home:/bin/sh\n"))
        self.write("etc/group", "root:x:0:\n" + self._lines("{0}:x:{1}:\n"))
        # A plain file takes what the servers write there, and needs no right to make devices.
        self.write("dev/null", "", mode=0o666)
        for program in programs:
            self._bring(unpacked, program)

    def own(self, path: str, user: str, mode: int = 0o700) -> Path:
        """A folder of this user's."""
        folder = self.path / path
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
        os.chown(folder, self._ids[user], self._ids[user])
        return folder

    def write(self, path: str, text: str, *, mode: int = 0o644, group: str | None = None) -> None:
        """A file of root's."""
        file = self.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)
        if group is not None:
            os.chown(file, 0, self._ids[group])

    def start(self, *command: str, log: Path) -> "subprocess.Popen[bytes]":
        """Run a command inside; what it says goes to `log`. Its process id is that of the program."""
        with log.open("ab") as output:
            return subprocess.Popen(
                [self._chroot, self.path, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                cwd="/",
            )

    def remove(self) -> None:
        shutil.rmtree(self.path)

    def _lines(self, form: str) -> str:
        return "".join(form.format(name, number) for name, number in self._ids.items())

    def _bring(self, unpacked: Path, program: str) -> None:
        """Copy a program, of the package or else of this machine, and the libraries that it is linked with."""
        own = unpacked / program
        source = own if own.exists() else Path("/") / program
        self._copy(source, program)
        folders = {str(path.parent) for path in unpacked.rglob("*.so.*")}
        listed = subprocess.run(
            ["ldd", source],
            check=True,
            capture_output=True,
            text=True,
            timeout=10,
            env={"PATH": os.defpath, "LD_LIBRARY_PATH": ":".join(sorted(folders))},
        ).stdout
        missing = re.findall(r"^\s*(\S+) => not found", listed, re.MULTILINE)
        if missing:
            unavailable(f"{unpacked.name} lacks {', '.join(missing)}: remove {unpacked} and unpack it again")
        for name in re.findall(r"(/\S+) \(0x", listed):
            library = Path(name)
            inside = library.relative_to(unpacked) if library.is_relative_to(unpacked) else library.relative_to("/")
            self._copy(library, str(inside))

    def _copy(self, source: Path, inside: str) -> None:
        target = self.path / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copyfile(source, target)
            target.chmod(0o755)


def unpack(package: str) -> None:
    """Download a package and what it needs beyond what is installed here, and unpack all of it in one folder."""
    target = CACHE / package
    if target.is_dir():
        return
    environ: Mapping[str, str] = {**os.environ, "LC_ALL": "C"}
    plan = subprocess.run(
        ["apt-get", "-s", "-q", "--no-install-recommends", "install", package],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        env=environ,
    ).stdout
    wanted = sorted({package, *re.findall(r"^Inst (\S+)", plan, re.MULTILINE)})
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as draft:
        command = ["apt-get", "-q", "download", *wanted]
        if os.geteuid() == 0:
            command[1:1] = ["-o", "APT::Sandbox::User=root"]
        subprocess.run(command, check=True, cwd=draft, timeout=300, env=environ)
        for file in sorted(Path(draft).glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", file, Path(draft) / "root"], check=True, timeout=60)
        for path in (Path(draft) / "root").rglob("*"):
            if path.is_file() and not path.is_symlink():
                path.chmod(path.stat().st_mode & 0o755)  # nobody shall get a set-uid program by this
        (Path(draft) / "root").rename(target)


def main() -> int:
    try:
        for package in PACKAGES:
            unpack(package)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"the packages could not be unpacked: {error} (is `apt-get update` needed?)", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
