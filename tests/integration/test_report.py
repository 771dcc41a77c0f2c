"""The report of a job while it is being sent: always whole, never far behind, exact whenever the job moves."""

import json
import os
import shutil
import threading
import time
from collections import Counter
from contextlib import closing

import pytest

from spoold.storage.files import Files
from tests.servers.agent import Agent, wait_for
from tests.servers.audit import SENT, check_attempts, check_report, connect, table, wait_at_rest
from tests.servers.inprocess import live
from tests.servers.relay import Command, Hang, Relay, Reply, Rule

pytestmark = pytest.mark.agent(relay={"connections": 3, "recipients_per_message": 5})

FINAL = ("sent", "failed", "expired", "cancelled")
#: Seconds: what the contract allows, and what a busy machine may add.
BEHIND = 2.0 + 1.5


class Reader(threading.Thread):
    """Reads every report file of a job, as fast as it can, until told to stop; keeps what was wrong with them."""

    def __init__(self, agent: Agent, job: str, total: int, relay: Relay) -> None:
        super().__init__(name="reader")
        self.agent, self.job, self.total, self.relay = agent, job, total, relay
        self.ended = threading.Event()
        self.problems: list[str] = []
        self.seen: Counter[str] = Counter()
        self.progress: set[int] = set()

    def run(self) -> None:
        while not self.ended.is_set():
            for file in ("status.json", "statistics.json", "status.txt", "recipients.csv", "attempts.jsonl"):
                begun = time.monotonic()
                data = self.agent.report(self.job, file)
                if data is None:
                    continue
                self.seen[file] += 1
                try:
                    getattr(self, "read_" + file.replace(".", "_"))(data, begun)
                except Exception as error:
                    self.problems.append(f"{file}: {error!r}: {data[-200:]!r}")
            self.ended.wait(0.002)

    def read_status_json(self, data: bytes, begun: float) -> None:
        counts = json.loads(data)["counts"]
        assert sum(counts.values()) == self.total, counts
        assert min(counts.values()) >= 0, counts
        taken = sum(len(mail.recipients) for mail in tuple(self.relay.accepted) if mail.at < begun - BEHIND)
        assert counts["sent"] >= taken, f"{counts['sent']} of {taken}: too far behind"
        self.progress.add(counts["sent"])

    def read_statistics_json(self, data: bytes, _: float) -> None:
        document = json.loads(data)
        assert document["total"] == sum(document["states"].values()) == self.total
        assert sum(domain["total"] for domain in document["domains"]) == self.total

    def read_status_txt(self, data: bytes, _: float) -> None:
        assert data.decode().startswith(f"{self.job}: ")
        assert data.endswith(b"recipients.csv\n")

    def read_recipients_csv(self, data: bytes, _: float) -> None:
        assert len({row["address"] for row in table(data)}) == self.total

    def read_attempts_jsonl(self, data: bytes, _: float) -> None:
        whole = data[: data.rfind(b"\n") + 1]
        tried = [(line["address"], line["attempt"]) for line in map(json.loads, whole.splitlines())]
        assert len(set(tried)) == len(tried), "a line stands there twice"


def test_every_file_is_whole_and_not_far_behind_while_it_is_sent(agent: Agent, relay: Relay) -> None:
    addresses = [f"to{n}@domain{n % 9}.example" for n in range(2000)]
    relay.rules += [
        Rule(Command.RCPT, Reply("550 5.1.1 no such user"), match=r"to\d*7@"),
        Rule(Command.RCPT, Reply("451 4.2.0 later"), match=r"to\d*8@"),
    ]
    relay.latency = 0.015
    agent.start()
    reader = Reader(agent, "job", len(addresses), relay)
    reader.start()
    try:
        agent.drop("job", addresses)
        agent.wait_state("job", "waiting", timeout=40)
    finally:
        reader.ended.set()
        reader.join()
    assert reader.problems == []
    assert len(reader.progress) >= 3, "the status did not move while it was sent"
    assert min(reader.seen.values()) > 10
    assert len(reader.seen) == 5
    assert agent.stop() == 0
    with closing(connect(agent)) as database:
        states = check_report(agent, database, "job")
    assert Counter(states.values()) == {"sent": 1600, "failed": 200, "deferred": 200}
    assert set(relay.recipients) == {address for address, state in states.items() if state == "sent"}
    assert len(relay.recipients) == 1600
    assert relay.violations == []


def test_lists_are_exact_the_moment_the_job_changes_its_folder(agent: Agent, relay: Relay) -> None:
    addresses = [f"to{n}@one.example" for n in range(12)]
    relay.rules.append(Rule(Command.RCPT, Reply("450 4.2.1 later"), match="to3@", times=1))
    agent.start()
    agent.drop("job", addresses)

    def arrived(folder: str) -> dict[str, str] | None:
        report = agent.spool / folder / "job" / "report"
        if not report.parent.is_dir():
            return None
        rows = table((report / "recipients.csv").read_bytes())
        lines = (report / "attempts.jsonl").read_bytes().splitlines()
        assert len(lines) == sum(int(row["attempts"]) for row in rows)
        return {row["address"]: row["state"] for row in rows}

    states = wait_for(lambda: arrived("deferred"))
    assert states == {address: "deferred" if address.startswith("to3@") else "sent" for address in addresses}
    assert agent.command("retry", "job").returncode == 0
    assert wait_for(lambda: arrived("done")) == dict.fromkeys(addresses, "sent")


