"""What a start finds: an agent that runs already, a database that cannot be used, and what a killed one left undone."""

import os
import signal
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.audit import audit, check_report, connect, no_leftovers, wait_at_rest
from tests.servers.relay import Command, Drop, Hang, Relay, Rule
from tests.servers.upload import read

FIVE = [f"to{n}@one.example" for n in range(5)]
READY = {"READY": b""}


def killed_after_dot(agent: Agent, relay: Relay, on_uncertain: str) -> None:
    """One message to five recipients, taken by the relay, of which the agent never got to know."""
    agent.drop("job", FIVE, manifest={"on_uncertain": on_uncertain}, files=READY)
    agent.start(failpoint="after-dot", wait=False)
    assert agent.died() == -signal.SIGKILL
    relay.wait_for(lambda relay: relay.accepted)


def waits_again(agent: Agent, before: dict[str, Any]) -> dict[str, Any]:
    """The status of the waiting job that a new process has written."""

    def look() -> dict[str, Any] | None:
        status = agent.status("job")
        return (
            status if status and status["updated_at"] != before["updated_at"] and status["state"] == "waiting" else None
        )

    return wait_for(look, what="a new status")


# --- recipients in doubt ----------------------------------------------------------------------------------------------


def test_uncertain_recipients_are_held_until_asked_for_and_resent_with_identical_bytes(
    agent: Agent, relay: Relay
) -> None:
    killed_after_dot(agent, relay, "hold")
    agent.start()
    status = agent.wait_state("job", "held")
    assert (status["reason"], status["next_at"]) == ("uncertain", None)
    assert status["counts"]["uncertain"] == 5
    assert [event["uncertain"] for event in agent.events("agent.recovered")] == [5]
    assert len(relay.accepted) == 1

    assert agent.command("retry", "--uncertain", "job").returncode == 0
    status = agent.wait_state("job", "finished")
    assert status["counts"]["sent"] == 5
    first, second = relay.accepted
    assert sorted(first.recipients) == sorted(second.recipients) == FIVE
    assert first.data == second.data
    assert b"Message-ID: <" in first.data
    assert [row["attempts"] for row in agent.recipients("job")] == ["2"] * 5
    assert [line["result"] for line in agent.attempts("job")] == ["uncertain"] * 5 + ["sent"] * 5
    assert relay.violations == []


def test_uncertain_recipients_are_resent_after_a_quarter_of_an_hour_by_default(agent: Agent, relay: Relay) -> None:
    killed_after_dot(agent, relay, "resend")
    agent.start()
    status = agent.wait_state("job", "waiting")
    assert status["reason"] == "retry"
    updated, next_at = (datetime.fromisoformat(status[key]) for key in ("updated_at", "next_at"))
    assert 890 <= (next_at - updated).total_seconds() <= 901
    assert {row["state"] for row in agent.recipients("job")} == {"uncertain"}
    # That moment is not put off by another restart.
    assert agent.stop() == 0
    agent.start()
    again = waits_again(agent, status)
    assert again["next_at"] == status["next_at"]
    assert agent.events("agent.recovered") == []
    assert len(relay.accepted) == 1


def test_retry_times_survive_a_kill(agent: Agent, relay: Relay) -> None:
    relay.rules.append(Rule(Command.RCPT, Drop(), nth=1, times=1))
    agent.start()
    agent.drop("job", FIVE[:1], manifest={"retry": {"every": "40m", "for": "2d"}})
    status = agent.wait_state("job", "waiting")
    agent.kill()
    agent.start()
    again = waits_again(agent, status)
    assert (again["state"], again["reason"], again["next_at"]) == ("waiting", "retry", status["next_at"])
    assert again["counts"]["deferred"] == 1


def test_waiting_job_stays_where_it_is_over_a_restart(agent: Agent, relay: Relay) -> None:
    relay.rules.append(Rule(Command.RCPT, Drop(), nth=1, times=1))
    agent.start()
    agent.drop("job", FIVE[:1])
    status = agent.wait_state("job", "waiting")
    assert agent.stop() == 0
    agent.start()
    waits_again(agent, status)
    assert agent.stop() == 0
    assert agent.events("job.state") == []
    assert agent.status("job")["since"] == status["since"]  # type: ignore[index]


# --- what a kill leaves in files and folders --------------------------------------------------------------------------


