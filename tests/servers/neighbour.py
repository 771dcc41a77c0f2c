"""Another user of the spool's group, as a process of that uid: uploads jobs, and puts anything anywhere that it may."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

#: A user's group is that of the spool.
GROUP = 64001
#: What can be planted under a name. "taken" is what is there, by a second name of it, as `cp -al` makes one.
KINDS = (
    "file", "closed file", "folder", "closed folder", "empty folder", "deep folders", "FIFO", "socket", "link to a folder",
    "link to a file", "dangling link", "hard link", "second name", "nothing",
)  # fmt: skip
_LEVELS = 1500

_PROGRAM = """
import json, os, socket, sys
uid, group, spool, outside, levels = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:5], int(sys.argv[5])
os.chdir(spool)
os.setgroups([]); os.setgid(group); os.setuid(uid); os.umask(0o002)
count = 0

def make(path, mode):
    os.mkdir(path); os.chmod(path, mode)

def fill(path, mode):
    make(path, 0o700); open(path + "/x", "w").close(); os.chmod(path, mode)

def nest(path):
    make(path, 0o2775)
    fd = os.open(path, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd); fd = below
    os.close(fd)

def write(path, mode):
    with open(path, "x") as file:
        file.write("theirs\\n")
    os.chmod(path, mode)

def listen(path):
    folder, name = os.path.split(path)
    back = os.open(".", os.O_RDONLY)
    os.chdir(folder)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(name)
    os.fchdir(back); os.close(back)

def hard(path):
    write(path + ".first", 0o664)
    os.link(path + ".first", path)

PLANT = {
    "file": lambda path: write(path, 0o664), "closed file": lambda path: write(path, 0o600),
    "folder": lambda path: fill(path, 0o755), "closed folder": lambda path: fill(path, 0o700),
    "empty folder": lambda path: make(path, 0o755), "deep folders": nest, "FIFO": os.mkfifo, "socket": listen,
    "link to a folder": lambda path: os.symlink(outside, path),
    "link to a file": lambda path: os.symlink(outside + "/precious", path),
    "dangling link": lambda path: os.symlink(outside + "/nothing", path), "hard link": hard, "nothing": lambda path: None,
}

def plant(kind, path):
    global count
    count += 1
    if not os.path.realpath(os.path.dirname(path)).startswith(os.getcwd() + "/"):
        raise FileNotFoundError(2, "a link of mine leads there")
    if kind == "second name":
        os.link(path, "tmp/second-" + str(uid) + "-" + str(count), follow_symlinks=False)
        return
    if os.path.lexists(path):
        os.rename(path, "tmp/away-" + str(uid) + "-" + str(count))
    PLANT[kind](path)

def upload(name, files):
    make("tmp/" + name, 0o2775)
    for file, text in files.items():
        write_as("tmp/" + name + "/" + file, text)
    os.rename("tmp/" + name, "new/" + name)

def drop(name, text):
    write_as("tmp/" + name, text); os.rename("tmp/" + name, "new/" + name)

def write_as(path, text):
    with open(path, "x") as file:
        file.write(text)

for line in sys.stdin:
    what, *values = json.loads(line)
    try:
        {"plant": plant, "upload": upload, "drop": drop, "touch": lambda path: open(path, "w").close()}[what](*values)
        print("done", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""


class Neighbour:
    """See the module. `outside` is a folder beside the spool that links lead to."""

    def __init__(self, uid: int, spool: Path, outside: Path) -> None:
        arguments = [str(uid), str(GROUP), str(spool), str(outside), str(_LEVELS)]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _PROGRAM, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def plant(self, kind: str, path: str) -> bool:
        """Put a thing of this kind in the place of `path`; whether the system let it."""
        return self._ask("plant", kind, path) == "done"

    def upload(self, name: str, recipients: Sequence[str], manifest: dict[str, Any] | None = None) -> bool:
        """A whole job, renamed into new/; whether nothing else stood there."""
        files = {
            "job.yaml": json.dumps({"sender": "news@example.com", **(manifest or {})}) + "\n",
            "message.eml": "From: news@example.com\nSubject: News\n\nHello\n",
            "recipients.csv": "address\n" + "".join(f"{to}\n" for to in recipients),
        }
        return self._ask("upload", name, files) == "done"

    def drop(self, name: str, text: str) -> None:
        """A single file, renamed into new/."""
        assert self._ask("drop", name, text) == "done"

    def touch(self, path: str) -> None:
        assert self._ask("touch", path) == "done"

    def _ask(self, *request: object) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def share(spool: Path) -> None:
    """Make the spool one for a group of uploaders, as systemd/ describes it."""
    modes = {"": 0o2750, "tmp": 0o2770, "new": 0o2770, "active": 0o2750, "deferred": 0o2750, "done": 0o2750}
    for name, mode in modes.items():
        os.chown(spool / name, -1, GROUP)
        (spool / name).chmod(mode)
    for path in (spool, *spool.parents):
        if path != spool and path.stat().st_uid == os.geteuid() and path.name:
            path.chmod(path.stat().st_mode | 0o011)
