"""Drops made to do harm, some of them by a second user: told in a line, bounded, and nobody else waits for them."""

import errno
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spoold.storage.entry import Kind, NotRegularError
from spoold.storage.files import Files
from tests.servers.agent import MESSAGE, Agent, wait_for
from tests.servers.inprocess import capture, live
from tests.servers.relay import Relay
from tests.servers.upload import content, waits, write

OTHER = 12345
CANARY = "canary-7f3a91"
#: Swaps the folders and files of an upload for links that lead outside, and back, as fast as it can; counts how often.
RACER = """
import mmap, os, sys
job, outside, counter = sys.argv[2:]
count = mmap.mmap(os.open(counter, os.O_RDWR), 8)
os.chdir(job)
os.setuid(int(sys.argv[1]))
print("racing", flush=True)
swaps = 0
while True:
    try:
        for name in ("messages", "message.eml", "recipients.csv"):
            os.symlink(os.path.join(outside, name), ".swap")
            os.rename(name, ".real")
            os.rename(".swap", name)
            os.rename(name, ".swap")
            os.rename(".real", name)
            os.unlink(".swap")
            swaps += 1
            count[:] = swaps.to_bytes(8, "little")
    except OSError:
        for name in (".swap", ".real"):
            try:
                os.unlink(name)
            except OSError:
                pass
"""

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@contextmanager
def racing(job: Path, outside: Path) -> Iterator[Callable[[], int]]:
    """Give the job to another user whose process swaps its parts for links; yields how often it has done so."""
    for path in (job, *job.rglob("*")):
        os.chown(path, OTHER, OTHER)
    counter = outside / f"swaps-{job.name}"
    counter.write_bytes(bytes(8))
    command = [sys.executable, "-c", RACER, str(OTHER), str(job), str(outside), str(counter)]
    racer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert racer.stdout is not None
    try:
        assert racer.stdout.readline() == "racing\n"
        yield lambda: int.from_bytes(counter.read_bytes(), "little")
    finally:
        racer.kill()
        racer.communicate()


def write_outside(tmp_path: Path) -> Path:
    """What the links lead to."""
    outside = tmp_path / "outside"
    write(outside, {
        "message.eml": MESSAGE + CANARY.encode(),
        "recipients.csv": f"address\n{CANARY}@outside.example\n".encode(),
        "messages/1.eml": MESSAGE + CANARY.encode(),
    })  # fmt: skip
    return outside


@root_only
def test_files_read_thousands_of_times_while_links_take_their_places_are_never_those_outside(tmp_path: Path) -> None:
    """Intake's own way of reading, without a pause: each try meets the file, the link, or nothing."""
    outside = write_outside(tmp_path)
    job = tmp_path / "job"
    own = b"address\nada@one.example\n"
    write(job, {"message.eml": MESSAGE, "recipients.csv": own, "messages/1.eml": MESSAGE})
    files, met = Files(), Counter[str]()

    def links() -> int:
        return met["link"] + met["ELOOP"] + met["ENOTDIR"]

    with racing(job, outside) as swaps, files.closing(os.open(job, os.O_RDONLY | os.O_DIRECTORY)) as root:
        deadline = time.monotonic() + 45
        while (swaps() < 20_000 or links() < 500) and time.monotonic() < deadline:
            for path in (("message.eml",), ("recipients.csv",), ("messages", "1.eml")):
                try:
                    data = b"".join(files.chunks(root, path))
                    met["file"] += 1
                    assert data in (MESSAGE, own)
                except NotRegularError:
                    met["link"] += 1
                except OSError as error:
                    met[errno.errorcode[error.errno or 0]] += 1
            for entry in files.walk(root, max_entries=100, max_depth=20):
                assert entry.path[0] not in ("message.eml", "messages") or entry.size != len(MESSAGE) + len(CANARY)
        assert swaps() >= 5_000
    # How often the two processes meet is the machine's affair.
    assert min(met["file"], links()) >= 100, met
    assert met.keys() <= {"file", "link", "ELOOP", "ENOTDIR", "ENOENT"}, met


