"""`spoold check --deep`: what differs between database, folders, messages and reports, and `--repair`."""

import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from spoold import __version__
from tests.servers.agent import Agent, wait_for
from tests.servers.relay import Relay, Reply, Rule

REPORT = ("status.json", "status.txt", "statistics.json", "attempts.jsonl", "recipients.csv", "index.html")


def findings(agent: Agent, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit code, and what was found of database, folders and reports."""
    done = agent.command("check", "--deep", "--json", *arguments, timeout=60)
    assert done.stderr == ""
    return done.returncode, [each for each in json.loads(done.stdout)["findings"] if each["check"].startswith("deep")]


def differences(agent: Agent) -> list[str]:
    code, found = findings(agent)
    texts = [each["text"] for each in found if each["check"] == "deep.difference"]
    levels = {each["level"] for each in found}
    assert code == int("error" in levels)
    assert texts or [each["text"] for each in found] == ["deep: database, folders, messages and reports agree"]
    return texts


def truth(agent: Agent) -> str:
    """One digest for every row of the database."""
    digest = hashlib.sha256()
    with sqlite3.connect(f"file:{agent.spool / '.spoold' / 'spool.db'}?mode=ro", uri=True) as database:
        for line in database.iterdump():
            digest.update(line.encode())
    database.close()
    return digest.hexdigest()


def tree(agent: Agent) -> dict[str, bytes]:
    """Every file of every job by its place."""
    return {
        path.relative_to(agent.spool).as_posix(): path.read_bytes()
        for folder in ("active", "deferred", "done")
        for path in (agent.spool / folder).rglob("*")
        if path.is_file()
    }


def masked(files: dict[str, bytes]) -> dict[str, bytes]:
    """Without the files that tell when they were written."""
    return {name: data for name, data in files.items() if name.endswith((".csv", ".jsonl", ".eml", ".yaml"))}


@pytest.fixture
def stopped(agent: Agent, relay: Relay) -> Agent:
    """A spool with a job in each folder, whose agent was stopped in order."""
    relay.rules.append(Rule("RCPT", Reply("550 5.1.1 No such user"), match="nobody"))
    relay.rules.append(Rule("RCPT", Reply("450 4.2.1 Later"), match="later"))
    agent.start()
    agent.drop("ended", ["ada@one.example", "nobody@one.example"])
    agent.drop("again", ["ada@one.example", "later@one.example"], manifest={"timezone": "Asia/Tokyo"})
    agent.drop("slow", [f"u{number}@one.example" for number in range(5)], manifest={"rate": "1/h"})
    agent.drop("wrong", ["ada@one.example"], manifest={"sendr": "x"})
    agent.wait_state("ended", "finished")
    agent.wait_state("wrong", "rejected")
    agent.wait_state("again", "waiting")
    wait_for(lambda: (agent.status("slow") or {"counts": {"sent": 0}})["counts"]["sent"] == 1, what="the first of slow")
    assert agent.stop() == 0
    return agent


def test_what_an_agent_leaves_that_was_stopped_in_order_agrees_to_the_byte(stopped: Agent) -> None:
    before, database = tree(stopped), truth(stopped)
    assert differences(stopped) == []
    assert findings(stopped, "--repair")[0] == 0
    assert (tree(stopped), truth(stopped)) == (before, database)


def test_every_damage_is_named_and_repaired_and_the_database_stays_as_it_is(stopped: Agent) -> None:
    before, database = tree(stopped), truth(stopped)
    report = stopped.spool / "done" / "ended" / "report"
    status = json.loads((report / "status.json").read_bytes())
    status["counts"]["sent"] += 1
    (report / "status.json").write_text(json.dumps(status))
    (report / "statistics.json").write_text("{")
    (report / "status.txt").unlink()
    lines = (report / "recipients.csv").read_bytes().splitlines(keepends=True)
    (report / "recipients.csv").write_bytes(b"".join(lines[:-1]))
    (report / "attempts.jsonl").write_bytes((report / "attempts.jsonl").read_bytes() + b"{}\n")
    waiting = stopped.spool / "deferred" / "again" / "report"
    (waiting / "recipients.csv").unlink()
    (waiting / "recipients.csv").symlink_to("/etc/passwd")
    (waiting / "attempts.jsonl").unlink()
    shutil.rmtree(stopped.spool / "done" / "wrong" / "report")
    (stopped.spool / "active" / "slow").rename(stopped.spool / "done" / "slow")
    assert set(differences(stopped)) == {
        "job ended: report/status.json:1 differs from the database",
        "job ended: report/status.txt is missing",
        "job ended: report/statistics.json:1 differs from the database",
        "job ended: report/recipients.csv is too short: line 3 is missing",
        "job ended: report/attempts.jsonl is too long: line 3 is none of this job's",
        "job again: report/recipients.csv is a symbolic link",
        "job again: report/attempts.jsonl is missing",
        *(f"job wrong: report/{name} is missing" for name in REPORT),
        "job slow: stands in done/, and is sending: expected active/",
    }
    code, found = findings(stopped, "--repair")
    assert code == 0
    assert sorted(each["text"].split(":")[0] for each in found if each["check"] == "deep.repaired") == [
        "job again", "job ended", "job slow", "job wrong",
    ]  # fmt: skip
    assert differences(stopped) == []
    assert truth(stopped) == database
    assert masked(tree(stopped)) == masked(before)
    assert Path("/etc/passwd").read_bytes().startswith(b"root:")
    # And an agent goes on from there.
    stopped.start()
    wait_for(lambda: stopped.report("again", "attempts.jsonl"), what="the report")
    assert stopped.stop() == 0
    assert differences(stopped) == []


def test_a_time_zone_that_was_changed_since_is_no_difference(stopped: Agent) -> None:
    document = json.loads(stopped.config.read_bytes())
    stopped.config.write_text(json.dumps({**document, "timezone": "Europe/Vienna"}))
    assert differences(stopped) == []


def test_page_that_is_missing_empty_torn_or_foreign_is_named_and_written_again(stopped: Agent) -> None:
    page = stopped.spool / "done" / "ended" / "report" / "index.html"
    other = stopped.spool / "deferred" / "again" / "report" / "index.html"
    good = page.read_bytes()
    lines = len(good.splitlines())
    changed = 1 + good.split(b"<bdi>nobody@")[0].count(b"\n")

    def differs(data: bytes) -> str:
        page.write_bytes(data)
        [text] = differences(stopped)
        assert findings(stopped, "--repair")[0] == 0
        assert page.read_bytes() == good
        return text.removeprefix("job ended: report/index.html")

    page.unlink()
    assert findings(stopped, "--repair")[0] == 0
    assert page.read_bytes() == good
    assert differs(b"") == " is too short: line 1 is missing"
    assert differs(good[: good.rindex(b"</html>")]) == f" is too short: line {lines} is missing"
    assert differs(good.replace(b"<bdi>nobody@", b"<bdi>somebody@")) == f":{changed} differs from the database"
    assert differs(good + b"<p>more</p>") == f":{lines} differs from the database"
    assert differs(other.read_bytes()).endswith(" differs from the database")
    page.unlink()
    page.symlink_to(other)
    assert differences(stopped) == ["job ended: report/index.html is a symbolic link"]
    assert findings(stopped, "--repair")[0] == 0
    assert page.read_bytes() == good
    assert not page.is_symlink()


def test_what_a_page_tells_itself_is_no_difference(agent: Agent, relay: Relay) -> None:
    """When it was written, and while the job goes on its end, its speed and the relay's trouble."""
    relay.rules.append(Rule("RCPT", Reply("450 4.2.1 Later"), match="later"))
    agent.start()
    agent.drop("job", ["ada@one.example", "later@one.example"], manifest={"timezone": "Asia/Tokyo"})
    agent.wait_state("job", "waiting")
    assert agent.stop() == 0
    page = agent.spool / "deferred" / "job" / "report" / "index.html"
    good = page.read_bytes()
    people = rb"[A-Z][a-z]{2} [0-9-]{10} [0-9:]{8} JST"
    told = re.sub(rb"As of " + people, b"As of Thu 2026-01-01 00:00:00 JST", good)
    facts = b"<div><dt>Speed</dt><dd>1,234.5 recipients a second</dd></div>\n<div><dt>Attempts</dt>"
    told = told.replace(b"<div><dt>Attempts</dt>", facts)
    assert told.count(b"Thu 2026-01-01") == told.count(b"1,234.5") == 1
    page.write_bytes(told)
    assert differences(agent) == []
    for moment in (rb"Accepted</dt><dd>", rb"Next at</dt><dd>"):
        page.write_bytes(re.sub(moment + people, moment + b"Thu 2026-01-01 00:00:00 JST", good))
        assert len(differences(agent)) == 1, moment


def test_page_of_another_version_is_only_asked_whose_it_is_and_whether_it_is_whole(stopped: Agent) -> None:
    page = stopped.spool / "done" / "ended" / "report" / "index.html"
    other = page.read_bytes().replace(f"spoold {__version__}".encode(), b"spoold 0.0.1").replace(b"<h2>", b"<h3>")
    page.write_bytes(other)
    assert differences(stopped) == []
    page.write_bytes(other[:-20])
    assert differences(stopped) == ["job ended: report/index.html is too short: its end is missing"]
    page.write_bytes(other.replace(b"<title>ended ", b"<title>again "))
    assert differences(stopped) == ["job ended: report/index.html is no page of this job"]


def test_what_only_a_person_can_put_right_is_named_with_what_to_do(stopped: Agent) -> None:
    spool = stopped.spool
    (spool / "active" / "slow" / "message.eml").write_bytes(b"Subject: other\n\nother\n")
    shutil.copytree(spool / "done" / "ended", spool / "active" / "ended")
    (spool / "done" / "stranger\n\x1b[31m").mkdir()
    shutil.rmtree(spool / "deferred" / "again")
    shutil.rmtree(spool / "done" / "wrong")
    (spool / "new" / ".claim-half").mkdir()
    before, database = tree(stopped), truth(stopped)
    code, found = findings(stopped)
    assert code == 1
    assert {(each["level"], each["text"]) for each in found} == {
        ("error", "job slow: message.eml was changed after the job was taken, and is not sent"),
        ("error", "job ended: stands in active/ and done/"),
        ("error", "job stranger\\x0a\\x1b[31m: done/stranger\\x0a\\x1b[31m is no job of this database"),
        ("error", "job again: its folder is missing"),
        ("warning", "job wrong: its folder is missing from done/"),
        ("warning", "job half: new/.claim-half is part of an upload that was being taken"),
    }
    assert all(each["remedy"] for each in found)
    assert findings(stopped, "--repair")[0] == 1
    assert truth(stopped) == database
    repaired = tree(stopped)
    assert {name: repaired[name] for name in before} == before
    assert {name for name in repaired if name not in before} == {f"done/wrong/report/{name}" for name in REPORT}


def test_reports_that_a_kill_left_behind_are_repaired_without_an_agent(agent: Agent, relay: Relay) -> None:
    agent.start()
    agent.drop("held", [f"u{number}@one.example" for number in range(50)], manifest={"rate": "20/s"})
    wait_for(lambda: len(relay.recipients) >= 10, what="ten recipients")
    agent.stop(signal.SIGKILL)
    database = truth(agent)
    assert differences(agent)
    assert findings(agent, "--repair")[0] == 0
    assert differences(agent) == []
    assert truth(agent) == database


def test_check_works_beside_a_sending_agent_and_repair_refuses(agent: Agent, relay: Relay) -> None:
    agent.start()
    agent.drop("busy", [f"u{number}@one.example" for number in range(2000)], manifest={"rate": "50/s"})
    agent.drop("ended", ["ada@one.example"])
    agent.wait_state("ended", "finished")
    wait_for(lambda: len(relay.recipients) >= 20, what="the first recipients")
    assert differences(agent) == []
    recipients = agent.spool / "done" / "ended" / "report" / "recipients.csv"
    wanted = ["job ended: report/recipients.csv:1 differs from the database"]

    def damaged() -> bool:
        # The agent may still be writing the last word of the job.
        recipients.write_text("nothing\n")
        return differences(agent) == wanted

    wait_for(damaged, what="the difference")
    done = agent.command("check", "--deep", "--repair")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert f"the spool is in use by spoold, pid {agent.pid}" in line
    assert line.endswith("to do: stop the agent first; without --repair the check works beside it")
    assert recipients.read_text() == "nothing\n"
    assert relay.violations == []


def test_a_damaged_database_is_an_error_and_nothing_is_repaired_by_it(stopped: Agent) -> None:
    path = stopped.spool / ".spoold" / "spool.db"
    (stopped.spool / "done" / "ended" / "report" / "recipients.csv").unlink()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE state_tally SET n = n + 1 WHERE state = 4")
    database.close()
    before = tree(stopped)
    code, found = findings(stopped, "--repair")
    assert code == 1
    assert "database: job ended: its tally of states is not what its recipients are in" in [
        each["text"] for each in found
    ]
    assert tree(stopped) == before
    data = bytearray(path.read_bytes())
    data[4096 * 2 : 4096 * 6] = os.urandom(4096 * 4)
    path.write_bytes(data)
    code, found = findings(stopped)
    assert (code, {each["check"] for each in found}) == (1, {"deep.database"})
    done = stopped.command("check", "--deep")
    assert "Traceback" not in done.stdout + done.stderr


def test_a_spool_on_which_no_agent_ran_has_nothing_to_compare(agent: Agent) -> None:
    code, found = findings(agent)
    assert code == 0
    assert ["no agent has ever run" in each["text"] for each in found] == [True]


def test_repair_without_deep_is_wrong_usage(agent: Agent) -> None:
    done = agent.command("check", "--repair")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "spoold: --repair: expected --deep with it\n"
