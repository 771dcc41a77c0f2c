"""Mounts in a job's folder, as anybody can make one with FUSE on a folder of his own: nobody renames nor removes them."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.nursery import PLAIN
from tests.servers.relay import Relay

OTHER = 12345

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


@contextmanager
def mounted(path: Path, other: Path) -> Iterator[None]:
    """A mount on the folder `path`, of another user who lets nobody in."""
    other.mkdir()
    (other / "precious").touch()
    os.chown(other, OTHER, OTHER)
    other.chmod(0o700)
    if subprocess.run(["mount", "--bind", str(other), str(path)], capture_output=True).returncode != 0:
        pytest.skip("no mounts here")
    try:
        yield
    finally:
        # The folder that it is in may stand elsewhere by now.
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        for place in [line.split()[4] for line in lines if f"/{path.name} " in line and str(other.parent) in line]:
            subprocess.run(["umount", place], check=True)
    assert [entry.name for entry in other.iterdir()] == ["precious"]


def test_job_whose_report_is_a_mount_ends_in_order_and_holds_up_nobody(tmp_path: Path, relay: Relay) -> None:
    with Agent(tmp_path, relay.port, environ={PLAIN: "1"}) as agent:
        agent.start()
        agent.drop("victim", [f"u{number}@victim.example" for number in range(200)], manifest={"rate": "5/s"})
        agent.wait_state("victim", "sending")
        assert agent.stop() == 0
        with mounted(agent.spool / "active/victim/report", tmp_path / "other"):
            agent.start()
            agent.drop("other", ["ada@one.example"])
            agent.wait_state("other", "finished", 10)
            [told] = wait_for(lambda: agent.events("report.failed"))
            assert told["job"] == "victim"
            assert "Permission denied" in told["error"]
            (agent.spool / "active/victim/CANCEL").touch()
            wait_for(lambda: agent.events("job.cancelled"), 2, "CANCEL")
            # What is left of the folder is set aside, and the report is whole.
            status = agent.wait_state("victim", "cancelled", 10)
            assert status["counts"]["sent"] == sum(to.endswith("@victim.example") for to in relay.recipients)
            assert agent.stop() == 0
            agent.start()
            assert agent.stop() == 0
        assert agent.events("agent.task_failed") == []


def test_retry_that_is_a_mount_is_obeyed_once(tmp_path: Path, relay: Relay) -> None:
    with Agent(tmp_path, relay.port, environ={PLAIN: "1"}) as agent:
        agent.start()
        agent.drop("job", ["ada@one.example"], manifest={"send_after": "2099-01-01T00:00:00Z"})
        agent.wait_state("job", "scheduled")
        assert agent.stop() == 0
        order = agent.spool / "deferred/job/RETRY"
        order.mkdir()
        with mounted(order, tmp_path / "other"):
            agent.start()
            wait_for(lambda: agent.events("job.retried"))
            # Some looks later, which another job's life shows.
            begun = time.monotonic()
            agent.drop("other", [f"u{number}@one.example" for number in range(16)], manifest={"rate": "4/s"})
            agent.wait_state("other", "finished")
            assert time.monotonic() - begun > 3
            assert len(agent.events("job.retried")) == 1
            (agent.spool / "deferred/job/CANCEL").touch()
            agent.wait_state("job", "cancelled", 8)
            assert agent.stop() == 0