@root_only
def test_folders_swapped_for_links_while_they_are_read_lead_nowhere(agent: Agent, relay: Relay, tmp_path: Path) -> None:
    outside, swapped = write_outside(tmp_path), 0
    agent.start()
    for number in range(6):
        name = f"race-{number}"
        folder = agent.spool / "new" / name
        own = f"address,message\nada@{name}.example,messages/1.eml\nbob@{name}.example,\n"
        agent.write_job(folder, own, files={"messages/1.eml": MESSAGE})
        with racing(folder, outside) as swaps:
            # Taken, by luck, or told to have changed: it is looked at all the while.
            wait_for(lambda name=name: name in waits(agent) or not (agent.spool / "new" / name).exists())  # type: ignore[misc]
            wait_for(lambda swaps=swaps: swaps() >= 1_000)  # type: ignore[misc]
            swapped += swaps()
    assert swapped >= 6_000
    agent.drop("beside", ["ada@beside.example"])
    agent.wait_state("beside", "finished")
    assert agent.stop() == 0
    assert CANARY.encode() not in b"".join(message.data for message in relay.accepted)
    assert not [to for to in relay.recipients if CANARY in to]
    for folder_name in ("active", "deferred", "done", ".spoold"):
        for path in (agent.spool / folder_name).rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert CANARY.encode() not in path.read_bytes(), path
    assert CANARY not in agent.log_file.read_text()
    assert agent.events("agent.task_failed") == []


class Swapping(Files):
    """Real files; where the message should be, a link stands at the first `times` looks."""

    times = 1

    def open_file(self, root: int, path: tuple[str, ...], *, known: bool = False) -> int:
        if path == ("message.eml",) and self.times:
            self.times -= 1
            raise NotRegularError(Kind.SYMLINK)
        return super().open_file(root, path, known=known)


