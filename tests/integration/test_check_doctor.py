"""`spoold check` as a doctor: each thing that can be wrong is named, with how bad it is and what to do."""

import contextlib
import datetime
import json
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme

from spoold.cli.check.finding import Findings
from spoold.cli.check.premises import check_staging
from spoold.storage.files import Files
from spoold.storage.spooldir import Spool
from tests.servers.agent import FOLDERS, Agent, wait_for
from tests.servers.certificate import Authority
from tests.servers.disk import small_disk
from tests.servers.relay import EXTENSIONS, Relay

Found = dict[str, list[dict[str, Any]]]


def examine(agent: Agent, *arguments: str, prefix: Sequence[str] = ()) -> tuple[int, Found]:
    """The exit code, and the findings by what was checked."""
    command = [*prefix, sys.executable, "-m", "spoold", "--config", str(agent.config), "check", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    document = json.loads(done.stdout)
    found: Found = {}
    for each in document["findings"]:
        assert set(each) == {"check", "level", "text", "remedy"}
        found.setdefault(each["check"], []).append(each)
    levels = [each["level"] for each in document["findings"]]
    worst = next((level for level in ("error", "warning") if level in levels), "ok")
    assert (document["level"], document["ok"], done.returncode) == (worst, worst != "error", int(worst == "error"))
    return done.returncode, found


def the(found: Found, check: str, level: str) -> str:
    """The text of the one finding of this kind, which has this level and, unless all is well, a remedy."""
    [each] = found[check]
    assert each["level"] == level, each
    assert (each["remedy"] is None) == (level == "ok"), each
    return str(each["text"])


def test_all_that_is_well_is_told_thing_by_thing(agent: Agent, relay: Relay) -> None:
    for name in FOLDERS:
        (agent.spool / name).chmod(0o750)
    agent.start()
    wait_for(agent.state, what="status.json")
    code, found = examine(agent)
    assert code == 0
    for check in (
        "configuration", "spool", "disk.space", "limits.files", "limits.inotify", "agent", "name", "relay", "relay.extensions",
    ):  # fmt: skip
        the(found, check, "ok")
    assert {each["level"] for each in found["clock"]} <= {"ok", "warning"}
    assert the(found, "agent", "ok") == f"agent: answers, pid {agent.pid}"
    assert agent.command("check").stderr == ""
    assert relay.accepted == []


@pytest.mark.parametrize(
    ("name", "mode", "level", "text"),
    [
        (".spoold", 0o755, "error", ".spoold/ has mode 0755; expected 0700"),
        ("new", 0o752, "error", "new/ can be written to by everybody"),
        ("done", 0o770, "error", "done/ can be written to by its group"),
        ("active", 0o755, "warning", "active/ can be read by everybody"),
        ("new", 0o770, "warning", "new/ is for a group, but what is made in it need not be that group's"),
    ],
)
def test_modes_that_let_people_do_what_is_not_theirs(agent: Agent, name: str, mode: int, level: str, text: str) -> None:
    agent.spool.chmod(0o755)
    for folder in FOLDERS:
        (agent.spool / folder).chmod(0o750)
    (agent.spool / name).chmod(mode)
    _, found = examine(agent)
    assert the(found, "spool.modes", level).endswith(text)
    remedy = found["spool.modes"][0]["remedy"]
    subprocess.run(["sh", "-c", remedy], check=True)
    assert "spool.modes" not in examine(agent)[1]


def test_a_folder_of_another_owner_is_an_error(agent: Agent) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give folders away")
    os.chown(agent.spool / "deferred", 23001, -1)
    _, found = examine(agent)
    assert "deferred/ belongs to 23001, and .spoold/ to root" in the(found, "spool.owner", "error")


def test_a_missing_spool_does_not_hide_what_is_said_of_the_relay(agent: Agent) -> None:
    agent.clear()
    code, found = examine(agent)
    assert code == 1
    assert "no spool here" in found["spool"][0]["text"]
    the(found, "relay", "ok")


def test_a_configuration_that_is_wrong_is_a_document_too(agent: Agent) -> None:
    agent.config.write_text("spol: x\n")
    done = agent.command("check", "--json")
    assert (done.returncode, done.stderr) == (2, "")
    document = json.loads(done.stdout)
    assert document["ok"] is False
    assert any("'spol'" in each["text"] for each in document["findings"])


def test_a_clock_behind_the_database_is_an_error(agent: Agent) -> None:
    agent.start().drop("job")
    agent.wait_state("job", "finished")
    assert agent.stop() == 0
    with contextlib.closing(sqlite3.connect(agent.spool / ".spoold" / "spool.db")) as database, database:
        database.execute("UPDATE job SET since = ?", (time.time() + 7200,))
    code, found = examine(agent)
    assert code == 1
    text = the(found, "clock", "error")
    assert text.startswith("clock: it is ")
    assert text.endswith(" behind what the database recorded last")


def test_too_few_open_files_are_an_error(agent: Agent) -> None:
    code, found = examine(agent, prefix=["sh", "-c", 'ulimit -n 200 && exec "$@"', "sh"])
    assert code == 1
    assert the(found, "limits.files", "error") == "limits: 200 open files at most; the configuration needs 270"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder whose `spool` is a file system of 40 MiB and few files."""
    with small_disk(tmp_path / "spool", 40, inodes=300):
        yield tmp_path


def test_a_disk_with_little_room_is_a_warning_and_one_without_an_error(small: Path, relay: Relay) -> None:
    with Agent(small, relay.port) as agent:
        _, found = examine(agent)
        the(found, "disk.space", "warning")
        the(found, "disk.inodes", "warning")
        (agent.spool / "tmp" / "ballast").write_bytes(bytes(12 << 20))
        for number in range(250):
            (agent.spool / "tmp" / f"file-{number}").touch()
        code, found = examine(agent)
        assert code == 1
        assert the(found, "disk.space", "error").endswith("the agent sends nothing below 32 MiB")
        the(found, "disk.inodes", "error")


def test_an_agent_that_no_longer_writes_is_an_error_and_a_missing_one_a_warning(agent: Agent) -> None:
    agent.drop("waits")
    _, found = examine(agent)
    assert the(found, "agent", "warning") == "agent: none runs, and 1 jobs and uploads wait for one"
    state = {"agent": {"pid": 1, "version": "0"}, "updated_at": "2026-01-01T00:00:00.000+00:00", "warnings": []}
    (agent.spool / "status.json").write_text(json.dumps(state))
    holder = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", holder, str(agent.spool / ".spoold" / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        code, found = examine(agent)
        process.kill()
    assert code == 1
    assert the(found, "agent", "error").startswith("agent: runs, and wrote status.json ")


def test_what_has_been_lying_in_tmp_for_more_than_a_day_is_a_warning_and_stays(
    agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp = agent.spool / "tmp"
    # An application that is killed while it writes a job.
    write = (
        "import os, signal, sys; from spoold import write_job\n"
        "def rows():\n    yield 'ada@one.example'\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_job(sys.argv[1], 'cut', sender='a@example.com', message=b'Subject: x', recipients=rows())"
    )
    assert subprocess.run([sys.executable, "-c", write, str(agent.spool)], check=False).returncode == -signal.SIGKILL
    [draft] = os.listdir(tmp)
    assert draft.startswith(".cut.")
    (tmp / "file\n\x1b[31m").touch()
    (tmp / "upload" / "messages").mkdir(parents=True)
    os.utime(tmp / "upload" / "messages", (0, 0))
    before = sorted(tmp.rglob("*"))

    def told(later: float) -> str:
        spool = Spool(agent.spool, Files())
        try:
            check_staging(spool, Findings(as_json=False), time.time() + later)
        finally:
            spool.close()
        return capsys.readouterr().out

    assert told(23 * 3600) == ""
    assert "spool.staging" not in examine(agent)[1]
    left = f"spool {agent.spool}: left in tmp/, without a change for more than a day: {draft}, file\\x0a\\x1b[31m, upload; to do: "
    assert left in told(25 * 3600)
    for number in range(5):
        (tmp / f"more{number}").touch()
    assert "more0, more1, more2 and 3 more; to do: " in told(25 * 3600)
    assert [path for path in before if not path.exists()] == []


# --- relays ---------------------------------------------------------------------------------------------------------


def test_a_host_without_an_address_is_an_error_of_dns(agent: Agent, relay: Relay) -> None:
    agent.configure(relay.port, relay={"host": "relay.invalid"})
    code, found = examine(agent)
    assert code == 1
    assert "relay.invalid" in the(found, "relay.dns", "error")
    assert "relay" not in found


def test_a_relay_that_does_not_answer_is_an_error(agent: Agent) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        agent.configure(closed.getsockname()[1])
        code, found = examine(agent)
    assert code == 1
    the(found, "relay.connect", "error")


@pytest.mark.parametrize(("days", "level"), [(1, "error"), (10, "warning"), (90, "ok")])
def test_days_that_a_certificate_has_left(tmp_path: Path, days: int, level: str) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    now = datetime.datetime.now(datetime.UTC)
    leaf = authority.issue_cert("127.0.0.1", not_after=now + datetime.timedelta(days=days, hours=1))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    for security in ("starttls", "tls"):
        given = {"security": security, "ca_file": str(tmp_path / "authority.pem")}
        with (
            Relay(tls=context, implicit_tls=security == "tls") as relay,
            Agent(tmp_path, relay.port, relay=given) as agent,
        ):
            _, found = examine(agent)
            assert f"valid for {days} days more" in the(found, "relay.certificate", level)
            the(found, "relay", "ok")


def test_a_certificate_that_has_ended_and_a_login_that_is_refused_are_errors(tmp_path: Path, ca: Authority) -> None:
    given = {"security": "starttls", "ca_file": str(ca.pem)}
    with Relay(tls=ca.expired.context()) as relay, Agent(tmp_path, relay.port, relay=given) as agent:
        _, found = examine(agent)
        assert "certificate has expired" in the(found, "relay.tls", "error")
    secret = tmp_path / "password"
    secret.write_text("wrong-4711\n")
    secret.chmod(0o644)
    given |= {"username": "me", "password_file": "password"}
    with (
        Relay(tls=ca.valid.context(), credentials=("me", "right")) as relay,
        Agent(tmp_path, relay.port, relay=given) as agent,
    ):
        code, found = examine(agent)
        assert code == 1
        assert "refused the login of me" in the(found, "relay.login", "error")
        assert the(found, "secret", "warning").endswith("password can be read by everybody")
        assert "4711" not in json.dumps(found)
        secret.unlink()
        _, found = examine(agent)
        assert "password file" in the(found, "relay.login", "error")


def test_what_a_relay_does_not_offer_is_a_warning(agent: Agent, relay: Relay) -> None:
    assert "8BITMIME" in EXTENSIONS
    relay.extensions = ("PIPELINING", "SIZE 1000000")
    code, found = examine(agent)
    assert code == 0
    texts = [(each["level"], each["text"]) for each in found["relay.extensions"]]
    assert texts == [
        ("ok", "relay default: offers PIPELINING"),
        ("warning", "relay default: does not offer 8BITMIME: messages with 8-bit content are refused"),
    ]
    assert "takes 1000000 bytes a message" in the(found, "relay.size", "warning")
