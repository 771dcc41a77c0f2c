"""`spoold submit`: to a spool here and, through a real sshd, on another machine; cut, repeated, and refused."""

import base64
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.process import descendants, find_program
from tests.servers.relay import Relay
from tests.servers.sshd import Sshd


def submit(
    agent: Agent, *arguments: str | Path, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "spoold", "--config", str(agent.config), "submit", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, env={**(environ or os.environ)}, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


# --- a spool on this machine --------------------------------------------------------------------------------------


def test_submit_to_the_configured_spool_is_sealed_and_says_where_the_job_stands(
    agent: Agent, relay: Relay, tmp_path: Path
) -> None:
    agent.start()
    job = agent.write_job(
        tmp_path / "sale", ["ada@one.example"], files={"READY": b"", "report/status.txt": b"old", ".x": b""}
    )
    before = {path: path.stat().st_mtime_ns for path in (job, *job.rglob("*"))}
    done = submit(agent, job, "--wait")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"sale: 1 recipient(s), 1 message(s), handed over to {agent.spool}\nsale: in done/, finished: 1 sent\n"
    )
    assert done.stderr == ""
    assert {path: path.stat().st_mtime_ns for path in (job, *job.rglob("*"))} == before
    (accepted,) = agent.events("job.accepted")
    assert accepted["rule"] == "sealed"
    taken = agent.spool / "done" / "sale"
    assert {path.name for path in taken.iterdir()} == {
        "SHA256SUMS",
        "job.yaml",
        "message.eml",
        "recipients.csv",
        "report",
    }
    assert relay.recipients == ["ada@one.example"]
    assert agent.names("tmp") == []


def test_submit_without_an_agent_says_that_the_job_waits(agent: Agent, tmp_path: Path) -> None:
    job = agent.write_job(tmp_path / "job", ["ada@one.example"])
    done = submit(agent, job, agent.spool, "--name", "other")
    assert done.returncode == 0
    assert done.stdout.endswith("other: in new/, not taken yet; the agent takes it when it runs\n")
    assert agent.names() == ["other"]
    again = submit(agent, job, "--name", "other")
    assert again.returncode == 1
    assert (
        again.stderr == "spoold: new/other: an upload of this name waits there already; wait, or give another --name\n"
    )
    assert agent.names() == ["other"]
    assert agent.names("tmp") == []


def test_repeated_submit_is_told_to_be_a_duplicate_and_other_content_gets_a_number(
    agent: Agent, relay: Relay, tmp_path: Path
) -> None:
    agent.start()
    job = agent.write_job(tmp_path / "job", ["ada@one.example"])
    assert submit(agent, job, "--wait").returncode == 0
    again = submit(agent, job)
    assert again.returncode == 1
    assert again.stdout.splitlines()[-1] == "job.2: in done/, rejected (duplicate of job)"
    assert again.stderr == "note: there is a job job already, in done/; this one gets a number\n"
    (job / "recipients.csv").write_text("address\nbob@one.example\n")
    other = submit(agent, job, "--wait")
    assert (other.returncode, other.stdout.splitlines()[-1]) == (0, "job.3: in done/, finished: 1 sent")
    assert relay.recipients == ["ada@one.example", "bob@one.example"]


def test_job_that_would_be_rejected_is_not_copied(agent: Agent, tmp_path: Path) -> None:
    job = agent.write_job(tmp_path / "job", ["ada@one.example"], manifest={"rate": "often"})
    done = submit(agent, job)
    assert done.returncode == 1
    assert "job.yaml:3:" in done.stderr
    assert done.stderr.endswith(f"spoold: {job}: not submitted, nothing was copied\n")
    assert agent.names() == agent.names("tmp") == []


