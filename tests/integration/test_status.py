"""`spoold status` on terminals of every width, without a terminal, and live; the bars of long commands."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import orjson
import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.relay import Relay, Reply, Rule
from tests.servers.terminal import CONTROL, Terminal

pytestmark = pytest.mark.agent(relay={"connections": 2, "recipients_per_message": 5})


def status(agent: Agent, *arguments: str) -> list[str]:
    return ["--config", str(agent.config), "status", *arguments]


def shown(agent: Agent, *arguments: str, columns: int, environ: Mapping[str, str] | None = None) -> Terminal:
    terminal = Terminal(status(agent, *arguments), columns, environ=environ)
    assert terminal.end() == 0, terminal.text
    return terminal


@pytest.fixture(scope="module")
def rested(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """At rest: a job of which some were refused and one is tried later; a rejected one; an upload that waits."""
    with Relay() as relay, Agent(tmp_path_factory.mktemp("rested"), relay.port) as agent:
        relay.rules += [
            Rule("RCPT", Reply("550 5.1.1 no such user \x1b[31mred[bold]"), match="bad"),
            Rule("RCPT", Reply("451 4.2.0 later"), match="grey"),
        ]
        agent.start()
        agent.drop(
            "autumn-sale",
            [*(f"to{n}@one.example" for n in range(16)), "bad@one.example", "bad@two.example", "grey@one.example"],
            manifest={"description": "Autumn [red]sale\u202e"},
        )
        agent.drop("broken", manifest={"colour": "red"})
        agent.drop("[red]part", manifest={"expect": {"recipients": 9}})
        agent.wait_state("autumn-sale", "waiting")
        agent.wait_state("broken", "rejected")
        wait_for(lambda: (agent.state() or {"uploads": []})["uploads"])
        wait_for(lambda: [job["state"] for job in (agent.state() or {"jobs": []})["jobs"]] == ["waiting", "rejected"])
        yield agent


def test_table_fits_terminals_of_every_width_and_lists_have_no_limit_elsewhere(rested: Agent) -> None:
    for columns in (40, 60, 80, 120, 200):
        lines = shown(rested, columns=columns).text.splitlines()
        assert max(map(len, lines)) <= columns, columns
        [job] = [line for line in lines if line.startswith("autumn-sale")]
        assert "waiting: " in job
        assert "94.7%" in job
        assert ("━" in job) == (columns >= 110)
        assert any("[red]part: waits for" in line for line in lines)
    wide = rested.command("status").stdout
    assert "\x1b" not in wide
    assert "━" not in wide
    assert not any(line != line.rstrip() for line in wide.splitlines())
    [header] = [line for line in wide.splitlines() if line.startswith("Job ")]
    assert header.split() == [
        "Job",
        "State",
        "Done",
        "Total",
        "Sent",
        "Failed",
        "Deferred",
        "To",
        "send",
        "Rate",
        "Left",
    ]
    [job] = [line for line in wide.splitlines() if line.startswith("autumn-sale")]
    assert re.search(r"94\.7%\s+19\s+16\s+2\s+1\s+0\s+-\s+", job)
    assert "waiting: retry, next in " in job
    assert "rejected: job.yaml:3:2: unknown key 'colour'" in wide


def test_page_of_a_job_says_all_and_obeys_neither_markup_nor_control_codes(rested: Agent) -> None:
    plain = rested.command("status", "autumn-sale").stdout
    assert plain.startswith("autumn-sale: waiting: some recipients are tried again later, next at ")
    for text in (
        "Description: Autumn [red]sale\\u202e\n",
        "Sender:      <news@example.com>\n",
        "] 94.7% of 19 recipients\n",
        "550 5.1.1 no such user \\x1b[31mred[bold]",
        "Last failures:",
        "grey@one.example deferred 451 4.2.0 later",
    ):
        assert text in plain, text
    assert re.search(r"\n +sent +16 +84\.2%\n +failed +2 +10\.5%\n", plain)
    assert "\x1b" not in plain
    assert re.search(r"\[#{57}\.{3}\]", plain)
    for columns in (50, 80, 120):
        terminal = shown(rested, "autumn-sale", columns=columns)
        assert max(map(len, terminal.text.splitlines())) <= columns
        assert b"\x1b[31mred" not in terminal.raw
        assert "94.7% of 19 recipients" in terminal.text
        assert "━━━" in terminal.text
    broken = rested.command("status", "broken").stdout
    assert broken.startswith("broken: rejected: nothing was sent\n")
    assert "\nErrors:\n  job.yaml:3:2: unknown key 'colour'" in broken


def test_no_color_keeps_the_bar_and_drops_the_colours(rested: Agent) -> None:
    for arguments in ((), ("autumn-sale",)):
        plain = shown(rested, *arguments, columns=120, environ={"NO_COLOR": "1"})
        assert "━" in plain.text
        assert not re.search(rb"\x1b\[(3|4|9|10)\d", plain.raw)
        coloured = shown(rested, *arguments, columns=120, environ={"NO_COLOR": ""})
        assert re.search(rb"\x1b\[(3|9)\d", coloured.raw)


def test_terminal_that_knows_ascii_only_gets_ascii(rested: Agent) -> None:
    for arguments in ((), ("autumn-sale",)):
        terminal = shown(rested, *arguments, columns=120, environ={"PYTHONIOENCODING": "ascii"})
        assert terminal.raw.isascii()
        assert "###" in terminal.text


def test_watch_moves_while_a_job_is_sent_and_leaves_its_last_look(agent: Agent, relay: Relay) -> None:
    relay.rules.append(Rule("RCPT", Reply("550 5.1.1 nobody"), match="to3@"))
    agent.start()
    agent.drop("job", [f"to{n}@one.example" for n in range(1000)], manifest={"rate": "10/s"})
    wait_for(lambda: [job["state"] for job in (agent.state() or {"jobs": []})["jobs"]] == ["sending"])
    terminal = Terminal(status(agent, "--watch"), 120, 30)
    try:
        terminal.wait(lambda text: len(set(re.findall(r"job +sending .*?(\d+\.\d)%", text))) >= 3)
        terminal.wait(lambda text: bool(re.search(r"job +sending .*\d/s +\d+ (s|min)", text)))
        terminal.wait(lambda text: "550 5.1.1 nobody" in text)
    finally:
        code = terminal.end(signal.SIGINT)
    assert code == 0
    assert b"\x1b[?1049h" in terminal.raw
    after = CONTROL.sub("", terminal.raw.rpartition(b"\x1b[?1049l")[2].decode())
    assert "spoold " in after
    assert "Last failures:" in after
    for word in ("Traceback", "KeyboardInterrupt"):
        assert word not in terminal.text


def test_watch_of_many_jobs_shows_those_that_are_sent_and_fits_the_screen(agent: Agent, relay: Relay) -> None:
    agent.start()
    for number in range(30):
        agent.drop(f"later{number}", ["a@one.example"], manifest={"send_after": "2035-01-01T00:00:00Z"})
    agent.drop("now", [f"to{n}@one.example" for n in range(50)], manifest={"rate": "1/s"})
    agent.wait_state("now", "sending")
    wait_for(lambda: len((agent.state() or {"jobs": []})["jobs"]) == 31)
    terminal = Terminal(status(agent, "--watch"), 100, 20)
    terminal.wait(lambda text: "more jobs" in text)
    terminal.end(signal.SIGINT)
    first = CONTROL.sub("", terminal.raw.partition(b"\x1b[?1049h")[2].partition(b"more jobs")[0].decode()).splitlines()
    assert len(first) < 20
    [table] = [number for number, line in enumerate(first) if line.startswith("Job ")]
    assert first[table + 1].startswith("now ")


def test_watch_without_a_terminal_writes_a_line_for_each_change(agent: Agent, relay: Relay) -> None:
    agent.start()
    command = [sys.executable, "-m", "spoold", *status(agent, "--watch")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert " relay default: up" in next(lines)
        assert " agent: running" in next(lines)
        agent.drop("job", ["ada@one.example"])
        job = next(line for line in lines if " job: finished" in line)
        assert re.fullmatch(r"\d\d:\d\d:\d\d job: finished, 100\.0% of 1: 1 sent\n", job)
        process.send_signal(signal.SIGINT)
        assert (process.stdout.read(), process.wait(20)) == ("", 0)


def test_reports_that_are_none_are_named_in_one_line(agent: Agent, relay: Relay) -> None:
    agent.start()
    agent.drop("job")
    agent.wait_state("job", "finished")
    agent.stop()
    report = agent.spool / "done" / "job" / "report"
    (report / "statistics.json").write_bytes(b"{")
    (report / "attempts.jsonl").write_bytes(b'{"at":')
    assert agent.command("status", "job").returncode == 0
    (report / "status.json").write_bytes(b'{"job": 7}')
    broken = agent.command("status", "job")
    assert broken.returncode == 1
    assert broken.stderr == "spoold: job: its report cannot be read: report/status.json is not what an agent writes\n"
    assert agent.command("status").returncode == 0
    for content in (b"[]", b"{}", b'{"agent": {}, "jobs": 7}'):
        (agent.spool / "status.json").write_bytes(content)
        done = agent.command("status")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "spoold: status.json is not what an agent writes; a running agent replaces it\n"


def test_json_is_the_agents_own_document(rested: Agent) -> None:
    document = orjson.loads(rested.command("status", "autumn-sale", "--json").stdout)
    assert document == rested.status("autumn-sale")
    whole = orjson.loads(rested.command("status", "--json").stdout)
    assert set(whole) == {"agent", "updated_at", "warnings", "relays", "uploads", "jobs", "running"}


# --- bars of long commands --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that takes a second or more to look through."""
    folder = tmp_path_factory.mktemp("large") / "large"
    folder.mkdir()
    count = 400_000
    (folder / "job.yaml").write_text(f"sender: news@example.com\nexpect: {{recipients: {count}}}\n")
    (folder / "message.eml").write_bytes(b"Subject: News\n\nHello\n")
    (folder / "recipients.csv").write_text("address\n" + "".join(f"to{n}@one.example\n" for n in range(count)))
    return folder


