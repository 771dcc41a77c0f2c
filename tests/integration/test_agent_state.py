"""What the agent says of itself, in status.json and in metrics.prom: true, and never old."""

import time
from datetime import datetime

from spoold import __version__
from tests.servers.agent import Agent, wait_for, wait_replaced
from tests.servers.audit import check_log
from tests.servers.metric import samples
from tests.servers.relay import Relay, Reply, Rule
from tests.servers.upload import addresses


def test_state_and_metrics_are_true_and_rewritten_at_least_every_five_seconds(agent: Agent, relay: Relay) -> None:
    relay.rules.append(Rule("RCPT", Reply("450 4.7.1 Greylisted"), match="grey"))
    agent.start()
    agent.drop("good", addresses(5))
    agent.drop("waiting", ["grey@one.example", "ada@two.example", "<bad"])
    agent.drop("part", manifest={"expect": {"recipients": 9}})
    agent.wait_state("good", "finished")
    agent.wait_state("waiting", "waiting")
    wait_for(lambda: {job["job"]: job["state"] for job in (agent.state() or {"jobs": []})["jobs"]} == {
        "good": "finished", "waiting": "waiting",
    })  # fmt: skip
    state = agent.state()
    assert state is not None
    assert state["agent"] == {
        "version": __version__, "pid": agent.pid, "state": "running",
        "started_at": state["agent"]["started_at"], "sent": 6,
    }  # fmt: skip
    [shown] = state["relays"]
    assert (shown["relay"], shown["up"], shown["error"]) == ("default", True, None)
    assert shown["address"] == f"127.0.0.1:{relay.port}"
    [upload] = state["uploads"]
    assert upload["upload"] == "part"
    assert "9 recipients" in upload["waits_for"]
    for moment in (state["updated_at"], state["agent"]["started_at"], upload["since"]):
        assert abs(datetime.fromisoformat(moment).timestamp() - time.time()) < 60
    for job in state["jobs"]:
        assert sum(job["counts"].values()) == job["total"]
        assert (agent.spool / job["folder"] / job["job"]).is_dir()

    # They are written right after the state.
    wait_for(lambda: samples(agent)["spoold_sent_total", frozenset()] == 6, 5)
    values = samples(agent)
    assert values["spoold_uploads", frozenset()] == 1
    assert values["spoold_relay_up", frozenset({("relay", "default")})] == 1
    assert values["spoold_jobs", frozenset({("state", "waiting")})] == 1
    assert values["spoold_recipients", frozenset({("relay", "default"), ("state", "deferred")})] == 1
    assert values["spoold_build_info", frozenset({("version", __version__)})] == 1
    assert abs(values["spoold_start_time_seconds", frozenset()] - time.time()) < 60

    for _ in range(2):
        for name in ("status.json", "metrics.prom"):
            before, after = wait_replaced(agent.spool / name, 5)
            assert after.st_mtime - before.st_mtime < 5
    relay.stop()
    agent.drop("next", ["bob@two.example"])
    wait_for(lambda: not (agent.state() or {"relays": [{"up": True}]})["relays"][0]["up"], 5)
    down = agent.state()
    assert down is not None
    assert "cannot connect" in down["relays"][0]["error"]
    assert down["relays"][0]["retry_at"] is not None
    wait_for(lambda: samples(agent)["spoold_relay_up", frozenset({("relay", "default")})] == 0, 5)
    assert agent.stop() == 0
    assert (agent.state() or {})["agent"]["state"] == "stopped"
    assert check_log(agent)["relay.down"] == 1