def test_bad_recipients_are_told_and_the_others_are_sent_to(agent: Agent, relay: Relay, tmp_path: Path) -> None:
    agent.start()
    job = agent.write_job(tmp_path / "job", ["ada@one.example", "nobody"])
    done = submit(agent, job, "--wait")
    assert done.returncode == 1
    assert done.stderr.startswith("recipients.csv:3: 'nobody' is not an address")
    assert done.stdout.endswith("job: in done/, finished: 1 sent, 1 failed\n")
    assert relay.recipients == ["ada@one.example"]


def test_seal_that_does_not_fit_the_folder_is_an_error(agent: Agent, tmp_path: Path) -> None:
    job = agent.write_job(tmp_path / "job", ["ada@one.example"])
    assert agent.command("seal", str(job)).returncode == 0
    (job / "recipients.csv").write_text("address\nbob@one.example\n")
    done = submit(agent, job)
    assert done.returncode == 1
    assert "SHA256SUMS: recipients.csv was changed since it was sealed; seal it again" in done.stderr
    assert agent.names() == []


@pytest.mark.parametrize(
    ("dest", "text"),
    [
        ("-oProxyCommand=touch${IFS}pwned:spool", "a host's name does not begin with '-'"),
        ("host::module", "expected host:spool, by ssh"),
        ("host:a\nb", "a spool's path has no control characters"),
        ("host:~root/spool", "expected a path, absolute or from the home directory"),
    ],
)
def test_destinations_that_could_mislead_ssh_are_refused(agent: Agent, tmp_path: Path, dest: str, text: str) -> None:
    job = agent.write_job(tmp_path / "job", ["ada@one.example"])
    done = submit(agent, job, "--", dest) if dest.startswith("-") else submit(agent, job, dest)
    assert done.returncode == 2
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_folder_that_is_no_spool_is_told(agent: Agent, tmp_path: Path) -> None:
    job = agent.write_job(tmp_path / "job", ["ada@one.example"])
    done = submit(agent, job, tmp_path)
    assert done.returncode == 1
    assert (
        done.stderr
        == f"spoold: {tmp_path}: no spool here (tmp/ and new/ are missing); make one: spoold init {tmp_path}\n"
    )


# --- a spool on another machine -----------------------------------------------------------------------------------


def test_submit_by_ssh_is_renamed_in_and_waited_for(agent: Agent, relay: Relay, sshd: Sshd, tmp_path: Path) -> None:
    agent.start()
    (agent.spool / "tmp").chmod(0o2770)
    job = agent.write_job(tmp_path / "sale", ["ada@one.example"], files={"a/b c'\"$.pdf": b"x", "READY": b""})
    (job / "SHA256SUMS").write_bytes(b"")
    assert agent.command("seal", str(job)).returncode == 0
    with (job / "SHA256SUMS").open("ab") as seal:
        seal.write(b"\n")  # the same in another form
    done = submit(agent, job, f"{sshd.host}:{agent.spool}", "--wait", environ=sshd.environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"sale: 1 recipient(s), 1 message(s), handed over to {sshd.host}:{agent.spool}\nsale: in done/, finished: 1 sent\n"
    )
    taken = agent.spool / "done" / "sale"
    assert (taken / "a" / "b c'\"$.pdf").read_bytes() == b"x"
    assert not (taken / "READY").exists()
    assert (taken / "message.eml").stat().st_mode & 0o777 == 0o660
    assert relay.recipients == ["ada@one.example"]
    assert agent.names("tmp") == agent.names() == []


@pytest.mark.parametrize("spool", ["it's $(touch pwned) a spool;", "spool with 'quotes\" and \\"])
def test_no_path_reaches_a_remote_shell_unquoted(relay: Relay, sshd: Sshd, tmp_path: Path, spool: str) -> None:
    with Agent(tmp_path, relay.port) as agent:
        job = agent.write_job(tmp_path / "job", ["ada@one.example"])
        target = tmp_path / spool
        shutil.copytree(agent.spool, target)
        done = submit(agent, job, f"{sshd.host}:{os.path.relpath(target, Path.home())}", environ=sshd.environment)
        assert done.returncode == 0, done.stderr
        assert sorted(entry.name for entry in (target / "new" / "job").iterdir()) == [
            "SHA256SUMS", "job.yaml", "message.eml", "recipients.csv",
        ]  # fmt: skip
        assert not list(tmp_path.rglob("pwned"))
        assert not (Path.home() / "pwned").exists()