def test_validate_of_a_large_job_shows_a_bar_that_goes(large: Path) -> None:
    terminal = Terminal(["validate", str(large)], 100)
    assert terminal.end() == 0
    assert re.search(r"Recipients .*\d+,000 of 400,000 recipients", terminal.text)
    assert terminal.raw.endswith(b"400000 recipient(s), 1 message(s)\r\n")
    assert b"\x1b[2K" in terminal.raw  # the bar was erased


def test_short_work_and_no_terminal_show_no_bar(large: Path, tmp_path: Path) -> None:
    elsewhere = subprocess.run(
        [sys.executable, "-m", "spoold", "validate", large], capture_output=True, text=True, timeout=60, check=False
    )
    assert (elsewhere.returncode, elsewhere.stderr) == (0, "")
    assert elsewhere.stdout.count("\n") == 1
    small = tmp_path / "small"
    small.mkdir()
    (small / "job.yaml").write_text("sender: news@example.com\nrecipients: [ada@one.example]\n")
    (small / "message.eml").write_bytes(b"Subject: News\n\nHello\n")
    for command in ("validate", "seal", "validate"):
        terminal = Terminal([command, str(small)], 100)
        assert terminal.end() == 0
        assert b"\x1b" not in terminal.raw
        assert terminal.text.count("\n") == 1
