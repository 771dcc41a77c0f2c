"""The commands as processes (CONTRACT §8): exit codes, one line a problem, which configuration counts, closed output."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spoold.cli.main import main
from tests.servers.agent import Agent
from tests.servers.process import free_port
from tests.servers.program import PROGRAM, spoold
from tests.servers.relay import Relay


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
    config.write_text(text.replace("port: 2525", f"port: {free_port()}"))
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