def test_database_of_the_version_before_is_taken_over_with_its_jobs_and_edits(agent: Agent, relay: Relay) -> None:
    agent.drop("job", FIVE, manifest={"send_after": "2035-01-01T00:00:00+00:00", "on_uncertain": "hold"})
    agent.start()
    agent.wait_state("job", "scheduled")
    agent.drop("sent", FIVE)
    agent.wait_state("sent", "finished")
    edited = (agent.spool / "deferred" / "job" / "job.yaml").read_text().replace("2035", "2036")
    (agent.spool / "deferred" / "job" / "job.yaml").write_text(edited)
    wait_for(lambda: "2036" in (agent.status("job") or {}).get("next_at", ""), what="the edit to take effect")
    agent.kill()
    live = "SELECT compact.* FROM compact JOIN job ON job.id = job_id WHERE name = 'job'"
    with closing(sqlite3.connect(agent.spool / ".spoold" / "spool.db")) as database, database:
        compacts = database.execute(live).fetchall()
        times = database.execute("SELECT * FROM time_tally").fetchall()
        database.execute("DROP TABLE compact")
        database.execute("DROP TABLE time_tally")
        database.execute("PRAGMA user_version = 1")

    agent.start()
    before = agent.status("job")
    assert before is not None
    assert "2036" in before["next_at"]
    wait_for(lambda: (agent.status("job") or before)["updated_at"] != before["updated_at"], what="a new report")
    with closing(connect(agent)) as database:
        assert database.execute(live).fetchall() == compacts
        assert database.execute("SELECT * FROM time_tally").fetchall() == times
        assert sum(count for *_, count in times) == 5
        assert database.execute("PRAGMA user_version").fetchone() == (4,)
    (agent.spool / "deferred" / "job" / "job.yaml").write_text(edited.replace("2036", "2020"))
    assert agent.wait_state("job", "finished")["counts"]["sent"] == 5


def test_report_of_a_rejected_job_is_completed_after_a_kill_in_the_middle_of_it(agent: Agent, relay: Relay) -> None:
    agent.drop("bad", FIVE, manifest={"sender": "no address"}, files=READY)
    agent.start(failpoint="report-written", wait=False)
    assert agent.died() == -signal.SIGKILL
    assert agent.report("bad", "recipients.csv") is None
    agent.start()
    assert agent.stop() == 0
    assert agent.status("bad")["state"] == "rejected"  # type: ignore[index]
    with closing(connect(agent)) as database:
        check_report(agent, database, "bad")
    no_leftovers(agent.spool, ["bad"])
    assert relay.accepted == []


def test_upload_that_was_half_taken_is_whole_again_and_keeps_its_name(agent: Agent, relay: Relay) -> None:
    agent.drop("job", FIVE, files={"a/b/c.txt": b"deep", "z.txt": b"last"})
    before = read(agent.spool / "new/job")
    agent.start(failpoint="file-taken:3", wait=False)
    assert agent.died() == -signal.SIGKILL
    assert not (agent.spool / "new/job").exists()
    assert len(list((agent.spool / "active/.take-job").rglob("*.*"))) > 0
    agent.start()
    agent.wait_state("job", "finished")
    after = read(agent.spool / "done/job")
    assert {name: data for name, data in after.items() if not name.startswith("report/")} == before
    assert relay.recipients == FIVE


def test_job_is_brought_to_the_folder_that_the_database_names(agent: Agent, relay: Relay) -> None:
    relay.rules.append(Rule(Command.RCPT, Drop(), match="to0@"))
    agent.start()
    agent.drop("later", FIVE[:1])
    agent.drop("now", FIVE[1:])
    agent.wait_state("later", "waiting")
    agent.wait_state("now", "finished")
    assert agent.stop() == 0
    (agent.spool / "deferred/later").rename(agent.spool / "active/later")
    (agent.spool / "done/now").rename(agent.spool / "deferred/now")
    (agent.spool / "new/.taken-rubbish").mkdir()
    agent.start()
    wait_for(lambda: (agent.spool / "deferred/later").is_dir() and (agent.spool / "done/now").is_dir())
    assert agent.stop() == 0
    no_leftovers(agent.spool, ["later", "now"])
    assert sorted(relay.recipients) == FIVE[1:]


@pytest.mark.parametrize("place", ["before-report:6", "report-written:1", "attempts-appended:1", "before-move:1"])
def test_error_of_the_file_system_in_a_report_is_told_and_made_good(agent: Agent, relay: Relay, place: str) -> None:
    agent.start(failpoint=f"{place}:EIO")
    agent.drop("job", FIVE, files=READY)
    wait_at_rest(agent, ["job"])
    wait_for(lambda: agent.events("report.failed"), what="the failure in the log")
    assert agent.stop() == 0
    assert all("Input/output error" in event["error"] for event in agent.events("report.failed"))
    assert {event["job"] for event in agent.events("report.failed")} <= {"job", "status.json"}
    audit(agent, relay.accepted, {"job": FIVE})


