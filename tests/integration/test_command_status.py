"""`spoold status` as a process: one JSON document for programs, lines for people, and what a terminal gets."""

import json
import signal

from tests.servers.agent import Agent, wait_for
from tests.servers.relay import Relay
from tests.servers.terminal import Terminal


def test_status_json_is_one_document_for_the_agent_and_for_a_job(agent: Agent, relay: Relay) -> None:
    stopped = agent.command("status", "--json")
    document = json.loads(stopped.stdout)
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert (document["running"], document["agent"]["state"], document["jobs"]) == (False, "stopped", [])
    agent.start()
    agent.drop("good", ["ada@one.example", "bob@two.example"])
    agent.drop("part", manifest={"expect": {"recipients": 7}})
    agent.wait_state("good", "finished")
    wait_for(lambda: (agent.state() or {"uploads": []})["uploads"] and (agent.state() or {"jobs": []})["jobs"])
    document = json.loads(agent.command("status", "--json").stdout)
    assert document["running"] is True
    assert document["agent"]["pid"] == agent.pid
    assert [(job["job"], job["state"], job["counts"]["sent"]) for job in document["jobs"]] == [("good", "finished", 2)]
    assert [upload["upload"] for upload in document["uploads"]] == ["part"]
    job = agent.command("status", "good", "--json")
    assert json.loads(job.stdout) == agent.status("good")
    upload = json.loads(agent.command("status", "part", "--json").stdout)
    assert (upload["job"], upload["state"]) == ("part", "uploading")
    assert "7 recipients" in upload["waits_for"]


def test_status_for_people_shows_jobs_uploads_and_what_is_wrong(agent: Agent, relay: Relay) -> None:
    relay.stop()
    agent.start()
    agent.drop("job", ["ada@one.example", "bob@two.example"])
    agent.drop("[red]part", manifest={"expect": {"recipients": 7}})
    agent.drop("bad name")
    agent.drop("part", manifest={"expect": {"recipients": 7}})
    agent.wait_state("job", "waiting")
    agent.wait_state("bad_name", "rejected")
    wait_for(lambda: {job["job"] for job in (agent.state() or {"jobs": []})["jobs"]} == {"job", "bad_name"})
    wait_for(lambda: len((agent.state() or {"uploads": []})["uploads"]) == 2)
    whole = agent.command("status")
    assert (whole.returncode, whole.stderr) == (0, "")
    assert f"running, pid {agent.pid}, spool {agent.spool}" in whole.stdout
    assert "Relay default: 127.0.0.1" in whole.stdout
    assert "  part: waits for 7 recipients" in whole.stdout
    assert "  [red]part: waits for 7 recipients" in whole.stdout
    assert any(line.split()[:3] == ["job", "waiting:", "relay,"] for line in whole.stdout.splitlines())
    assert "\x1b" not in whole.stdout
    one = agent.command("status", "deferred/job/")
    assert one.returncode == 0
    assert one.stdout.startswith("job: waiting: the relay cannot be used")
    assert f"127.0.0.1:{relay.port}: cannot connect" in one.stdout
    unknown = agent.command("status", "nope")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr == "spoold: nope: no such job in this spool\n"
    agent.stop()
    after = agent.command("status")
    assert after.stdout.startswith(f"No agent runs on {agent.spool}.")
    assert "  part: waits for an agent" in after.stdout


def on_a_terminal(agent: Agent, **environ: str) -> bytes:
    """What `spoold status` writes to a terminal."""
    terminal = Terminal(["--config", str(agent.config), "status"], 100, environ=environ)
    assert terminal.end() == 0, terminal.text
    return terminal.raw


def test_watch_ends_with_ctrl_c_and_is_quiet_about_it(agent: Agent) -> None:
    terminal = Terminal(["--config", str(agent.config), "status", "--watch"], 100)
    terminal.wait(lambda text: "No jobs." in text)
    assert terminal.end(signal.SIGINT) == 0
    seen = terminal.raw
    assert b"\x1b[?1049h" in seen  # a screen of its own
    assert seen.rstrip().endswith(b"No jobs."), seen[-300:]  # what was seen last stays
    for word in (b"Traceback", b"KeyboardInterrupt", b"spoold: "):
        assert word not in seen


def test_no_color_leaves_a_terminal_without_colour(agent: Agent, relay: Relay) -> None:
    agent.start()
    agent.drop("job")
    agent.wait_state("job", "finished")
    wait_for(lambda: (agent.state() or {"jobs": []})["jobs"])
    coloured = on_a_terminal(agent, NO_COLOR="")
    plain = on_a_terminal(agent, NO_COLOR="1")
    assert b"job" in coloured
    assert b"job" in plain
    assert b"\x1b[3" not in plain
    assert b"\x1b[9" not in plain
