"""Who can read and do what: the modes of what `spoold init` and the agent make, seen by real other users."""

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers.agent import FOLDERS, MESSAGE
from tests.servers.process import unavailable
from tests.servers.relay import Relay

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")

SECRET = "correct-horse-4711"
GROUP = 23100


@dataclass(frozen=True)
class User:
    """Somebody with a uid and a primary group of the same number; `python` is an interpreter that anybody can run."""

    uid: int
    groups: tuple[int, ...] = ()

    def run(self, *command: str | Path, umask: int = 0o022, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run a command as this user; it must end with `code`, unless that is None."""
        done = subprocess.run(
            [str(part) for part in command], user=self.uid, group=self.uid, extra_groups=self.groups, umask=umask, cwd="/",
            env={**os.environ, "HOME": "/"}, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert code is None or done.returncode == code, (command, done)
        assert "Traceback" not in done.stderr
        return done

    def spoold(
        self, *arguments: str | Path, umask: int = 0o022, code: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        return self.run(os.environ["PYTHON"], "-m", "spoold", *arguments, umask=umask, code=code)

    def reads(self, path: Path) -> bool:
        return self.run("cat", path, code=None).returncode == 0


AGENT = User(23001, (GROUP,))
ADA = User(23002, (GROUP,))
BOB = User(23003, (GROUP,))
STRANGER = User(23004)


@pytest.fixture(scope="module")
def python() -> Iterator[tuple[Path, str]]:
    """An interpreter with spoold for everybody, and its module path: root's own may lie where nobody else can go."""
    root = Path(tempfile.mkdtemp(prefix="spoold-python-"))
    root.chmod(0o755)
    sources = {
        "python": sys.base_prefix, "site": sysconfig.get_path("platlib"), "checkout": str(Path(__file__).parents[2]),
    }  # fmt: skip
    mounted = []
    try:
        for name, source in sources.items():
            (root / name).mkdir()
            done = subprocess.run(["mount", "--bind", source, root / name], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                unavailable(f"cannot mount {source} for other users: {done.stderr.strip()}")
            mounted.append(root / name)
        program = root / "python" / "bin" / f"python3.{sys.version_info.minor}"
        yield program, f"{root / 'checkout'}:{root / 'site'}"
    finally:
        for path in mounted:
            subprocess.run(["umount", "--lazy", path], check=True)
        for path in (*(root / name for name in sources), root):
            with contextlib.suppress(FileNotFoundError):
                path.rmdir()


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, python: tuple[Path, str]) -> Iterator[Path]:
    """A folder that everybody can enter, as /srv is; the tests' own ones are root's alone."""
    monkeypatch.setenv("PYTHON", str(python[0]))
    monkeypatch.setenv("PYTHONPATH", python[1])
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    # For a Python that is built with a shared library of its own.
    monkeypatch.setenv("LD_LIBRARY_PATH", str(python[0].parents[1] / "lib"))
    AGENT.run(python[0], "-c", "import spoold.cli.main")
    folder = Path(tempfile.mkdtemp(prefix="spoold-modes-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def configure(place: Path, port: int) -> Path:
    config, secret = place / "spoold.yaml", place / "password"
    relay = {
        "host": "127.0.0.1", "port": port, "security": "none", "username": "me", "password_file": "password",
    }  # fmt: skip
    document = {"spool": "spool", "relays": {"default": relay}, "intake": {"settle": "1s"}}
    config.write_text(json.dumps(document))
    config.chmod(0o644)
    secret.write_text(SECRET)
    secret.chmod(0o600)
    os.chown(secret, AGENT.uid, AGENT.uid)
    return config


def write_job(folder: Path) -> None:
    folder.mkdir()
    (folder / "job.yaml").write_text("sender: news@example.com\n")
    (folder / "message.eml").write_bytes(MESSAGE)
    (folder / "recipients.csv").write_text("address\nada@one.example\n")


def upload(user: User, place: Path, spool: Path, *controls: str) -> None:
    """Put the job into new/ as `mine`, with the modes that `rsync --chmod=D2770,F0660` gives."""
    mine = spool / "tmp" / "mine"
    user.run("sh", "-c", f"cp -r {place}/job {mine} && chmod 2770 {mine} && chmod 660 {mine}/*")
    for name in (*controls, "READY"):
        user.run("touch", mine / name)
    user.run("mv", mine, spool / "new")


def made(spool: Path) -> dict[str, tuple[int, int, int]]:
    """(mode, uid, gid) of everything below a spool by its name."""
    return {
        path.relative_to(spool).as_posix(): (
            stat.S_IMODE(path.lstat().st_mode),
            path.lstat().st_uid,
            path.lstat().st_gid,
        )
        for path in (spool, *spool.rglob("*"))
    }


@pytest.fixture
def relay() -> Iterator[Relay]:
    with Relay(credentials=("me", SECRET)) as server:
        yield server


def test_a_spool_of_one_user_is_closed_to_everybody_else_whatever_the_umask(place: Path, relay: Relay) -> None:
    config, home = configure(place, relay.port), place / "home"
    home.mkdir(mode=0o755)
    os.chown(home, AGENT.uid, AGENT.uid)
    spool = home / "spool"
    config.write_text(config.read_text().replace('"spool": "spool"', f'"spool": "{spool}"'))
    AGENT.spoold("init", spool)
    assert {name: mode for name, (mode, *_) in made(spool).items() if name != "spoold.yaml"} == {
        ".": 0o750, ".spoold": 0o700, **dict.fromkeys(FOLDERS, 0o750),
    }  # fmt: skip
    write_job(place / "job")
    AGENT.run("cp", "-r", place / "job", spool / "new" / "job")
    AGENT.run("touch", spool / "new" / "job" / "READY")
    AGENT.spoold("--config", config, "run", "--drain")
    assert relay.recipients == ["ada@one.example"]
    report = spool / "done" / "job" / "report"
    assert AGENT.reads(report / "recipients.csv")
    assert STRANGER.run("ls", spool, code=None).returncode != 0
    assert not STRANGER.reads(report / "recipients.csv")
    for name, (mode, uid, _) in made(spool).items():
        assert uid == AGENT.uid, name
        if name.startswith(("done/job/report", ".spoold", "status.json", "metrics.prom")):
            assert mode & 0o007 == 0, (name, oct(mode))
    check = AGENT.spoold("--config", config, "check", "--deep")
    assert check.stderr == ""
    assert "can be read by everybody" not in check.stdout


@pytest.fixture
def shared(place: Path) -> Path:
    """A spool as `systemd-tmpfiles` makes it: `tmp/` and `new/` for the group to write to, the rest for it to read."""
    spool = place / "spool"
    modes = {".": 0o2750, **dict.fromkeys(FOLDERS, 0o2750), "tmp": 0o2770, "new": 0o2770, ".spoold": 0o700}
    for name, mode in modes.items():
        (spool / name).mkdir(exist_ok=True)
        os.chown(spool / name, AGENT.uid, GROUP)
        (spool / name).chmod(mode)
    return spool


@pytest.mark.parametrize("umask", [0o022, 0o007, 0o077])
def test_a_group_of_uploaders_reads_its_reports_and_touches_control_files_and_nobody_else_does(
    place: Path, shared: Path, relay: Relay, umask: int
) -> None:
    config = configure(place, relay.port)
    write_job(place / "job")
    upload(ADA, place, shared, "HOLD")
    AGENT.spoold("--config", config, "run", "--drain", umask=umask)
    held = shared / "deferred" / "mine"
    tree = made(shared)
    assert {
        name: tree[name] for name in tree if name.startswith("deferred/mine") and tree[name][1:] != (AGENT.uid, GROUP)
    } == {}
    assert tree["deferred/mine"][0] == 0o2770
    assert tree["deferred/mine/report"][0] == 0o2770
    assert {
        tree[f"deferred/mine/{name}"][0] for name in ("job.yaml", "report/status.json", "report/recipients.csv")
    } == {0o660}
    assert [name for name, (mode, *_) in tree.items() if mode & 0o007] == []
    assert list((shared / "new").iterdir()) == []
    for member in (ADA, BOB):
        assert member.reads(held / "report" / "status.txt")
        assert member.reads(held / "report" / "recipients.csv")
        assert not member.reads(shared / ".spoold" / "spool.db")
        assert member.run("ls", shared / ".spoold", code=None).returncode != 0
        assert member.run("mv", held, shared / "done" / "mine", code=None).returncode != 0
        assert member.run("rmdir", shared / "done", code=None).returncode != 0
    assert STRANGER.run("ls", shared, code=None).returncode != 0
    assert not STRANGER.reads(held / "report" / "status.txt")
    assert STRANGER.run("touch", held / "CANCEL", code=None).returncode != 0
    BOB.run("rm", held / "HOLD")
    AGENT.spoold("--config", config, "run", "--drain", umask=umask)
    assert relay.recipients == ["ada@one.example"]
    assert ADA.reads(shared / "done" / "mine" / "report" / "recipients.csv")
    assert [name for name, (mode, *_) in made(shared).items() if mode & 0o007] == []
    assert [path for path in shared.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()] == []
    check = AGENT.spoold("--config", config, "check", "--deep", umask=umask)
    assert check.stderr == ""
    assert "spool.modes" not in AGENT.spoold("--config", config, "check", "--json").stdout


def test_check_by_somebody_else_says_who_should_run_it(place: Path, shared: Path, relay: Relay) -> None:
    config = configure(place, relay.port)
    write_job(place / "job")
    upload(ADA, place, shared)
    AGENT.spoold("--config", config, "run", "--drain")
    refused = ADA.spoold("--config", config, "check", "--deep", "--repair", code=1)
    assert "cannot open the spool: Permission denied (.spoold)" in refused.stderr
    (shared / "done" / "mine" / "report" / "status.txt").unlink()
    before = made(shared)
    # Root reads all, and leaves nothing behind that the agent could not write to.
    root = User(0)
    looked = root.spoold("--config", config, "check", "--deep", code=1)
    assert (
        f"this check is root's, who may do everything; to do: runuser -u {AGENT.uid} -- spoold check" in looked.stdout
    )
    assert "job mine: report/status.txt is missing" in looked.stderr
    refused = root.spoold("--config", config, "check", "--deep", "--repair", code=1)
    assert f"belongs to uid {AGENT.uid}" in refused.stderr
    after = made(shared)
    assert {name: after[name] for name in before} == before
    assert {(user, group) for _, user, group in after.values()} <= {
        (AGENT.uid, GROUP), (AGENT.uid, AGENT.uid),
    }  # fmt: skip
    AGENT.spoold("--config", config, "check", "--deep", "--repair")
    assert ADA.reads(shared / "done" / "mine" / "report" / "status.txt")


def test_without_inotify_check_warns_and_the_agent_looks_every_second(place: Path, shared: Path, relay: Relay) -> None:
    """The limit is one for all of a user's processes: this user has none in another test."""
    user = User(23005, (GROUP,))
    config = configure(place, relay.port)
    for path in (place / "password", *(shared / name for name in (".", *FOLDERS, ".spoold"))):
        os.chown(path, user.uid, GROUP)
        path.chmod(path.stat().st_mode | (stat.S_ISGID if path.is_dir() and path.name != ".spoold" else 0))
    hog = (
        "import ctypes, resource, sys; libc = ctypes.CDLL(None)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)\n"
        "for _ in range(19000):\n    if libc.inotify_init1(0) < 0: break\n"
        "print('full', flush=True); sys.stdin.read()"
    )
    command = [os.environ["PYTHON"], "-c", hog]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, user=user.uid, group=user.uid, cwd="/") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"full\n"
        try:
            done = user.spoold("--config", config, "check", "--json")
            write_job(place / "job")
            upload(user, place, shared)
            ran = user.spoold("--config", config, "run", "--drain")
        finally:
            process.kill()
    [found] = [each for each in json.loads(done.stdout)["findings"] if each["check"] == "limits.inotify"]
    assert found["level"] == "warning"
    assert "no more inotify instances" in found["text"]
    assert found["remedy"].startswith("sysctl fs.inotify.max_user_instances=")
    assert "watch.failed" in ran.stderr + ran.stdout
    assert relay.recipients == ["ada@one.example"]
