"""Notification at its limits: what inotify does not tell, the regular look finds.

The limits are lowered in a user namespace of the agent's own (user_namespaces(7)): nobody else's change.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.relay import Relay


def limit_watches(tmp_path: Path, count: int) -> str:
    """A `python` that allows itself and what it starts so many watches; skips where that is not to be had."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed (Debian: util-linux)")
    lower = f"echo {count} > /proc/sys/user/max_inotify_watches"
    command = ["unshare", "--user", "--map-root-user", "sh", "-c"]
    tried = subprocess.run([*command, lower], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"no user namespace, or its limits cannot be set: {tried.stderr.strip()}")
    script = tmp_path / "limited"
    script.write_text(f"""#!/bin/sh\nexec {" ".join(command)} '{lower}; exec "$0" "$@"' "$PYTHON" "$@"\n""")
    script.chmod(0o755)
    return str(script)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_when_the_limit_of_watches_is_reached_jobs_are_taken_by_looking(
    tmp_path: Path, relay: Relay, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """0: from the start; 1: new/ alone is watched; 3: it is reached half-way through an upload."""
    monkeypatch.setenv("PYTHON", sys.executable)
    limited = limit_watches(tmp_path, count)
    with Agent(tmp_path, relay.port) as agent:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", limited)
            agent.start()
        files = {f"messages/{name}/own.eml": b"From: <a@b.example>\n\nx\n" for name in "abcd"}
        for name in ("first", "second"):
            agent.drop(name, [f"ada@{name}.example"], files=files)
            assert agent.wait_state(name, "finished")["counts"]["sent"] == 1
        # Written in place, with nothing said of it.
        agent.write_job(agent.spool / "new" / "third", ["ada@third.example"], files=files)
        assert agent.wait_state("third", "finished")["counts"]["sent"] == 1
        failed = agent.events("watch.failed")
        if count == 0:
            assert [event["error"] for event in failed] == ["inotify watch limit reached"]
        assert all(line.startswith(b"{") for line in agent.log_file.read_bytes().splitlines())
        assert agent.stop() == 0
    assert relay.recipients == ["ada@first.example", "ada@second.example", "ada@third.example"]
    assert relay.violations == []


def test_after_an_overflow_of_inotify_every_job_is_taken(agent: Agent, relay: Relay) -> None:
    agent.start()
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 100_000:
        pytest.skip(f"fs.inotify.max_queued_events is {limit}: too many to fill")
    new, here = agent.spool / "new", [".one", ".two"]
    (new / here[0]).mkdir()
    os.kill(agent.pid, signal.SIGSTOP)
    try:
        for _ in range(limit // 2 + 100):  # two events each
            os.rename(new / here[0], new / here[1])
            here.reverse()
        names = [f"job-{number}" for number in range(20)]
        for name in names:
            agent.drop(name, [f"ada@{name}.example"])
    finally:
        os.kill(agent.pid, signal.SIGCONT)
    for name in names:
        agent.wait_state(name, "finished")
    (new / here[0]).rmdir()
    agent.drop("after", ["ada@after.example"])
    agent.wait_state("after", "finished")
    assert sorted(relay.recipients) == sorted(f"ada@{name}.example" for name in [*names, "after"])
    wait_for(lambda: not list(new.iterdir()))
    assert agent.events("agent.task_failed") == []
    assert agent.stop() == 0
