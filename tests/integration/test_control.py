"""CANCEL, HOLD and RETRY (CONTRACT §4) in every folder, by file and by command, on the real agent."""

import shutil
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from spoold.cli.main import main
from tests.servers.agent import Agent, wait_for
from tests.servers.relay import Delay, Relay, Reply, Rule
from tests.servers.upload import addresses

#: CANCEL and HOLD are seen within this many seconds; some more for a busy machine.
SEEN = 1.0
GREYLISTED = Reply("450 4.7.1 Greylisted")

Tell = Callable[[Agent, str, str], None]


def by_file(agent: Agent, name: str, control: str) -> None:
    """Touch or, for `release`, remove the control file where the job stands, as a person would."""
    folder = agent.find(name)
    assert folder is not None
    if control == "release":
        (folder / "HOLD").unlink()
    else:
        (folder / control.upper()).touch()


def by_command(agent: Agent, name: str, control: str) -> None:
    done = agent.command(control, name)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{name}: ")


telling = pytest.mark.parametrize("tell", [by_file, by_command])


def slow(agent: Agent, relay: Relay) -> None:
    """Two connections, a message for each recipient, and a relay that takes its time after the final dot."""
    relay.rules.append(Rule("DOT", Delay(0.25)))
    agent.configure(relay.port, relay={"connections": 2, "recipients_per_message": 1})


def tell_while_sending(agent: Agent, relay: Relay, tell: Tell, control: str) -> float:
    """Send a job `slow` of 60, and tell it this when some are sent; when that was."""
    slow(agent, relay)
    agent.start()
    agent.drop("slow", addresses(60))
    relay.wait_for(lambda r: len(r.accepted) >= 3)
    tell(agent, "slow", control)
    return time.monotonic()


def mails(relay: Relay) -> list[float]:
    """When each transaction began."""
    return [line.at for line in tuple(relay.commands) if line.text.upper().startswith("MAIL")]


def check(agent: Agent, relay: Relay, name: str) -> Counter[str]:
    """The report agrees with itself and with the relay; returns the number of recipients by state."""
    status, rows = agent.status(name), agent.recipients(name)
    assert status is not None
    states = Counter(row["state"] for row in rows)
    assert sum(status["counts"].values()) == status["total"] == len(rows)
    assert {state: count for state, count in status["counts"].items() if count} == states
    taken = Counter(relay.recipients)
    sent = {row["address"] for row in rows if row["state"] == "sent"}
    assert sent == {row["address"] for row in rows} & taken.keys()
    assert all(taken[address] == 1 for address in sent)
    assert relay.violations == []
    return states


@telling
def test_cancel_while_sending_opens_no_transaction_after_a_second_and_lets_open_ones_end(
    agent: Agent, relay: Relay, tell: Tell
) -> None:
    told = tell_while_sending(agent, relay, tell, "cancel")
    status = agent.wait_state("slow", "cancelled")
    states = check(agent, relay, "slow")
    assert set(states) == {"sent", "cancelled"}
    # Those next in line had said MAIL; their message never followed.
    assert states["sent"] == len(relay.accepted) <= len(mails(relay)) <= len(relay.accepted) + 2 < 60
    assert max(mails(relay)) <= told + SEEN
    assert status["counts"]["cancelled"] == 60 - len(relay.accepted)
    assert [event["reason"] for event in agent.events("job.cancelled")] == ["CANCEL"]
    assert agent.stop() == 0


def test_cancel_of_one_job_leaves_the_others_alone(agent: Agent, relay: Relay) -> None:
    slow(agent, relay)
    agent.start()
    agent.drop("stopped", addresses(40))
    agent.drop("other", addresses(8, "two.example"))
    relay.wait_for(lambda r: len(r.accepted) >= 2)
    by_file(agent, "stopped", "cancel")
    assert agent.wait_state("other", "finished")["counts"]["sent"] == 8
    agent.wait_state("stopped", "cancelled")
    assert check(agent, relay, "other") == {"sent": 8}
    assert check(agent, relay, "stopped")["cancelled"] > 0


