"""metrics.prom as Prometheus sees it: figures that are true of what happened, checked by Prometheus' own tools."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from spoold.cli.init import monitoring
from tests.servers.agent import Agent, wait_for
from tests.servers.metric import samples
from tests.servers.relay import Relay, Reply, Rule


@pytest.fixture(scope="session")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None and os.environ.get("CI") != "true":
        pytest.skip("promtool is not there (Debian package prometheus)")
    assert found is not None, "promtool is missing (Debian package prometheus)"
    return found


def value(agent: Agent, name: str, **labels: str) -> float | None:
    return samples(agent).get((name, frozenset(labels.items())))


def attempts(agent: Agent) -> dict[str, float]:
    """Attempts by result, those that there were."""
    return {
        dict(labels)["result"]: number
        for (name, labels), number in samples(agent).items()
        if name == "spoold_attempts_total" and number
    }


def test_figures_are_true_of_what_happened(agent: Agent, relay: Relay, promtool: str) -> None:
    relay.rules += [
        Rule("RCPT", Reply("550 5.1.1 no such user"), match="unknown"),
        Rule("RCPT", Reply("450 4.7.1 Greylisted"), match="grey"),
    ]
    agent.start()
    agent.drop("job", ["ada@one.example", "bob@two.example", "unknown@one.example", "grey@two.example"])
    agent.wait_state("job", "waiting")
    agent.drop("other", ["eve@one.example"], message=b"Subject: other\n\nother\n")
    agent.wait_state("other", "finished")
    agent.drop("again", ["eve@one.example"], message=b"Subject: other\n\nother\n")
    agent.wait_state("again", "rejected")
    agent.drop("broken", manifest={"colour": "red"})
    agent.wait_state("broken", "rejected")
    agent.drop("held", ["zoe@one.example"], files={"HOLD": b""})
    agent.wait_state("held", "held")
    wait_for(lambda: value(agent, "spoold_jobs", state="held") == 1)
    wait_for(lambda: sum(attempts(agent).values()) == 5)

    assert attempts(agent) == {"sent": 3, "failed": 1, "deferred": 1}
    found = samples(agent)

    def states(relay: str) -> dict[str, float]:
        return {
            dict(labels)["state"]: number
            for (name, labels), number in found.items()
            if name == "spoold_recipients" and ("relay", relay) in labels and number
        }

    assert states("default") == {"sent": 2, "failed": 1, "deferred": 1, "queued": 1}  # *other* is no live job any more
    for name, labels, expected in (
        ("spoold_sent_total", {}, 3),
        ("spoold_open_recipients", {}, 0),
        ("spoold_queue_recipients", {}, 2),
        ("spoold_running", {}, 1),
        ("spoold_relay_up", {"relay": "default"}, 1),
        ("spoold_intake_total", {"result": "accepted"}, 3),
        ("spoold_intake_total", {"result": "duplicate"}, 1),
        ("spoold_intake_total", {"result": "rejected"}, 1),
        ("spoold_intake_total", {"result": "cancelled"}, 0),
        ("spoold_accepted_recipients_total", {}, 6),
        ("spoold_delivery_delay_seconds_count", {"relay": "default"}, 3),
        ("spoold_delivery_delay_seconds_bucket", {"relay": "default", "le": "60.0"}, 3),
    ):
        assert found[name, frozenset(labels.items())] == expected, (name, labels)
    assert 0 < found["spoold_delivery_delay_seconds_sum", frozenset({("relay", "default")})] < 60
    assert found["spoold_database_commit_seconds_count", frozenset()] > 10
    assert 0 < found["spoold_database_commit_seconds_sum", frozenset()] < 60
    assert 0 < found["spoold_queue_oldest_age_seconds", frozenset({("relay", "default")})] < 60
    assert abs(found["spoold_updated_time_seconds", frozenset()] - time.time()) < 10

    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=(agent.spool / "metrics.prom").read_bytes(),
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
    assert agent.stop() == 0
    assert value(agent, "spoold_running") == 0


def test_rates_tell_what_waits_for_them(agent: Agent, relay: Relay) -> None:
    agent.configure(relay.port, relay={"rate": "10/s", "recipients_per_message": 1})
    agent.start()
    agent.drop("job", [f"a{n}@one.example" for n in range(4)], manifest={"rate": "2/s"}, message=b"Subject: a\n\na\n")
    agent.drop("domain", [f"b{n}@two.example" for n in range(3)], manifest={"domain_rates": {"two.example": "2/s"}})
    agent.drop("relay", [f"c{n}@one.example" for n in range(8)], message=b"Subject: c\n\nc\n")
    for name in ("job", "domain", "relay"):
        agent.wait_state(name, "finished")
    wait_for(lambda: value(agent, "spoold_sent_total") == 15)
    for limit in ("job", "domain", "relay"):
        waits, seconds = (
            value(agent, f"spoold_rate_limit_{what}_total", limit=limit) for what in ("waits", "wait_seconds")
        )
        assert waits is not None
        assert seconds is not None
        assert waits > 0, limit
        assert 0 < seconds < 20


def test_every_series_is_there_from_the_start_and_their_number_does_not_grow(agent: Agent, relay: Relay) -> None:
    agent.start()
    wait_for((agent.spool / "metrics.prom").exists)
    assert value(agent, "spoold_attempts_total", relay="default", result="failed") == 0
    assert value(agent, "spoold_queue_oldest_age_seconds", relay="default") == 0
    before = len(samples(agent))
    for number in range(6):
        agent.drop(f"job{number}", [f"a{n}@d{n}.example" for n in range(20)], manifest={"description": f"d{number}"})
        agent.wait_state(f"job{number}", "finished")
    wait_for(lambda: value(agent, "spoold_sent_total") == 120)
    assert len(samples(agent)) == before


def test_recipients_count_for_the_relay_that_their_job_names(agent: Agent, relay: Relay) -> None:
    one = {"host": "127.0.0.1", "port": relay.port, "security": "none"}
    agent.configure(relay.port, config={"relays": {"default": one, "second": one}})
    agent.start()
    later = "2035-01-01T00:00:00Z"
    agent.drop("a", ["ada@one.example"], manifest={"relay": "second", "send_after": later})
    agent.drop("b", ["bob@one.example", "eve@one.example"], manifest={"send_after": later})
    for name in ("a", "b"):
        agent.wait_state(name, "scheduled")
    wait_for(lambda: value(agent, "spoold_recipients", relay="second", state="queued") == 1)
    wait_for(lambda: value(agent, "spoold_recipients", relay="default", state="queued") == 2)
    # What waits for its time is not late.
    assert value(agent, "spoold_queue_oldest_age_seconds", relay="default") == 0


# --- what comes with the package --------------------------------------------------------------------------------------


def test_alert_rules_are_valid_and_fire_when_they_should(tmp_path: Path, promtool: str) -> None:
    rules = monitoring("spoold.rules.yml")
    checked = subprocess.run([promtool, "check", "rules", rules], capture_output=True, timeout=30, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert b"3 rules found" in checked.stdout

    spool = {"spool": "/s", "instance": "host"}
    document: dict[str, Any] = {
        "rule_files": [str(rules)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": 'spoold_running{spool="/s",instance="host"}', "values": "1x120"},
                    # Written every minute for half an hour, then no more; promtool's clock begins at 0.
                    {"series": 'spoold_updated_time_seconds{spool="/s",instance="host"}', "values": "0+60x30 1800x90"},
                    {"series": 'spoold_relay_up{spool="/s",instance="host",relay="default"}', "values": "1x9 0x110"},
                    {"series": 'spoold_jobs{spool="/s",instance="host",state="sending"}', "values": "1x120"},
                    {
                        "series": 'spoold_attempts_total{spool="/s",instance="host",relay="default",result="sent"}',
                        "values": "0+5x30 150x90",
                    },
                    {"series": 'spoold_throttled_jobs{spool="/s",instance="host"}', "values": "0x120"},
                ],
                "alert_rule_test": [
                    {"eval_time": time, "alertname": name, "exp_alerts": [{"exp_labels": labels}] if fires else []}
                    for name, labels, times in (
                        ("SpooldStopped", {"severity": "critical", **spool}, (("25m", False), ("50m", True))),
                        (
                            "SpooldRelayDown",
                            {"severity": "critical", "relay": "default", **spool},
                            (("15m", False), ("30m", True)),
                        ),
                        ("SpooldStalled", {"severity": "warning", **spool}, (("35m", False), ("80m", True))),
                    )
                    for time, fires in times
                ],
            }
        ],
    }
    for test in document["tests"][0]["alert_rule_test"]:
        for alert in test["exp_alerts"]:
            alert["exp_annotations"] = annotations(rules, test["alertname"], alert["exp_labels"])
    (tmp_path / "test.yml").write_text(yaml.safe_dump(document))
    tested = subprocess.run(
        [promtool, "test", "rules", tmp_path / "test.yml"], capture_output=True, timeout=60, check=False
    )
    assert tested.returncode == 0, (tested.stdout + tested.stderr).decode()


def annotations(rules: Path, name: str, labels: dict[str, str]) -> dict[str, str]:
    """The rule's texts with the labels put in."""
    [rule] = [
        rule
        for group in yaml.safe_load(rules.read_text())["groups"]
        for rule in group["rules"]
        if rule["alert"] == name
    ]
    texts: dict[str, str] = rule["annotations"]
    for key, text in texts.items():
        for label, word in labels.items():
            text = text.replace("{{ $labels." + label + " }}", word)
        assert "{{" not in text, text
        texts[key] = text
    return texts


