"""spool_example/ and `spoold demo`: what people try first is run here, so that it cannot rot."""

import csv
import json
import re
import shutil
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from spoold.cli.config import read
from spoold.cli.main import main
from tests.servers.agent import FOLDERS, Agent, wait_for
from tests.servers.relay import Relay

EXAMPLE = Path(__file__).parents[2] / "spool_example"
JOBS = ("newsletter", "invoices", "night-mailing")

#: Every key of CONTRACT §7, those of the sections too.
KEYS = {
    "spool", "timezone", "relays", "rate", "domain_rates", "windows", "retry", "intake", "keep_done", "notify", "log",
    "host", "port", "security", "username", "password_file", "credential", "ca_file", "connections",
    "recipients_per_message", "fallback", "every", "for", "settle", "stale", "quiet", "max_recipients", "max_message",
    "format", "level",
}  # fmt: skip


def drop(agent: Agent, name: str) -> None:
    """As README.txt has it: copy into tmp/, then rename into new/."""
    shutil.copytree(EXAMPLE / "jobs" / name, agent.spool / "tmp" / name)
    (agent.spool / "tmp" / name).rename(agent.spool / "new" / name)


def rows(name: str) -> list[dict[str, str]]:
    with (EXAMPLE / "jobs" / name / "recipients.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def body(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n").partition(b"\n\n")[2]


def test_example_is_a_spool_with_three_jobs() -> None:
    assert {path.name for path in EXAMPLE.iterdir()} == {
        *FOLDERS, "jobs", "spoold.yaml", "README.txt", "report-light.png", "report-dark.png",
    }  # fmt: skip
    assert {path.name for path in (EXAMPLE / "jobs").iterdir()} == set(JOBS)
    for name in FOLDERS:
        assert [path.name for path in (EXAMPLE / name).iterdir() if not path.name.startswith(".")] == []


@pytest.mark.parametrize("name", JOBS)
def test_example_job_validates_without_a_note(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    code = main(["--config", str(EXAMPLE / "spoold.yaml"), "validate", str(EXAMPLE / "jobs" / name)])
    out, err = capfd.readouterr()
    assert (code, err) == (0, "")
    assert re.fullmatch(rf"\S+/{name}: good: \d+ recipient\(s\), \d+ message\(s\)\n", out)


def test_example_configuration_loads_and_names_every_key() -> None:
    text = (EXAMPLE / "spoold.yaml").read_text()
    named = set(re.findall(r"\b([a-z_]+):(?= |$)", text, re.MULTILINE))
    assert KEYS - named == set()
    config = read(EXAMPLE / "spoold.yaml")
    assert config.spool == EXAMPLE
    assert list(config.agent.relays) == ["default"]
    assert config.agent.relays["default"].host == "127.0.0.1"


def test_example_configuration_shows_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "spoold.yaml").write_text(
        "spool: .\ntimezone: Europe/Vienna\nrelays: {default: {host: 127.0.0.1, port: 2525, security: none}}\n"
    )
    shown, least = read(EXAMPLE / "spoold.yaml"), read(tmp_path / "spoold.yaml")
    assert shown.agent == least.agent
    assert shown.log == least.log


def test_what_stands_behind_comment_signs_is_right_too(tmp_path: Path) -> None:
    text = (EXAMPLE / "spoold.yaml").read_text()
    keys = "|".join(sorted(KEYS | {"provider"}))
    uncommented = re.sub(rf"^( *)# ( *)((?:{keys}):(?: .*)?)$", r"\1\2\3", text, flags=re.MULTILINE)
    uncommented = uncommented.replace("fallback: second", "fallback: provider")
    for name in ("private-ca.pem", "smtp-password"):
        (tmp_path / name).write_text("x\n")
    (tmp_path / "spoold.yaml").write_text(uncommented)
    config = read(tmp_path / "spoold.yaml")
    provider = config.agent.relays["provider"]
    assert (provider.host, provider.port, provider.username) == ("smtp.example.com", 587, "me@example.com")
    assert provider.ca_file == str(tmp_path / "private-ca.pem")
    assert config.agent.limits.agent is not None
    assert set(config.agent.limits.relays) == {"default", "provider"}
    assert set(config.agent.limits.domains) == {"gmail.com", "example.com"}


