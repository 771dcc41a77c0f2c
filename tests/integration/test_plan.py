"""`spoold plan` and the eta: what they foresee, and that it comes so."""

import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.relay import Relay


def plan(agent: Agent, *arguments: str) -> dict[str, object]:
    done = agent.command("plan", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def seconds(moment: object) -> float:
    return datetime.fromisoformat(str(moment)).timestamp()


def test_folder_that_has_not_been_sent_is_foreseen_and_goes_so(agent: Agent, relay: Relay) -> None:
    agent.start()
    at = datetime.now(UTC) + timedelta(seconds=4)
    manifest = {"send_after": at.isoformat(), "rate": "10/s"}
    folder = agent.write_job(agent.root / "paced", [f"user{n}@one.example" for n in range(31)], manifest=manifest)
    foreseen = plan(agent, str(folder))
    assert foreseen["recipients"] == 31
    assert seconds(foreseen["start"]) == pytest.approx(at.timestamp(), abs=0.01)
    assert seconds(foreseen["end"]) == pytest.approx(at.timestamp() + 3.0, abs=0.05)
    folder.rename(agent.spool / "tmp" / "paced")
    (agent.spool / "tmp" / "paced").rename(agent.spool / "new" / "paced")
    agent.wait_state("paced", "scheduled")
    eta = wait_for(lambda: (agent.status("paced") or {}).get("eta"))
    assert seconds(eta) == pytest.approx(seconds(foreseen["end"]), abs=0.1)
    agent.wait_state("paced", "finished")
    assert time.time() == pytest.approx(seconds(foreseen["end"]), abs=1.0)


def test_job_in_the_spool_is_foreseen_from_where_it_stands(agent: Agent, relay: Relay) -> None:
    agent.configure(relay.port, relay={"recipients_per_message": 1})
    agent.start()
    agent.drop("paced", [f"user{n}@one.example" for n in range(100)], manifest={"rate": "60/m"})
    wait_for(lambda: len(relay.accepted) >= 3)
    foreseen = wait_for(lambda: found if int(str((found := plan(agent, "paced"))["recipients"])) < 98 else None)
    left = int(str(foreseen["recipients"]))
    assert 80 < left < 98
    assert seconds(foreseen["end"]) - time.time() == pytest.approx(left, abs=4)


def test_table_for_people_names_waits_and_pauses(agent: Agent, relay: Relay) -> None:
    manifest = {
        "windows": ["22:00-06:00"],
        "timezone": "Europe/Vienna",
        "rate": "1/h",
        "send_after": "2030-06-03 12:00",
    }
    folder = agent.write_job(agent.root / "night", [f"user{n}@one.example" for n in range(12)], manifest=manifest)
    done = agent.command("plan", str(folder))
    assert done.returncode == 0
    assert "12 recipient(s) to send" in done.stdout
    assert "Mon 2030-06-03 22:00:00 CEST" in done.stdout
    assert "Pause" in done.stdout
    assert "outside the windows" in done.stdout
    assert "End" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nothing",), 2, "neither a job in this spool nor a folder"),
        (("finished",), 1, "is done already"),
        (("broken",), 1, "job.yaml:"),
    ],
)
def test_what_cannot_be_foreseen_is_told_in_one_line(
    agent: Agent, relay: Relay, arguments: tuple[str, ...], code: int, words: str
) -> None:
    agent.start()
    agent.drop("finished", ["ada@one.example"])
    agent.wait_state("finished", "finished")
    agent.write_job(agent.root / "broken", manifest={"rate": "10"})
    done = agent.command("plan", *(str(agent.root / name) if name == "broken" else name for name in arguments))
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