def _slow_rsync(folder: Path) -> Path:
    """A rsync that is slow, and logs how much it sent."""
    folder.mkdir()
    script = folder / "rsync"
    script.write_text(f'#!/bin/sh\nexec {find_program("rsync")} --bwlimit=400 --log-file={folder}/log "$@"\n')
    script.chmod(0o755)
    return folder


def test_cut_upload_leaves_new_empty_and_a_second_submit_goes_on(
    agent: Agent, relay: Relay, sshd: Sshd, tmp_path: Path
) -> None:
    agent.start()
    chance = random.Random(7)
    pad = [base64.b64encode(chance.randbytes(7500)).decode() for _ in range(100)]
    rows = "address,pad\n" + "".join(f"r{number}@job.example,{text}\n" for number, text in enumerate(pad))
    job = agent.write_job(tmp_path / "large", rows)
    tools = _slow_rsync(tmp_path / "bin")
    environ = {**sshd.environment, "PATH": f"{tools}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "spoold", "submit", str(job), f"{sshd.host}:{agent.spool}"]

    def staged() -> int:
        sizes = []
        for path in (agent.spool / "tmp").rglob("*"):
            try:
                sizes.append(path.stat().st_size if path.is_file() else 0)
            except FileNotFoundError:
                continue
        return sum(sizes)

    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: staged() > 400_000, what="a part of the upload")
        (client,) = [
            pid for pid in descendants(process.pid) if _program(pid) == "rsync" and _parent(pid) == process.pid
        ]
        os.kill(client, signal.SIGKILL)
        _, stderr = process.communicate(timeout=20)
        assert process.returncode == 1
    assert "the copy ended early (rsync, exit code -9)" in stderr
    assert "run the same command again, it goes on where it was" in stderr
    assert "Traceback" not in stderr
    assert agent.names() == []
    # What was there is kept under the file's own name by the server's rsync, which notices a moment later.
    wait_for(lambda: [path for path in (agent.spool / "tmp").rglob("recipients.csv") if path.stat().st_size > 300_000])
    assert relay.accepted == []

    (tools / "log").unlink()
    done = submit(agent, job, f"{sshd.host}:{agent.spool}", environ=environ)
    assert done.returncode == 0, done.stderr
    sent = int((tools / "log").read_text().split("sent ")[1].split(" ")[0].replace(",", ""))
    assert sent < 700_000, "the second upload sent everything again"
    agent.wait_state("large", "finished")
    assert len(relay.recipients) == len(set(relay.recipients)) == 100
    assert agent.names("tmp") == agent.names() == []


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_other_sides_troubles_are_one_line(agent: Agent, sshd: Sshd, tmp_path: Path) -> None:
    job = agent.write_job(tmp_path / "job", ["ada@one.example"])
    nowhere = submit(agent, job, f"{sshd.host}:{tmp_path}/none", environ=sshd.environment)
    assert nowhere.returncode == 1
    assert nowhere.stderr == (
        f"spoold: {sshd.host}:{tmp_path}/none: no spool there (tmp/ and new/ are missing); make one: spoold init\n"
    )
    unknown = submit(agent, job, "no.such.host.invalid:spool", environ=sshd.environment)
    assert unknown.returncode == 1
    assert "cannot be reached" in unknown.stderr
    assert len(unknown.stderr.splitlines()) == 1
    (agent.spool / "new" / "job").mkdir()
    taken = submit(agent, job, f"{sshd.host}:{agent.spool}", environ=sshd.environment)
    assert taken.returncode == 1
    assert "an upload of this name waits there already" in taken.stderr