def test_copy_of_the_example_runs_as_it_is(tmp_path: Path, relay: Relay) -> None:
    spool = tmp_path / "spool"
    shutil.copytree(EXAMPLE, spool)
    config = spool / "spoold.yaml"
    config.write_text(config.read_text().replace("port: 2525", f"port: {relay.port}"))
    shutil.copytree(spool / "jobs" / "newsletter", spool / "tmp" / "newsletter")
    for command in ("seal", "validate"):
        subprocess.run([sys.executable, "-m", "spoold", command, "tmp/newsletter"], cwd=spool, check=True)
    (spool / "tmp" / "newsletter").rename(spool / "new" / "newsletter")
    done = subprocess.run(
        [sys.executable, "-m", "spoold", "run", "--drain"], cwd=spool, capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (spool / ".spoold").stat().st_mode & 0o777 == 0o700
    status = json.loads((spool / "done" / "newsletter" / "report" / "status.json").read_bytes())
    assert (status["state"], status["counts"]["sent"]) == ("finished", 12)


def test_newsletter_goes_to_everybody_in_one_transaction(agent: Agent, relay: Relay) -> None:
    agent.start()
    drop(agent, "newsletter")
    status = agent.wait_state("newsletter", "finished")
    assert (status["description"], status["warnings"]) == ("Garden newsletter, autumn", [])
    [mail] = relay.accepted
    assert mail.mail_from == "bounces@example.com"
    assert list(mail.recipients) == [row["address"] for row in rows("newsletter")]
    source = (EXAMPLE / "jobs" / "newsletter" / "message.eml").read_bytes()
    assert body(mail.data) == body(source)
    header = mail.data.replace(b"\r\n", b"\n").partition(b"\n\n")[0].lower()
    assert header.count(b"\ndate: ") + header.startswith(b"date: ") == 1
    assert header.count(b"\nmessage-id: ") + header.startswith(b"message-id: ") == 1
    assert status["counts"]["sent"] == status["total"] == 12
    assert relay.violations == []


def test_invoices_go_to_their_customers_each_with_its_own_message(agent: Agent, relay: Relay) -> None:
    agent.start()
    drop(agent, "invoices")
    status = agent.wait_state("invoices", "finished")
    assert (status["counts"]["sent"], status["warnings"]) == (5, [])
    mails = {mail.recipients: mail for mail in relay.accepted}
    assert len(relay.accepted) == len(mails) == 5
    for row in rows("invoices"):
        mail = mails[row["address"],]
        assert mail.mail_from == "billing@example.com"
        assert body(mail.data) == body((EXAMPLE / "jobs" / "invoices" / row["message"]).read_bytes())
    assert relay.violations == []


def test_night_mailing_waits_for_the_night_and_goes_when_its_window_is_taken_out(agent: Agent, relay: Relay) -> None:
    agent.start()
    drop(agent, "night-mailing")
    vienna = ZoneInfo("Europe/Vienna")
    status = wait_for(lambda: agent.status("night-mailing"))
    hour = datetime.now(vienna).hour
    if 6 <= hour < 22:
        status = agent.wait_state("night-mailing", "waiting")
        assert status["reason"] == "window"
        opens = datetime.fromisoformat(status["next_at"])
        assert opens.timestamp() > time.time()
        assert opens.astimezone(vienna).strftime("%H:%M") == "22:00"
        assert relay.connections == 0
    folder = agent.find("night-mailing")
    assert folder is not None
    text = (folder / "job.yaml").read_text()
    edited = re.sub(r"^(windows|rate|domain_rates): .*\n", "", text, flags=re.MULTILINE)
    assert len(text.splitlines()) == len(edited.splitlines()) + 3
    (folder / "job.yaml").write_text(edited)
    status = agent.wait_state("night-mailing", "finished")
    assert (status["counts"]["sent"], status["total"], status["warnings"]) == (6, 6, [])
    listed = (EXAMPLE / "jobs" / "night-mailing" / "recipients.txt").read_text().split()
    assert sorted(relay.recipients) == sorted(listed)
    assert relay.violations == []
    assert len(agent.events("job.edited")) == 1


def test_demo_tells_the_whole_story_in_under_a_minute(tmp_path: Path) -> None:
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "spoold", "demo", "--keep", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert time.monotonic() - begun < 60
    assert (done.returncode, done.stderr) == (0, "")
    assert "did not end in time" not in done.stdout
    root = tmp_path / "demo"
    states = {}
    for name in JOBS:
        status = json.loads((root / "done" / name / "report" / "status.json").read_bytes())
        states[name] = status["state"]
        assert sum(status["counts"].values()) == status["total"]
        assert name in done.stdout
    assert states == {"newsletter": "finished", "invoices": "finished", "night-mailing": "cancelled"}
    newsletter = json.loads((root / "done" / "newsletter" / "report" / "status.json").read_bytes())["counts"]
    assert (newsletter["sent"], newsletter["failed"]) == (11, 1)
    invoices = json.loads((root / "done" / "invoices" / "report" / "status.json").read_bytes())["counts"]
    assert invoices["sent"] + invoices["failed"] == 5
    # Every recipient that is reported as sent stands in a message that the demo's server kept, and no other does.
    kept = [
        line.removeprefix("X-Envelope-To: ")
        for path in (root / "received").iterdir()
        for line in path.read_bytes().decode(errors="replace").splitlines()
        if line.startswith("X-Envelope-To: ")
    ]
    sent = []
    for name in JOBS:
        with (root / "done" / name / "report" / "recipients.csv").open(newline="") as file:
            sent += [row["address"] for row in csv.DictReader(file) if row["state"] == "sent"]
    assert sorted(kept) == sorted(sent)
