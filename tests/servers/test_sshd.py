"""What other tests rely on when they ask for an sshd."""

import signal
from pathlib import Path

import pytest

from tests.servers.process import wait_until
from tests.servers.sshd import Sshd
from tests.servers.talk import MESSAGE


@pytest.fixture
def job(tmp_path: Path) -> Path:
    folder = tmp_path / "job"
    (folder / "messages").mkdir(parents=True)
    (folder / "job.yaml").write_text("sender: a@b.example\n")
    (folder / "messages" / "1.eml").write_bytes(MESSAGE)
    return folder


def test_rsync_and_scp_upload_through_sshd(sshd: Sshd, job: Path, tmp_path: Path) -> None:
    for result in (sshd.rsync(job, tmp_path / "by-rsync"), sshd.scp(job, tmp_path / "by-scp")):
        assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "by-rsync" / "job" / "messages" / "1.eml").read_bytes() == MESSAGE
    assert (tmp_path / "by-scp" / "messages" / "1.eml").read_bytes() == MESSAGE


def test_ssh_runs_commands(sshd: Sshd, tmp_path: Path) -> None:
    assert sshd.run(f"cat > {tmp_path}/READY; exit 3", stdin="x").returncode == 3
    assert (tmp_path / "READY").read_text() == "x"


def test_an_rsync_can_be_cut_in_the_middle(sshd: Sshd, job: Path, tmp_path: Path) -> None:
    (job / "messages" / "2.eml").write_bytes(b"x" * 3_000_000)
    target = tmp_path / "new"
    with sshd.popen_rsync(job, target, "-a", "--bwlimit=200") as rsync:
        wait_until(lambda: list(target.glob("job/messages/.2.eml.*")) != [], 10, "rsync's temporary file")
        rsync.kill()
    assert rsync.returncode == -signal.SIGKILL
    assert not (target / "job" / "messages" / "2.eml").exists()
    assert (target / "job" / "job.yaml").exists()


def test_a_failed_upload_is_a_return_code(sshd: Sshd, tmp_path: Path) -> None:
    assert sshd.rsync(tmp_path / "missing", tmp_path / "x").returncode == 23
