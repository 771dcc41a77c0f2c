"""`spoold pack`: what it makes is what intake takes."""

import re
import subprocess
from pathlib import Path

import pytest

from spoold.core.manifest import parse_manifest
from tests.servers.agent import MESSAGE, Agent
from tests.servers.relay import Relay


def pack(agent: Agent, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    done = agent.command("pack", *map(str, arguments))
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "sale.eml").write_bytes(MESSAGE)
    (tmp_path / "list.csv").write_bytes(b"address,name\nada@one.example,Ada\nbob@two.example,Bob")
    return tmp_path / "sale.eml", tmp_path / "list.csv"


def test_packed_job_is_submitted_and_sent(agent: Agent, relay: Relay, tmp_path: Path, files: tuple[Path, Path]) -> None:
    done = pack(agent, *files, "-o", tmp_path / "job")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"{tmp_path}/job: packed: 2 recipient(s), 1 message(s)\nNext: spoold submit {tmp_path}/job\n"
    )
    assert (tmp_path / "job" / "job.yaml").read_text() == "sender: news@example.com\nexpect: {recipients: 2}\n"
    assert (tmp_path / "job" / "recipients.csv").read_bytes().endswith(b"bob@two.example,Bob\n")
    agent.start()
    assert agent.command("submit", str(tmp_path / "job"), "--wait").returncode == 0
    assert sorted(relay.recipients) == ["ada@one.example", "bob@two.example"]


def test_every_option_is_a_key_of_the_manifest(agent: Agent, tmp_path: Path, files: tuple[Path, Path]) -> None:
    (tmp_path / "list").write_bytes(b"ada@one.example\nbob@two.example\n")
    done = pack(
        agent, files[0], tmp_path / "list", "-o", tmp_path / "job", "--sender", "", "--description", 'Sale: "50 %" – now\t!',
        "--relay", "second", "--send-after", "2030-12-01T09:00:00+01:00", "--expires", "2031-12-01T09:00:00+01:00",
        "--timezone", "Europe/Vienna",
        "--rate", "1200/h", "--priority", "low", "--on-uncertain", "hold", "--strict", "--allow-duplicate",
        "--window", "Mon-Fri 18:00-08:00", "--window", "Sat,Sun 00:00-24:00", "--domain-rate", "gmail.com=60/m",
        "--set", "retry={every: 2h, for: 3d}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "job" / "recipients.txt").exists()
    manifest = parse_manifest((tmp_path / "job" / "job.yaml").read_bytes())
    assert (manifest.sender, manifest.description, manifest.relay) == ("", 'Sale: "50 %" – now\t!', "second")
    assert (manifest.strict, manifest.allow_duplicate, manifest.on_uncertain) == (True, True, "hold")
    assert manifest.expect.recipients == 2
    timing = manifest.timing
    assert (str(timing.expires), timing.timezone, timing.priority) == (
        "2031-12-01 09:00:00+01:00",
        "Europe/Vienna",
        "low",
    )
    assert list(timing.domain_rates) == ["gmail.com"]
    assert timing.retry is not None
    assert timing.retry.lifetime == 3 * 86400


def test_what_is_wrong_is_told_and_nothing_is_left(agent: Agent, tmp_path: Path, files: tuple[Path, Path]) -> None:
    wrong = {
        ("--rate", "often"): "job.yaml:2:7: ",
        ("--set", "nonsense"): "--set nonsense: expected KEY=VALUE",
        ("--set", "a=[1"): "--set a:1:",
        ("--sender", "nobody"): "job.yaml:1:9: 'nobody' is not an address",
    }
    before = sorted(path.name for path in tmp_path.iterdir())
    for arguments, text in wrong.items():
        done = pack(agent, *files, "-o", tmp_path / "job", *arguments)
        assert done.returncode in (1, 2)
        assert text in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    (tmp_path / "job").mkdir()
    done = pack(agent, *files, "-o", tmp_path / "job")
    assert (done.returncode, "is there already" in done.stderr) == (2, True)
    missing = pack(agent, tmp_path / "none.eml", files[1], "-o", tmp_path / "other")
    assert missing.returncode == 1
    assert re.fullmatch(r"spoold: .*none\.eml: No such file or directory\n", missing.stderr)


def test_folder_with_problems_is_kept_and_told(agent: Agent, tmp_path: Path, files: tuple[Path, Path]) -> None:
    files[1].write_bytes(b"address\nada@one.example\nnobody\n")
    done = pack(agent, *files, "-o", tmp_path / "job")
    assert done.returncode == 1
    assert done.stderr.startswith("recipients.csv:3: 'nobody' is not an address")
    assert (tmp_path / "job" / "job.yaml").exists()
