"""Uploads by the real rsync, scp and ssh through a real sshd: whole, cut, repeated, too late, and beside the mark."""

import contextlib
import re
import subprocess
from pathlib import Path

import pytest

from tests.servers.agent import MESSAGE, Agent, wait_for
from tests.servers.process import find_program
from tests.servers.relay import Relay
from tests.servers.sshd import Sshd
from tests.servers.upload import assert_whole, waits

COUNT = 100


def _large(agent: Agent, folder: Path, name: str) -> Path:
    """A job whose list takes some seconds on a slow line: each of its 100 rows has 10 kB."""
    rows = "address,pad\n" + "".join(f"r{n}@{name}.example,{'x' * 10_000}\n" for n in range(COUNT))
    return agent.write_job(folder / name, rows, manifest={"expect": {"recipients": COUNT}})


def _arrived(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _cut(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Kill an upload when a third of it is there."""

    def is_under_way() -> bool:
        assert process.poll() is None, process.stderr and process.stderr.read()
        try:
            return _arrived(folder) > 300_000
        except FileNotFoundError:  # a temporary name that went
            return False

    wait_for(is_under_way, what="a third of the upload")
    process.kill()
    process.wait()


def test_rsync_is_taken_when_quiet_and_its_repetition_is_not_sent(
    agent: Agent, relay: Relay, sshd: Sshd, tmp_path: Path
) -> None:
    agent.start()
    job = agent.write_job(tmp_path / "job", ["ada@job.example"], files={"messages/1.eml": MESSAGE})
    new = agent.spool / "new"
    assert sshd.rsync(job, f"{new}/").returncode == 0
    assert agent.wait_state("job", "finished")["counts"]["sent"] == 1
    (accepted,) = agent.events("job.accepted")
    assert (accepted["job"], accepted["rule"]) == ("job", "quiet")
    (mail,) = relay.accepted
    assert mail.data.endswith(MESSAGE.replace(b"\n", b"\r\n"))
    done = agent.spool / "done" / "job"
    before = {path: path.read_bytes() for path in done.rglob("*") if path.is_file() and "report" not in path.parts}
    assert len(before) == 4

    # The very same again: rsync finds nothing in new/ and uploads it all anew.
    assert sshd.rsync(job, f"{new}/").returncode == 0
    status = agent.wait_state("job.2", "rejected")
    assert status["errors"] == ["duplicate of job"]
    # The same name with other content is a job of its own; declared complete, this time.
    (job / "recipients.csv").write_text("address\nbob@job.example\n")
    assert sshd.rsync(job, f"{new}/").returncode == 0
    assert sshd.run(f"touch {new}/job/READY").returncode == 0
    assert agent.wait_state("job.3", "finished")["counts"]["sent"] == 1
    assert relay.recipients == ["ada@job.example", "bob@job.example"]
    assert {path: path.read_bytes() for path in before} == before
    assert relay.violations == []
    assert not list(new.iterdir())


def test_upload_to_tmp_and_rename_is_taken_at_once(agent: Agent, relay: Relay, sshd: Sshd, tmp_path: Path) -> None:
    agent.start()
    job = agent.write_job(tmp_path / "job", ["ada@renamed.example"])
    assert sshd.rsync(job, f"{agent.spool}/tmp/").returncode == 0
    assert sshd.run(f"mv {agent.spool}/tmp/job {agent.spool}/new/").returncode == 0
    agent.wait_state("job", "finished")
    assert [event["rule"] for event in agent.events("job.accepted")] == ["renamed in"]
    assert relay.recipients == ["ada@renamed.example"]


#: Ways to upload, and what the agent waits for when one is cut in the middle of the list.
CUTS: dict[str, tuple[tuple[str, ...], str]] = {
    "plain": (("-a",), r"recipients\.csv or recipients\.txt"),
    "partial": (
        ("-a", "--partial"),
        r"the rest of recipients\.csv \(its time is 0, as rsync --partial leaves it\)",
    ),
    "partial-dir": (
        ("-a", "--partial-dir=.rsync-partial"),
        r"the upload to finish \(\.rsync-partial/recipients\.csv is a temporary name\)",
    ),
    "inplace": (
        ("-a", "--inplace"),
        r"the rest of recipients\.csv \(it does not end .*|100 recipients, which job\.yaml expects; there are \d+",
    ),
    # scp sends the files in no order.
    "scp": ((), r"the rest of recipients\.csv .*|100 recipients, which .*|job\.yaml|message\.eml"),
}


def test_cut_uploads_are_not_taken_and_a_second_try_completes_them(
    agent: Agent, relay: Relay, sshd: Sshd, tmp_path: Path
) -> None:
    agent.start()
    new = agent.spool / "new"
    jobs = {name: _large(agent, tmp_path, name) for name in CUTS}
    scp = [find_program("scp"), *sshd.options, "-q", "-r", "-p", "-l", "1200", str(jobs["scp"]), f"{sshd.host}:{new}/"]
    with contextlib.ExitStack() as stack:
        running = {
            name: stack.enter_context(
                sshd.popen_rsync(jobs[name], f"{new}/", *options, "--bwlimit=300")
                if options
                else subprocess.Popen(scp, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
            )
            for name, (options, _) in CUTS.items()
        }
        for name, process in running.items():
            _cut(process, new / name)

    def is_told() -> bool:
        told = waits(agent)
        return all(re.fullmatch(waits_for, told.get(name, "")) for name, (_, waits_for) in CUTS.items())

    # What is left is told, and let alone for longer than the settling time.
    wait_for(is_told, what="the cut uploads in status.json")
    sizes = {name: _arrived(new / name) for name in CUTS}
    agent.drop("beside", ["ada@beside.example"])
    agent.wait_state("beside", "finished")
    told = agent.state() or {}
    wait_for(lambda: (agent.state() or {})["updated_at"] != told["updated_at"], what="another look")
    assert is_told()
    assert {name: _arrived(new / name) for name in CUTS} == sizes
    assert max(sizes.values()) < 1_000_000
    assert relay.recipients == ["ada@beside.example"]

    for name, (options, _) in CUTS.items():
        again = sshd.rsync(jobs[name], f"{new}/", *options) if options else sshd.scp(jobs[name], f"{new}/")
        assert again.returncode == 0, again.stderr
    for name in CUTS:
        status = agent.wait_state(name, "finished")
        assert status["counts"]["sent"] == status["total"] == COUNT
        assert_whole(status)
    everybody = [f"r{n}@{name}.example" for name in CUTS for n in range(COUNT)]
    assert sorted(relay.recipients) == sorted([*everybody, "ada@beside.example"])
    assert agent.events("job.rejected") == []
    assert relay.violations == []


def test_rsync_of_the_content_instead_of_the_folder_is_told(
    agent: Agent, relay: Relay, sshd: Sshd, tmp_path: Path
) -> None:
    agent.start()
    job = agent.write_job(tmp_path / "job", ["ada@loose.example"])
    assert sshd.rsync(f"{job}/", f"{agent.spool}/new/").returncode == 0
    names = {"job.yaml", "message.eml", "recipients.csv"}
    told = wait_for(lambda: waits(agent) if names <= {n for n, t in waits(agent).items() if "first" not in t} else None)
    assert set(told) == names
    for text in told.values():
        assert "`rsync -a job host:new/` (without a / behind job)" in text
    assert sshd.rsync(job, f"{agent.spool}/new/").returncode == 0
    agent.wait_state("job", "finished")
    assert relay.recipients == ["ada@loose.example"]


@pytest.mark.parametrize("into", ["new/", "new/late/"])
def test_rsync_that_still_runs_when_the_job_is_taken_changes_nothing(
    agent: Agent, relay: Relay, sshd: Sshd, tmp_path: Path, into: str
) -> None:
    agent.start()
    job = agent.write_job(tmp_path / "late", ["ada@late.example"], files={"HOLD": b"", "zz.pdf": b"x" * 1_000_000})
    new = agent.spool / "new"
    source = job if into == "new/" else f"{job}/"
    with sshd.popen_rsync(source, agent.spool / into, "-a", "--bwlimit=300") as process:

        def is_under_way() -> bool:
            names = [path.name for path in (new / "late").iterdir()] if (new / "late").is_dir() else []
            return "recipients.csv" in names and any(name.startswith(".zz.pdf.") for name in names)

        wait_for(is_under_way, what="the last file")
        assert sshd.run(f"touch {new}/late/READY").returncode == 0
        agent.wait_state("late", "held")
        assert process.poll() is None, "the upload should still be running"
        held = agent.spool / "deferred" / "late"
        before = {path: path.read_bytes() for path in held.rglob("*") if path.is_file() and "report" not in path.parts}
        process.wait(20)
    assert {path: path.read_bytes() for path in before} == before
    (held / "HOLD").unlink()
    status = agent.wait_state("late", "finished")
    assert status["counts"]["sent"] == status["total"] == 1
    assert relay.recipients == ["ada@late.example"]
    assert agent.events("agent.task_failed") == []
