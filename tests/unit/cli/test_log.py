"""The three forms of a log line (CONTRACT §7), as a process writes them."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from spoold.event import log
from spoold.cli.config import LogSettings
from spoold.cli.log import configure

configure(LogSettings(*sys.argv[1:3]))
log("message.sent", recipients=2, job="a\\nb")
log("agent.started", version="1", spool="/s", jobs=0)
log("relay.down", relay="default", error="Ü \\x1b[31m")
if len(sys.argv) > 3:
    configure(LogSettings(*sys.argv[3:5]))
    log("message.sent", recipients=3)
    log("agent.stopped")
"""
NAMES = {name: value for name, value in os.environ.items() if name not in ("JOURNAL_STREAM", "NO_COLOR")}


def written(path: Path, *arguments: str, journal: str | None = None) -> list[bytes]:
    """The lines that a process writes to the file `path`; `journal` "this" says that the file is the journal."""
    with path.open("wb") as file:
        environ = dict(NAMES)
        if journal is not None:
            found = os.fstat(file.fileno())
            environ["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}" if journal == "this" else journal
        subprocess.run([sys.executable, "-c", PROGRAM, *arguments], stderr=file, env=environ, check=True)
    return path.read_bytes().splitlines()


@pytest.mark.parametrize("form", ["auto", "json"])
def test_file_gets_a_json_document_a_line_from_its_level_on(tmp_path: Path, form: str) -> None:
    lines = written(tmp_path / "log", form, "info")
    events = [json.loads(line) for line in lines]
    assert [(event["event"], event["level"]) for event in events] == [
        ("agent.started", "info"), ("relay.down", "error"),
    ]  # fmt: skip
    assert events[1]["error"] == "Ü \x1b[31m"
    assert all(event["timestamp"].endswith("Z") for event in events)
    assert all(byte >= 32 for line in lines for byte in line)
    assert len(written(tmp_path / "log", form, "debug")) == 3
    assert len(written(tmp_path / "log", form, "error")) == 1


def test_journal_gets_the_priority_of_each_line(tmp_path: Path) -> None:
    lines = written(tmp_path / "log", "auto", "debug", journal="this")
    assert [line[:3] for line in lines] == [b"<7>", b"<6>", b"<3>"]
    assert [json.loads(line[3:])["event"] for line in lines] == ["message.sent", "agent.started", "relay.down"]


def test_file_of_a_process_below_the_journal_gets_no_priorities(tmp_path: Path) -> None:
    for other in ("8:1", "nonsense"):
        assert all(line.startswith(b"{") for line in written(tmp_path / "log", "auto", "info", journal=other))


def test_console_form_is_for_people_and_has_no_colour_in_a_file(tmp_path: Path) -> None:
    text = b"\n".join(written(tmp_path / "log", "console", "info", journal="this")).decode()
    assert "agent.started" in text
    assert "version=1" in text
    assert "\x1b[3" not in text.replace("\x1b[31m", "")
    assert not text.startswith(("{", "<"))


def test_level_and_form_follow_a_reload(tmp_path: Path) -> None:
    lines = written(tmp_path / "log", "json", "error", "console", "debug")
    assert [json.loads(line)["event"] for line in lines[:1]] == ["relay.down"]
    assert b"message.sent" in lines[1]
    assert b"agent.stopped" in lines[2]
    assert not lines[1].startswith(b"{")


@pytest.mark.parametrize(("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_terminal_gets_the_console_form(environ: dict[str, str], coloured: bool) -> None:
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "auto", "info"], stderr=slave, env={**NAMES, "TERM": "xterm", **environ}
    ) as process:
        os.close(slave)
        seen = b""
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # EIO: the process has ended
                break
            if not data:
                break
            seen += data
        assert process.wait(20) == 0
    os.close(master)
    assert b"agent.started" in seen
    assert b"{" not in seen
    assert (b"\x1b[0m" in seen) is coloured