@telling
def test_hold_while_sending_pauses_and_release_resumes(agent: Agent, relay: Relay, tell: Tell) -> None:
    told = tell_while_sending(agent, relay, tell, "hold")
    agent.wait_state("slow", "held")
    held = wait_for(lambda: (agent.status("slow") or {"counts": {"sending": 1}})["counts"]["sending"] == 0)
    assert held
    states = check(agent, relay, "slow")
    assert set(states) == {"sent", "queued"}
    before = mails(relay)
    assert max(before) <= told + SEEN
    agent.drop("meanwhile", ["ada@two.example"])
    agent.wait_state("meanwhile", "finished")
    assert len(mails(relay)) == len(before) + 1
    relay.rules.clear()
    tell(agent, "slow", "release")
    assert agent.wait_state("slow", "finished")["counts"]["sent"] == 60
    assert check(agent, relay, "slow") == {"sent": 60}


@telling
def test_retry_makes_deferred_recipients_due_now_and_is_removed(agent: Agent, relay: Relay, tell: Tell) -> None:
    relay.rules.append(Rule("RCPT", GREYLISTED, match="grey", times=2))
    agent.start()
    agent.drop("job", ["grey1@one.example", "good@one.example", "grey2@one.example"])
    status = agent.wait_state("job", "waiting")
    assert (status["reason"], status["counts"]["deferred"], status["counts"]["sent"]) == ("retry", 2, 1)
    assert status["next_at"] is not None
    tell(agent, "job", "retry")
    agent.wait_state("job", "finished")
    folder = agent.find("job")
    assert folder is not None
    assert not (folder / "RETRY").exists()
    assert check(agent, relay, "job") == {"sent": 3}
    assert [row["attempts"] for row in agent.recipients("job")] == ["2", "1", "2"]
    assert [event["recipients"] for event in agent.events("job.retried")] == [2]


def test_retry_of_a_job_that_still_waits_afterwards_counts_one_attempt_more(agent: Agent, relay: Relay) -> None:
    relay.rules.append(Rule("RCPT", GREYLISTED, match="grey"))
    agent.start()
    agent.drop("job", ["grey@one.example"])
    agent.wait_state("job", "waiting")
    folder = agent.spool / "deferred" / "job"

    def tried(attempts: str) -> bool:
        return [row["attempts"] for row in agent.recipients("job")] == [attempts]

    def answered() -> bool:
        return folder.is_dir() and not (folder / "RETRY").exists()

    for attempts in ("2", "3"):
        by_file(agent, "job", "retry")
        wait_for(partial(tried, attempts))
        wait_for(answered)
    agent.wait_state("job", "waiting")
    assert [attempt["attempt"] for attempt in agent.attempts("job")] == [1, 2, 3]


@telling
def test_cancel_in_deferred_ends_a_job_that_waits(agent: Agent, relay: Relay, tell: Tell) -> None:
    relay.rules.append(Rule("RCPT", GREYLISTED, match="grey"))
    agent.start()
    agent.drop("job", ["grey@one.example", "good@one.example"])
    agent.wait_state("job", "waiting")
    tell(agent, "job", "cancel")
    agent.wait_state("job", "cancelled")
    assert check(agent, relay, "job") == {"sent": 1, "cancelled": 1}


def test_cancel_ends_a_held_job_too(agent: Agent, relay: Relay) -> None:
    agent.start()
    agent.drop("job", files={"HOLD": b""})
    agent.wait_state("job", "held")
    by_file(agent, "job", "cancel")
    agent.wait_state("job", "cancelled")
    assert check(agent, relay, "job") == {"cancelled": 1}
    assert relay.connections == 0


