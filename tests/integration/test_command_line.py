"""The commands as processes (CONTRACT §8): exit codes, one line a problem, which configuration counts, closed output."""

import json
import os
import pty
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from spoold.cli.main import main
from tests.servers.agent import Agent, wait_for
from tests.servers.certificate import Authority
from tests.servers.relay import Relay, Reply, Rule

PROGRAM = Path(sys.executable).parent / "spoold"


def spoold(
    *arguments: str | Path, cwd: Path | None = None, environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the installed program; nothing that it ever says is a traceback."""
    base = {name: value for name, value in os.environ.items() if name not in ("SPOOLD_CONFIG", "NO_COLOR")}
    done = subprocess.run(
        [PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**base, **(environ or {})},
        stdin=subprocess.DEVNULL,
        timeout=30,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


def closed_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def config(agent: Agent) -> Path:
    """A configuration whose spool has no agent."""
    return agent.config


# --- usage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["sned"], "invalid choice: 'sned'"),
        (["status", "--jsno"], "unrecognized arguments: --jsno"),
        (["cancel"], "the following arguments are required: JOB"),
        (["validate"], "the following arguments are required: JOBDIR"),
        (["init"], "the following arguments are required: SPOOL"),
        (["check", "--send-to", "nobody"], "--send-to: "),
        (["check", "--send-to", "a@b.example\r\nRCPT TO:<c@d.example>"], "--send-to: "),
        (["status", "--json", "--watch"], "--json prints one JSON document"),
        (["validate", "/nowhere/job"], "/nowhere/job: no such folder"),
        (["seal", "/etc/passwd"], "/etc/passwd: is no folder"),
    ],
)
def test_wrong_usage_ends_with_two_and_says_what_is_wrong(
    config: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    code: object
    try:
        code = main(["--config", str(config), *arguments])
    except SystemExit as end:
        code = end.code
    out, err = capfd.readouterr()
    assert (code, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith("spoold")
    assert problem in last


def test_module_and_program_are_the_same() -> None:
    module = subprocess.run([sys.executable, "-m", "spoold", "--help"], capture_output=True, text=True, check=True)
    program = spoold("--help")
    assert module.stdout == program.stdout
    for command in (
        "demo", "init", "run", "check", "validate", "seal", "status", "cancel", "hold", "release", "retry",
    ):  # fmt: skip
        assert f"    {command} " in program.stdout
    version = spoold("--version")
    assert (version.returncode, version.stderr) == (0, "")
    assert version.stdout.startswith("spoold ")


# --- the configuration --------------------------------------------------------------------------------------------


def test_configuration_is_the_option_then_the_variable_then_the_working_directory(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("option", "variable", "here"):
        (tmp_path / name).mkdir()
        assert main(["init", str(tmp_path / name / f"of-{name}")]) == 0
        (tmp_path / name / "spoold.yaml").write_text(f"spool: of-{name}\nrelays: {{default: {{host: localhost}}}}\n")
    capfd.readouterr()
    monkeypatch.chdir(tmp_path / "here")
    option = ["--config", str(tmp_path / "option" / "spoold.yaml")]
    variable = str(tmp_path / "variable" / "spoold.yaml")
    for arguments, value, expected in (
        ([*option, "status"], variable, "of-option"),
        (["status", *option], variable, "of-option"),
        (["status"], variable, "of-variable"),
        (["status"], None, "of-here"),
        (["status"], "", "of-here"),
    ):
        monkeypatch.delenv("SPOOLD_CONFIG", raising=False)
        if value is not None:
            monkeypatch.setenv("SPOOLD_CONFIG", value)
        code = main(arguments)
        out, err = capfd.readouterr()
        assert (code, err) == (0, "")
        assert expected in out


def test_no_configuration_names_all_the_places(tmp_path: Path) -> None:
    if Path("/etc/spoold/spoold.yaml").exists():
        pytest.skip("this machine has a configuration")
    done = spoold("status", cwd=tmp_path)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    for place in ("--config FILE", "$SPOOLD_CONFIG", "spoold.yaml", "/etc/spoold/spoold.yaml", "spoold init SPOOL"):
        assert place in line


@pytest.mark.parametrize("command", ["run", "check", "status"])
def test_wrong_configuration_ends_with_two_and_a_line_for_each_problem(config: Path, command: str) -> None:
    config.write_text("spol: x\nrelays:\n  default: {host: localhost, prot: 25}\nlog: {level: loud}\n")
    done = spoold("--config", config, command)
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert all(line.startswith(f"spoold: {config}:") for line in lines)
    places = [line.split(":")[2:4] for line in lines]
    assert ["1", "1"] in places
    assert ["3", "30"] in places
    assert ["4", "14"] in places
    assert any("'prot'; did you mean 'port'?" in line for line in lines)


@pytest.mark.parametrize("command", ["run", "status", "cancel"])
def test_missing_spool_is_named_with_what_makes_one(tmp_path: Path, command: str) -> None:
    (tmp_path / "spoold.yaml").write_text("spool: nowhere\nrelays: {default: {host: localhost}}\n")
    done = spoold(command, *(["job"] if command == "cancel" else []), cwd=tmp_path)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("spoold: ")
    assert "no spool here" in last
    assert "spoold init" in last


# --- init ---------------------------------------------------------------------------------------------------------


def test_init_makes_a_spool_that_runs_and_changes_nothing_the_second_time(tmp_path: Path) -> None:
    spool = tmp_path / "a" / "spool"
    first = spoold("init", spool)
    assert (first.returncode, first.stderr) == (0, "")
    assert {path.name for path in spool.iterdir()} == {
        "tmp", "new", "active", "deferred", "done", ".spoold", "spoold.yaml",
    }  # fmt: skip
    assert (spool / ".spoold").stat().st_mode & 0o777 == 0o700
    config = spool / "spoold.yaml"
    text = config.read_text()
    assert text.count("#") > 20
    config.write_text(text.replace("port: 2525", f"port: {closed_port()}"))
    second = spoold("init", spool)
    assert second.returncode == 0
    assert "is a spool already; nothing changed" in second.stdout
    assert config.read_text() != text
    drained = spoold("run", "--drain", cwd=spool)
    assert drained.returncode == 0
    events = [json.loads(line)["event"] for line in drained.stderr.splitlines()]
    assert (events[0], events[-1]) == ("agent.started", "agent.stopped")


def test_init_where_a_file_is_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = spoold("init", tmp_path / "file")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"spoold: {tmp_path / 'file'}: File exists\n"


# --- run ----------------------------------------------------------------------------------------------------------


def test_second_agent_is_refused_by_the_name_of_the_first(agent: Agent) -> None:
    agent.start()
    done = agent.command("run")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("spoold: ")
    assert f"in use by spoold, pid {agent.pid} on {socket.gethostname()}" in line
    assert agent.stop() == 0


def test_drain_sends_what_can_be_sent_now_and_ends(agent: Agent, relay: Relay) -> None:
    relay.rules.append(Rule("RCPT", Reply("450 4.7.1 Greylisted"), match="grey"))
    agent.drop("one", [f"r{number}@one.example" for number in range(30)])
    agent.drop("two", ["good@two.example", "grey@two.example"])
    agent.write_job(agent.spool / "new" / "quiet", ["quiet@three.example"])
    agent.start(wait=False, arguments=["--drain"])
    assert agent.died(25) == 0
    assert agent.status("one")["counts"]["sent"] == 30  # type: ignore[index]
    assert agent.status("quiet")["state"] == "finished"  # type: ignore[index]
    waiting = agent.status("two")
    assert waiting is not None
    assert (waiting["state"], waiting["reason"]) == ("waiting", "retry")
    assert len(relay.recipients) == len(set(relay.recipients)) == 32
    assert relay.violations == []


def test_drain_ends_while_an_upload_is_incomplete_and_the_relay_is_down(agent: Agent, relay: Relay) -> None:
    relay.stop()
    agent.drop("job")
    agent.write_job(agent.spool / "new" / "part", manifest={"expect": {"recipients": 2}})
    agent.start(wait=False, arguments=["--drain"])
    assert agent.died(25) == 0
    status = agent.status("job")
    assert status is not None
    assert (status["state"], status["reason"]) == ("waiting", "relay")
    assert (agent.spool / "new" / "part").is_dir()


# --- check --------------------------------------------------------------------------------------------------------


def test_check_of_what_is_good_sends_a_message_on_request(agent: Agent, relay: Relay) -> None:
    done = agent.command("check")
    assert (done.returncode, done.stderr) == (0, "")
    assert relay.accepted == []
    assert done.stdout.splitlines()[-1] == f"ok       relay default at 127.0.0.1:{relay.port}, security none"
    agent.start()
    sent = agent.command("check", "--send-to", "postmaster@one.example")
    assert (sent.returncode, sent.stderr) == (0, "")
    assert "an agent runs on it" in sent.stdout
    [mail] = relay.accepted
    assert mail.recipients == ("postmaster@one.example",)
    assert mail.mail_from == "postmaster@one.example"
    for field in (b"From: ", b"To: ", b"Date: ", b"Message-ID: <", b"Subject: spoold check"):
        assert b"\r\n" + field in b"\r\n" + mail.data
    assert relay.violations == []


def test_check_of_a_refused_test_message_fails_with_the_reply(agent: Agent, relay: Relay) -> None:
    relay.rules.append(Rule("RCPT", Reply("550 5.7.1 Relaying denied")))
    done = agent.command("check", "--send-to", "ada@one.example")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("error    relay default: message to ada@one.example: ")
    assert "550 5.7.1 Relaying denied" in line


def test_check_names_everything_that_is_wrong_with_several_relays(
    agent: Agent, relay: Relay, ca: Authority, tmp_path: Path
) -> None:
    with Relay(tls=ca.valid.context(), credentials=("me", "secret")) as secure:
        (tmp_path / "right").write_text("secret\n")
        (tmp_path / "wrong").write_text("guess\n")
        for path in (tmp_path / "right", tmp_path / "wrong"):
            path.chmod(0o600)
        login = {
            "host": "127.0.0.1", "port": secure.port, "security": "starttls", "username": "me", "ca_file": str(ca.pem),
        }  # fmt: skip
        down = closed_port()
        agent.configure(
            relay.port,
            config={
                "relays": {
                    "good": {**login, "password_file": "right"},
                    "badlogin": {**login, "password_file": "wrong"},
                    "nopassword": {**login, "password_file": "missing"},
                    "untrusted": {"host": "127.0.0.1", "port": secure.port, "security": "starttls"},
                    "down": {"host": "127.0.0.1", "port": down, "security": "none"},
                }
            },
        )
        done = agent.command("check")
    assert done.returncode == 1
    assert f"relay good at 127.0.0.1:{secure.port}, security starttls, logged in as me" in done.stdout
    errors = dict(line.removeprefix("error    relay ").split(": ", 1) for line in done.stderr.splitlines())
    assert list(errors) == ["badlogin", "nopassword", "untrusted", "down"]
    assert "535" in errors["badlogin"]
    assert str(tmp_path / "missing") in errors["nopassword"]
    assert "certificate" in errors["untrusted"]
    assert str(down) in errors["down"]
    for text in errors.values():
        assert "to do: " in text
    assert "secret" not in done.stdout + done.stderr
    assert "guess" not in done.stdout + done.stderr


# --- status -------------------------------------------------------------------------------------------------------


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


def on_a_terminal(config: Path, *arguments: str, environ: dict[str, str]) -> tuple[int, bytes]:
    """Run the program with a terminal as its output; Ctrl-C comes once it has shown something."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [PROGRAM, "--config", config, *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **environ},
        start_new_session=True,
    )
    os.close(slave)
    seen = b""
    try:
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # EIO: nobody has the terminal open any more
                break
            if not data:
                break
            seen += data
            if b"No jobs." in seen and "--watch" in arguments and process.poll() is None:
                process.send_signal(signal.SIGINT)
        return process.wait(20), seen
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(master)