async def test_link_found_where_a_file_was_a_moment_ago_is_the_uploads_problem_and_no_bug(
    agent: Agent, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = capture(monkeypatch)
    agent.drop("job", ["ada@one.example"], files={"READY": b""})
    assert await live(agent, Swapping(), lambda: (agent.spool / "done/job").exists()) is None
    assert relay.recipients == ["ada@one.example"]
    told = "it changed while it was looked at: where a file was is a symbolic link; a job has plain files only"
    assert log.of("upload.problem") == [{"upload": "job", "problem": told}]
    assert log.of("agent.task_failed") == []


NAMES = {
    "newline": b"a\nb",
    "escape": b"a\x1b[31mb",
    "invalid UTF-8": b"a\xff\xfeb",
    "255 bytes": b"n" * 251 + b".eml",
    "claim": b".claim-job",
    "take": b".take-job",
    "taken": b".taken-job",
    "temporary report": b".status.json.tmp",
}


def test_hostile_names_inside_a_job_and_of_jobs_are_escaped_and_harm_nobody(agent: Agent, relay: Relay) -> None:
    agent.start()
    for number, name in enumerate(NAMES.values()):
        job = agent.spool / "tmp" / f"inside-{number}"
        agent.write_job(job, [f"ada@inside{number}.example"])
        for place in (b"", b"sub"):
            folder = os.path.join(os.fsencode(job), place)
            os.makedirs(folder, exist_ok=True)
            with open(os.path.join(folder, name), "wb") as file:
                file.write(MESSAGE)
        job.rename(agent.spool / "new" / job.name)
        if not name.startswith(b"."):
            write(agent.spool / "tmp" / "outer", content(f"ada@outer{number}.example"))
            os.rename(agent.spool / "tmp" / "outer", os.path.join(os.fsencode(agent.spool / "new"), name))
    for number in range(len(NAMES)):
        assert agent.wait_state(f"inside-{number}", "finished")["counts"]["sent"] == 1
    outer = sum(not name.startswith(b".") for name in NAMES.values())
    wait_for(lambda: len(agent.events("job.rejected")) == outer)
    assert sorted(relay.recipients) == sorted(f"ada@inside{number}.example" for number in range(len(NAMES)))
    assert agent.stop() == 0
    # Told, each in a line that any terminal and any parser can take.
    for path in agent.spool.glob("done/*/report/status.txt"):
        assert all(line.isprintable() for line in path.read_text().splitlines()), path
    assert all(line.startswith(b"{") for line in agent.log_file.read_bytes().splitlines())
    assert agent.events("agent.task_failed") == []


def test_planted_folders_in_active_and_temporary_names_are_told_and_cleared_by_the_next_start(
    agent: Agent, relay: Relay
) -> None:
    """In the agent's own folders: only its own uid can, or somebody whom it was told to trust."""
    (agent.spool / "active/.take-job").mkdir()
    (agent.spool / "active/.take-job/evil.eml").write_bytes(MESSAGE)
    (agent.spool / "new/.taken-old").mkdir()
    (agent.spool / ".status.json.tmp").mkdir()
    agent.start()
    [told] = wait_for(lambda: agent.events("upload.problem"))
    assert told["upload"] == "job"
    assert "was removed while it was being taken" in told["problem"]
    assert not (agent.spool / "active/.take-job").exists()
    assert not (agent.spool / "new/job").exists()
    agent.drop("good", ["ada@good.example"])
    assert agent.wait_state("good", "finished")["counts"]["sent"] == 1
    assert relay.recipients == ["ada@good.example"]
    assert not (agent.spool / "new/.taken-old").exists()
    assert agent.events("agent.task_failed") == []
    assert agent.stop() == 0


def test_flood_of_folders_files_levels_and_bytes_is_refused_in_a_line_and_delays_another_job_by_seconds_at_most(
    tmp_path: Path, relay: Relay
) -> None:
    """Together: 10,000 empty folders, more files in one than are looked at, 200 levels, a large message, a crowd."""
    with Agent(tmp_path, relay.port, config={"intake": {"settle": "1s", "max_recipients": 2000}}) as agent:
        tmp, new = agent.spool / "tmp", agent.spool / "new"
        many = agent.write_job(tmp / "many", ["ada@many.example"])
        (many / "heap").mkdir()
        heap = os.open(many / "heap", os.O_RDONLY)
        for number in range(4_000):
            os.close(os.open(f"{number}", os.O_CREAT | os.O_WRONLY, dir_fd=heap))
        os.close(heap)
        deep = agent.write_job(tmp / "deep", ["ada@deep.example"])
        for _ in range(200):
            deep = deep / "d"
            deep.mkdir()
        large = agent.write_job(tmp / "large", ["ada@large.example"])
        with (large / "message.eml").open("r+b") as file:
            file.truncate(1 << 27)
        agent.write_job(tmp / "crowd", [f"r{number}@crowd.example" for number in range(2001)])
        agent.start()
        for number in range(10_000):
            (new / f"empty-{number}").mkdir()
        for name in ("many", "deep", "large", "crowd"):
            (tmp / name).rename(new / name)
        agent.drop("small", ["ada@small.example"])
        assert agent.wait_state("small", "finished", 20)["counts"]["sent"] == 1
        assert "intake.max_recipients" in agent.wait_state("crowd", "rejected", 30)["errors"][0]
        assert "intake.max_message" in agent.wait_state("large", "rejected", 30)["errors"][0]
        wait_for(lambda: "more than 3000 files" in waits(agent).get("many", ""), 20)
        wait_for(lambda: "20 folders deep" in waits(agent).get("deep", ""), 20)
        assert relay.recipients == ["ada@small.example"]
        assert agent.events("agent.task_failed") == []
        assert agent.stop() == 0


def test_new_replaced_by_another_folder_while_the_agent_runs_is_told_with_what_to_do(
    agent: Agent, relay: Relay
) -> None:
    agent.start()
    (agent.spool / "new").rename(agent.spool / "old")
    (agent.spool / "new").mkdir()
    agent.drop("lost", ["ada@lost.example"])
    [told] = wait_for(lambda: agent.events("spool.failed"))
    assert "new" in told["error"]
    assert "restart" in told["error"]
    assert agent.stop() == 0
    agent.start()
    agent.wait_state("lost", "finished")
    assert relay.recipients == ["ada@lost.example"]
    shutil.rmtree(agent.spool / "old")