@telling
def test_cancel_in_new_ends_an_upload_that_is_not_complete(agent: Agent, relay: Relay, tell: Tell) -> None:
    agent.start()
    agent.drop("part", manifest={"expect": {"recipients": 99}})
    wait_for(
        lambda: any("99 recipients" in item["waits_for"] for item in (agent.state() or {"uploads": []})["uploads"])
    )
    tell(agent, "part", "cancel")
    status = agent.wait_state("part", "cancelled")
    assert sum(status["counts"].values()) == status["total"]
    assert (status["counts"]["sent"], relay.connections) == (0, 0)
    assert agent.find("part") == agent.spool / "done" / "part"
    wait_for(lambda: not list((agent.spool / "new").iterdir()), what="an empty new/")


@telling
def test_hold_in_new_holds_the_job_from_its_first_moment(agent: Agent, relay: Relay, tell: Tell) -> None:
    agent.start()
    agent.drop("part", addresses(3), manifest={"expect": {"recipients": 3, "messages": 2}})
    wait_for(lambda: (agent.state() or {"uploads": []})["uploads"])
    tell(agent, "part", "hold")
    folder = agent.spool / "new" / "part"
    (folder / "job.yaml").write_text("sender: news@example.com\nexpect: {recipients: 3, messages: 1}\n")
    status = agent.wait_state("part", "held")
    assert (status["counts"]["queued"], relay.connections) == (3, 0)
    tell(agent, "part", "release")
    agent.wait_state("part", "finished")
    assert check(agent, relay, "part") == {"sent": 3}


def test_retry_in_new_is_obeyed_and_removed_with_the_job_s_first_attempt(agent: Agent, relay: Relay) -> None:
    agent.start()
    agent.drop("job", addresses(2), files={"RETRY": b""})
    agent.wait_state("job", "finished")
    assert check(agent, relay, "job") == {"sent": 2}
    wait_for(lambda: not (agent.spool / "done" / "job" / "RETRY").exists(), 5, "RETRY's removal")


def test_control_files_left_while_no_agent_runs_are_obeyed_before_anything_is_sent(agent: Agent, relay: Relay) -> None:
    slow(agent, relay)
    agent.start()
    for name in ("held", "cancelled", "other"):
        agent.drop(name, addresses(20, f"{name}.example"))
    relay.wait_for(lambda r: len(r.accepted) >= 1)
    for name in ("held", "cancelled", "other"):
        agent.wait_state(name, "sending")
    assert agent.stop() == 0
    before = {name: agent.status(name) for name in ("held", "cancelled", "other")}
    told = agent.command("hold", "held"), agent.command("cancel", "cancelled")
    assert [done.returncode for done in told] == [0, 0]
    assert all("No agent runs on this spool now" in done.stdout for done in told)
    relay.rules.clear()
    agent.start()
    agent.wait_state("held", "held")
    agent.wait_state("cancelled", "cancelled")
    assert agent.wait_state("other", "finished")["counts"]["sent"] == 20
    for name in ("held", "cancelled"):
        status, old = agent.status(name), before[name]
        assert status is not None
        assert old is not None
        assert status["counts"]["sent"] == old["counts"]["sent"]
    check(agent, relay, "held")
    check(agent, relay, "cancelled")


@pytest.mark.parametrize("where", ["active", "deferred"])
def test_removed_folder_of_a_live_job_is_cancelled_and_reported(agent: Agent, relay: Relay, where: str) -> None:
    if where == "active":
        slow(agent, relay)
    else:
        relay.rules.append(Rule("RCPT", GREYLISTED, match="one.example"))
    agent.start()
    agent.drop("gone", addresses(40))
    if where == "active":
        relay.wait_for(lambda r: len(r.accepted) >= 2)
        wait_for(lambda: agent.status("gone"))
    else:
        agent.wait_state("gone", "waiting")
    # Renamed out in one step first: the agent may write a report below while rm is at work.
    (agent.spool / where / "gone").rename(agent.root / "away")
    shutil.rmtree(agent.root / "away")
    removed = time.monotonic()
    status = agent.wait_state("gone", "cancelled")
    wait_for(lambda: len(agent.recipients("gone")) == 40)
    states = check(agent, relay, "gone")
    assert states["cancelled"] == status["counts"]["cancelled"] > 0
    assert [event["reason"] for event in agent.events("job.cancelled")] == ["the job's folder was removed"]
    if where == "active":
        # A folder is believed to be gone when it is missing at two looks.
        assert max(mails(relay)) <= removed + 2 * SEEN
    agent.drop("next", ["ada@two.example"])
    agent.wait_state("next", "finished")
    assert agent.events("agent.task_failed") == []


