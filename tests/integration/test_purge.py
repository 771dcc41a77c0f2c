"""`spoold purge`: jobs that are done go, with an agent and without one, and nothing else does."""

import json

import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.relay import Relay

pytestmark = pytest.mark.agent(config={"keep_done": "forever"})


def _jobs(agent: Agent) -> None:
    agent.start()
    for name in ("a", "b"):
        agent.drop(name, [f"{name}@one.example"])
        agent.wait_state(name, "finished")
    agent.drop("bad", [], manifest={"rate": "often"})
    agent.wait_state("bad", "rejected")
    agent.drop("held", ["c@one.example"], files={"HOLD": b""})
    agent.wait_state("held", "held")
    # A folder that stands in done/ and is none of the agent's jobs, and a job whose folder somebody moved there.
    (agent.spool / "done" / "mine").mkdir()


def _aged(agent: Agent) -> dict[str, object]:
    """What would be removed, once all three have been done for a second."""

    def look() -> dict[str, object] | None:
        done = agent.command("purge", "--older-than", "1s", "--dry-run", "--json")
        found: dict[str, object] = json.loads(done.stdout)
        return found if len(found["jobs"]) == 3 else None  # type: ignore[arg-type]

    return wait_for(look)


@pytest.mark.parametrize("running", [True, False])
def test_only_jobs_that_are_done_are_removed(agent: Agent, relay: Relay, running: bool) -> None:
    _jobs(agent)
    if not running:
        assert agent.stop() == 0
    assert _aged(agent) == {"jobs": ["a", "b", "bad"], "removed": [], "dry_run": True}
    assert agent.names("done") == ["a", "b", "bad", "mine"]
    young = agent.command("purge", "--older-than", "30d", "--yes")
    assert (young.returncode, young.stdout) == (0, "No job has been done for 30d.\n")

    unasked = agent.command("purge", "--older-than", "1s")
    assert (unasked.returncode, unasked.stderr) == (
        2,
        "spoold: nobody can be asked here: expected --yes, or --dry-run\n",
    )
    done = agent.command("purge", "--older-than", "1s", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "a\nb\nbad\n3 job(s) removed.\n"
    assert agent.names("done") == ["mine"]
    assert agent.names("deferred") == ["held"]
    assert not [path.name for path in (agent.spool / ".spoold").iterdir() if "purge" in path.name]
    if running:
        assert sorted(event["job"] for event in agent.events("job.removed")) == ["a", "b", "bad"]
        wait_for(lambda: [job["job"] for job in (agent.state() or {})["jobs"]] == ["held"])
    else:
        agent.start()
    # What was removed is forgotten: the same content is a new job.
    agent.drop("a", ["a@one.example"])
    agent.wait_state("a", "finished")
    (agent.spool / "deferred" / "held" / "HOLD").unlink()
    agent.wait_state("held", "finished")
    assert sorted(relay.recipients) == ["a@one.example", "a@one.example", "b@one.example", "c@one.example"]
    assert agent.events("agent.task_failed") == []


def test_agent_that_was_killed_is_stood_in_for(agent: Agent) -> None:
    _jobs(agent)
    _aged(agent)
    agent.kill()
    done = agent.command("purge", "--older-than", "1s", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"jobs": ["a", "b", "bad"], "removed": ["a", "b", "bad"], "dry_run": False}
    assert agent.names("done") == ["mine"]


def test_broken_request_does_no_harm(agent: Agent, relay: Relay) -> None:
    agent.start()
    agent.drop("a", ["a@one.example"])
    agent.wait_state("a", "finished")
    (agent.spool / ".spoold" / "purge-x").write_bytes(b"{")
    wait_for(lambda: not (agent.spool / ".spoold" / "purge-x").exists())
    assert agent.names("done") == ["a"]
    (event,) = agent.events("job.remove_failed")
    assert event["error"].startswith("not a request")


def test_wrong_age_is_told(agent: Agent) -> None:
    done = agent.command("purge", "--older-than", "soon", "--yes")
    assert done.returncode == 2
    assert done.stderr == "spoold: --older-than: expected a duration such as 90s, 5m, 1h30m, 5d or 2w; got 'soon'\n"
