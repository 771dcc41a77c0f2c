"""The unit, sysusers and tmpfiles files, read by systemd's own tools."""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNITS = ["spoold.service", "spoold@.service"]

#: What `verify` may say: the program is installed where the tests do not run.
NOT_INSTALLED = re.compile(r"^spoold(@\w*)?\.service: Command /opt/spoold/bin/spoold is not executable: ")

#: The group may write where people upload; `SPOOL/.spoold` is the agent's alone.
MODES = {
    "etc/spoold": 0o755,
    "etc/spoold/users": 0o755,
    "var/spool/spoold": 0o2750,
    "var/spool/spoold/tmp": 0o2770,
    "var/spool/spoold/new": 0o2770,
    "var/spool/spoold/active": 0o2750,
    "var/spool/spoold/deferred": 0o2750,
    "var/spool/spoold/done": 0o2750,
    "var/spool/spoold/.spoold": 0o700,
    "var/spool/spoold-users": 0o755,
}


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a tool of systemd; a machine without it skips the test, except in CI."""
    tool = str(command[0])
    if shutil.which(tool) is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{tool} is not installed")
        pytest.skip(f"{tool} is not installed")
    env = {**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0", "SYSTEMD_EMOJI": "0", "SYSTEMD_PAGER": ""}
    argv = [tool, *(str(part) for part in command[1:])]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, env=env)


def settings(unit: str) -> list[tuple[str, str]]:
    """The `Key=value` lines of a unit in their order, continuation lines joined."""
    text = (SYSTEMD / unit).read_text().replace("\\\n", " ")
    pairs = (line.split("=", 1) for line in text.splitlines() if line[:1].isalpha())
    return [(key, value.strip()) for key, value in pairs]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine's root with no account but root; the tools that make users and folders need to be root."""
    if os.geteuid() != 0:
        pytest.skip("only root can make accounts and give folders away")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\n")
    (tmp_path / "var/spool").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("unit", UNITS)
def test_verify_finds_nothing_but_the_program_missing(unit: str) -> None:
    result = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", SYSTEMD / unit)
    complaints = [line for line in result.stderr.splitlines() if not NOT_INSTALLED.match(line)]
    assert complaints == []


@pytest.mark.parametrize("unit", UNITS)
def test_exposure_is_at_most_one_and_a_half(unit: str) -> None:
    result = run("systemd-analyze", "security", "--no-pager", "--offline=true", SYSTEMD / unit)
    figure = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", result.stdout)
    assert figure is not None, result.stdout + result.stderr
    assert float(figure[1]) <= 1.5, result.stdout


@pytest.mark.parametrize("unit", UNITS)
def test_stopping_leaves_time_for_the_reply_to_a_final_dot(unit: str) -> None:
    values = dict(settings(unit))
    assert values["Type"] == "notify"
    assert values["TimeoutStopSec"] == "11min"
    assert values["WatchdogSec"] == "60"
    assert values["ExecReload"] == "/bin/kill -HUP $MAINPID"


@pytest.mark.parametrize("unit", UNITS)
def test_foreign_uids_stay_visible(unit: str) -> None:
    assert "PrivateUsers" not in dict(settings(unit))


def test_the_two_units_are_hardened_alike_but_for_what_users_share_with_other_programs() -> None:
    def hardening(unit: str) -> list[tuple[str, str]]:
        pairs = settings(unit)
        start = pairs.index(("NoNewPrivileges", "yes"))
        return [pair for pair in pairs[start:] if pair[0] != "WantedBy"]

    only_of_an_account_of_its_own = ("RemoveIPC", "yes")
    service, template = map(hardening, UNITS)
    assert only_of_an_account_of_its_own in service
    assert [pair for pair in service if pair != only_of_an_account_of_its_own] == template


def test_a_user_s_folders_are_not_made_by_root() -> None:
    steps = [value for key, value in settings("spoold@.service") if key == "ExecStartPre"]
    [step] = [value for value in steps if value.startswith("+")]
    assert [part for part in step.split() if part.startswith("/var/")] == ["/var/spool/spoold-users/%i"]


def test_the_folders_have_their_modes_and_owners(root: Path) -> None:
    made = run("systemd-sysusers", f"--root={root}", SYSTEMD / "spoold.sysusers.conf")
    assert made.returncode == 0, made.stderr
    passwd = (root / "etc/passwd").read_text()
    account = re.search(r"^spoold:[^:]*:(\d+):(\d+):.*:/usr/sbin/nologin$", passwd, re.MULTILINE)
    assert account is not None
    uid, gid = int(account[1]), int(account[2])

    result = run("systemd-tmpfiles", "--create", f"--root={root}", SYSTEMD / "spoold.tmpfiles.conf")
    assert (result.returncode, result.stderr) == (0, "")
    for name, mode in MODES.items():
        found = (root / name).stat()
        owner = (uid, gid) if name.startswith("var/spool/spoold") and "users" not in name else (0, 0)
        assert (name, oct(stat.S_IMODE(found.st_mode))) == (name, oct(mode))
        assert (name, found.st_uid, found.st_gid) == (name, *owner)


def test_a_folder_made_by_the_agent_inherits_the_group_without_setting_it(root: Path) -> None:
    run("systemd-sysusers", f"--root={root}", SYSTEMD / "spoold.sysusers.conf")
    run("systemd-tmpfiles", "--create", f"--root={root}", SYSTEMD / "spoold.tmpfiles.conf")
    active = root / "var/spool/spoold/active"
    (active / "job").mkdir(mode=0o770)
    made = (active / "job").stat()
    assert made.st_gid == active.stat().st_gid
    assert made.st_mode & stat.S_ISGID