class Counting(Files):
    """Counts how often each report's list was put in place beside a status that says *finished*."""

    def __init__(self) -> None:
        self.last: Counter[int] = Counter()

    def publish(self, parent: int, name: str) -> None:
        super().publish(parent, name)
        if name == "recipients.csv":
            status = json.loads(self.read_small(parent, ("status.json",), 1 << 20))
            self.last[os.fstat(parent).st_ino] += status["state"] == "finished"


async def test_last_report_of_a_job_is_written_once(agent: Agent) -> None:
    """However late the word comes that the database, and so the report, knows already."""
    jobs, files = 60, Counting()
    for number in range(jobs):
        agent.write_job(agent.spool / "tmp" / f"job{number}", [f"to{number}@one.example"])
    for number in range(jobs):
        (agent.spool / "tmp" / f"job{number}").rename(agent.spool / "new" / f"job{number}")
    assert await live(agent, files, lambda: len(os.listdir(agent.spool / "done")) == jobs, 60) is None
    assert Counter(files.last.values()) == {1: jobs}
    for number in range(jobs):
        assert [row["state"] for row in agent.recipients(f"job{number}")] == ["sent"]


def test_report_removed_by_hand_comes_back_whole(agent: Agent, relay: Relay) -> None:
    addresses = [f"to{n}@one.example" for n in range(20)]
    relay.rules.append(Rule(Command.RCPT, Reply("450 4.2.1 later"), match="to3@"))
    agent.start()
    agent.drop("job", addresses)
    agent.wait_state("job", "waiting")

    # While the agent runs: with the next thing that happens to the job.
    shutil.rmtree(agent.spool / "deferred/job/report")
    assert agent.command("retry", "job").returncode == 0
    wait_for(lambda: len(agent.attempts("job")) == 21, what="all attempts")
    wait_for(lambda: [row["attempts"] for row in agent.recipients("job")].count("2"), what="the second attempt")
    agent.wait_state("job", "waiting")
    # While it does not: at the start.
    assert agent.stop() == 0
    shutil.rmtree(agent.spool / "deferred/job/report")
    agent.start()
    wait_for(lambda: (agent.spool / "deferred/job/report/recipients.csv").exists())
    assert agent.stop() == 0
    with closing(connect(agent)) as database:
        states = check_report(agent, database, "job")
    assert Counter(states.values()) == {"sent": 19, "deferred": 1}


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data + b'{"at": "2026-01-01T0', id="torn"),
        pytest.param(lambda data: data + data[: data.index(b"\n") + 1], id="repeated"),
        pytest.param(lambda data: data[:-10], id="shortened"),
        pytest.param(None, id="removed"),
    ],
)
def test_attempts_are_repaired_after_a_kill(agent: Agent, relay: Relay, damage: object) -> None:
    addresses = [f"to{n}@one.example" for n in range(30)]
    relay.rules.append(Rule(Command.DOT, Hang(), nth=5))
    agent.start()
    agent.drop("job", addresses, manifest={"on_uncertain": "hold"})
    wait_for(lambda: len(agent.attempts("job")) >= 15, what="attempts")
    agent.kill()
    file = agent.spool / "active/job/report/attempts.jsonl"
    if callable(damage):
        file.write_bytes(damage(file.read_bytes()))
    else:
        file.unlink()
    relay.rules.clear()
    relay.release()
    agent.start()
    wait_at_rest(agent, ["job"])
    assert agent.stop() == 0
    with closing(connect(agent)) as database:
        lines = check_attempts(database, "job", agent.report("job", "attempts.jsonl") or b"")
        sent = database.execute("SELECT count(*) FROM recipient WHERE state = ?", (SENT,)).fetchone()[0]
    assert Counter(line["result"] for line in lines) == {"sent": sent, "uncertain": 30 - sent}
    assert 15 <= sent < 30


def test_all_states_add_up_whatever_each_recipient_came_to(agent: Agent, relay: Relay) -> None:
    relay.rules += [
        Rule(Command.RCPT, Reply("550 5.1.1 no such user"), match="failed"),
        Rule(Command.RCPT, Reply("450 4.2.1 later"), match="later"),
    ]
    rows = ["sent@one.example", "failed@one.example", "later@one.example", "no address", "sent@one.example"]
    agent.start()
    agent.drop("job", rows)
    status = agent.wait_state("job", "waiting")
    assert status["total"] == 4
    assert {word: count for word, count in status["counts"].items() if count} == {
        "sent": 1, "failed": 2, "deferred": 1,
    }  # fmt: skip
    (agent.spool / "deferred/job/CANCEL").touch()
    status = agent.wait_state("job", "cancelled")
    assert sum(status["counts"][word] for word in FINAL) == status["total"] == 4
    assert status["counts"]["cancelled"] == 1
    assert agent.stop() == 0
    with closing(connect(agent)) as database:
        states = check_report(agent, database, "job")
    assert sorted(states.values()) == ["cancelled", "failed", "failed", "sent"]