def test_dashboard_and_rules_ask_only_for_metrics_that_exist(agent: Agent, relay: Relay) -> None:
    agent.start()
    agent.drop("job")
    agent.wait_state("job", "finished")
    wait_for(lambda: value(agent, "spoold_sent_total") == 1)
    known = {name for name, _ in samples(agent)}
    dashboard = orjson.loads(monitoring("spoold-dashboard.json").read_bytes())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    asked += [variable["query"]["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
    for group in yaml.safe_load(monitoring("spoold.rules.yml").read_text())["groups"]:
        asked += [rule["expr"] for rule in group["rules"]]
    used = {name for query in asked for name in re.findall(r"\bspoold_\w+", query)}
    assert used <= known, used - known
    assert len(used) >= 15
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_every_query_of_the_dashboard_is_valid(tmp_path: Path, promtool: str) -> None:
    dashboard = orjson.loads(monitoring("spoold-dashboard.json").read_bytes())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    rules = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries)
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = subprocess.run(
        [promtool, "check", "rules", tmp_path / "rules.yml"], capture_output=True, timeout=30, check=False
    )
    assert checked.returncode == 0, (checked.stdout + checked.stderr).decode()
    assert len(queries) >= 12


def test_init_says_where_dashboard_and_rules_are(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "spoold", "init", tmp_path / "spool"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0
    [line] = [line for line in done.stdout.splitlines() if "Grafana" in line]
    assert (Path(line.rpartition(": ")[2]) / "spoold-dashboard.json").is_file()