def test_error_of_the_file_system_while_taking_puts_the_upload_back_whole(agent: Agent, relay: Relay) -> None:
    agent.start(failpoint="file-synced:2:EIO")
    agent.drop("job", FIVE, files=READY)
    [problem] = wait_for(lambda: agent.events("upload.problem"))
    assert "Input/output error" in problem["problem"]
    # The next look, a second later, takes it again.
    wait_for(lambda: (agent.spool / "new/job/message.eml").is_file() or agent.events("job.accepted"))
    assert agent.stop() == 0
    no_leftovers(agent.spool, ["job"])
    agent.start()
    agent.wait_state("job", "finished")
    assert sorted(relay.recipients) == FIVE


# --- the spool that cannot be used ------------------------------------------------------------------------------------


def test_second_agent_on_a_spool_is_refused_by_name_of_the_first(agent: Agent, relay: Relay) -> None:
    agent.start()
    second = agent.command("run")
    assert (second.returncode, second.stdout) == (1, "")
    [line] = second.stderr.splitlines()
    assert f"pid {agent.pid} on " in line
    assert str(agent.spool) in line
    agent.drop("job", FIVE)
    agent.wait_state("job", "finished")
    assert agent.stop() == 0
    assert sorted(relay.recipients) == FIVE


def test_lock_of_a_killed_agent_is_in_nobodys_way(agent: Agent) -> None:
    agent.start()
    agent.kill()
    agent.start()
    assert agent.stop() == 0


@pytest.mark.parametrize("garbage", [b"garbage " * 1000, b"SQLite format 3\0" + b"\xff" * 8000])
def test_unusable_database_is_one_line_and_nothing_is_touched(agent: Agent, relay: Relay, garbage: bytes) -> None:
    agent.drop("job", FIVE, files=READY)
    database = agent.spool / ".spoold/spool.db"
    database.write_bytes(garbage)
    run = agent.command("run")
    assert run.returncode == 1
    [line] = run.stderr.splitlines()
    assert str(database) in line
    assert "Traceback" not in line
    assert database.read_bytes() == garbage
    no_leftovers(agent.spool, ["job"])
    assert not (agent.spool / "status.json").exists()
    assert relay.connections == 0


#: Every commit fails as on a broken disk as soon as the file named in the environment is there.
BROKEN_DISK = """
import os, sqlite3

class Connection(sqlite3.Connection):
    def commit(self):
        if os.path.exists(os.environ["BROKEN_DISK"]):
            raise sqlite3.OperationalError("disk I/O error")
        super().commit()

connect = sqlite3.connect
sqlite3.connect = lambda *arguments, **options: connect(*arguments, factory=Connection, **options)
"""


def test_outcome_that_cannot_be_recorded_ends_the_agent_and_nothing_is_sent_twice(tmp_path: Path, relay: Relay) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(BROKEN_DISK)
    broken = tmp_path / "broken"
    relay.rules.append(Rule(Command.DOT, Hang(), nth=3))
    environ = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(Path.cwd())]), "BROKEN_DISK": str(broken)}
    settings = {"connections": 2, "recipients_per_message": 5}
    addresses = [f"to{n}@one.example" for n in range(50)]
    with Agent(tmp_path, relay.port, relay=settings, environ=environ) as agent:
        agent.start()
        agent.drop("job", addresses, manifest={"on_uncertain": "hold"}, files=READY)
        relay.wait_for(
            lambda relay: len(relay.accepted) == 2 and sum(line.text == "DATA" for line in relay.commands) >= 3
        )
        broken.touch()
        relay.rules.clear()
        relay.release()
        assert agent.died() == 1
        [failed] = agent.events("agent.failed")
        assert "disk I/O error" in failed["error"]
        plain = [line for line in agent.log_file.read_text().splitlines() if not line.startswith("{")]
        assert len(plain) == 1
        assert plain[0].startswith("spoold: the database failed and nothing more is sent: ")
        assert len(relay.accepted) <= 4, "a new transaction was opened without a record of it"

        broken.unlink()
        agent.start()
        wait_at_rest(agent, ["job"])
        assert agent.stop() == 0
        found = audit(agent, relay.accepted, {"job": addresses})
        assert len(found.uncertain) <= 10
        assert relay.violations == []


def test_status_json_of_the_spool_is_whole_after_each_kill(agent: Agent) -> None:
    for failpoint in ("before-report", "before-report:2"):
        agent.start(failpoint=failpoint, wait=False)
        assert agent.died() == -signal.SIGKILL
    agent.start()
    wait_for(lambda: (agent.state() or {"agent": {}})["agent"].get("pid") == agent.pid, what="its own state")
    assert agent.stop() == 0
    assert [path.name for path in agent.spool.iterdir() if path.name.endswith(".tmp")] == []