def test_commands_refuse_what_cannot_be_told_each_in_a_line(agent: Agent, capfd: pytest.CaptureFixture[str]) -> None:
    agent.start()
    agent.drop("done")
    agent.wait_state("done", "finished")
    (agent.spool / "new" / "file").write_bytes(b"")
    names = ("unknown", "done", "file", "done/../.spoold", "no\x1b[1mname")
    for command in ("cancel", "hold", "release", "retry"):
        code = main(["--config", str(agent.config), command, *names])
        out, err = capfd.readouterr()
        assert (code, out) == (1, "")
        assert err.splitlines() == [
            "spoold: unknown: no such job in this spool",
            "spoold: done: is done already; its report is in report/status.txt",
            "spoold: file: is no job: a job is a folder",
            "spoold: done/../.spoold: no such job in this spool",
            "spoold: no\\x1b[1mname: no such job in this spool",
        ]
    assert sorted(path.name for path in (agent.spool / "done" / "done").iterdir()) == [
        "job.yaml", "message.eml", "recipients.csv", "report",
    ]  # fmt: skip


def test_command_does_what_it_can_when_one_of_several_jobs_is_refused(agent: Agent, relay: Relay) -> None:
    agent.start()
    for name in ("one", "two"):
        agent.drop(name, [f"{name}@one.example"], files={"HOLD": b""})
        agent.wait_state(name, "held")
    # A job may be named by its folder's path, as a shell completes it.
    mixed = agent.command("release", "unknown", "one", f"{agent.spool}/deferred/two/")
    assert mixed.returncode == 1
    assert mixed.stderr == "spoold: unknown: no such job in this spool\n"
    assert [line.rpartition(": ")[2] for line in mixed.stdout.splitlines()] == ["goes on", "goes on"]
    agent.wait_state("one", "finished")
    agent.wait_state("two", "finished")
    assert sorted(relay.recipients) == ["one@one.example", "two@one.example"]


def test_release_of_a_job_that_is_not_held_says_so(agent: Agent, relay: Relay) -> None:
    relay.rules.append(Rule("RCPT", GREYLISTED))
    agent.start()
    agent.drop("job")
    agent.wait_state("job", "waiting")
    refused = agent.command("release", "job")
    assert (refused.returncode, refused.stdout, refused.stderr) == (1, "", "spoold: job: is not held\n")
    assert agent.command("hold", "job", "job").returncode == 0
    agent.wait_state("job", "held")
    assert agent.command("release", "job").returncode == 0
    agent.wait_state("job", "waiting")


def test_retry_uncertain_takes_the_place_of_a_plain_retry_that_was_not_obeyed_yet(agent: Agent) -> None:
    agent.write_job(agent.spool / "deferred" / "job")
    assert agent.command("retry", "job").returncode == 0
    assert (agent.spool / "deferred" / "job" / "RETRY").read_bytes() == b""
    assert agent.command("retry", "--uncertain", "job").returncode == 0
    assert (agent.spool / "deferred" / "job" / "RETRY").read_bytes() == b"uncertain\n"
    assert agent.command("retry", "job").returncode == 0
    assert (agent.spool / "deferred" / "job" / "RETRY").read_bytes() == b"uncertain\n"


def test_cancel_reaches_the_live_job_beside_an_upload_of_its_name(agent: Agent, relay: Relay) -> None:
    agent.start()
    agent.drop("job", ["ada@live.example"], manifest={"send_after": "2099-01-01T00:00:00+00:00"})
    agent.wait_state("job", "scheduled")
    (agent.spool / "new" / "job").mkdir()  # the next one of this name has begun to come
    by_command(agent, "job", "cancel")
    assert agent.wait_state("job", "cancelled")["counts"]["cancelled"] == 1
    assert relay.recipients == []