def test_watch_ends_with_ctrl_c_and_is_quiet_about_it(config: Path) -> None:
    code, seen = on_a_terminal(config, "status", "--watch", environ={})
    assert code == 0
    assert b"\x1b[?1049h" in seen  # a screen of its own
    assert seen.rstrip().endswith(b"No jobs."), seen[-300:]  # what was seen last stays
    for word in (b"Traceback", b"KeyboardInterrupt", b"spoold: "):
        assert word not in seen


def test_no_color_leaves_a_terminal_without_colour(agent: Agent, relay: Relay) -> None:
    agent.start()
    agent.drop("job")
    agent.wait_state("job", "finished")
    wait_for(lambda: (agent.state() or {"jobs": []})["jobs"])
    coloured = on_a_terminal(agent.config, "status", environ={"NO_COLOR": ""})[1]
    plain = on_a_terminal(agent.config, "status", environ={"NO_COLOR": "1"})[1]
    assert b"job" in coloured
    assert b"job" in plain
    assert b"\x1b[3" not in plain
    assert b"\x1b[9" not in plain


# --- output that nobody reads -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [("status",), ("status", "--json"), ("check",), ("--help",)], ids=lambda arguments: " ".join(arguments)
)
def test_reader_that_went_away_is_no_error_to_talk_about(config: Path, arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [PROGRAM, "--config", config, *arguments], stdout=writing, stderr=subprocess.PIPE, timeout=30, check=False
        )
    finally:
        os.close(writing)
    assert done.stderr == b""
    assert done.returncode in (0, 1)


@pytest.mark.parametrize(
    "arguments", [("status",), ("status", "--json"), ("check",)], ids=lambda given: " ".join(given)
)
def test_closed_standard_output_is_not_an_error(config: Path, relay: Relay, arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" "$@" >&-', PROGRAM, "--config", config, *arguments],
        stderr=subprocess.PIPE,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
