"""The README says what is so."""

import re
from pathlib import Path

import pytest

from spoold.event import EVENTS
from spoold.failpoint import NAMES

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()


def test_table_of_log_events_is_the_list_in_the_code() -> None:
    rows = re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| (\w+) \| (.*) \|$", README, re.MULTILINE)
    assert {name: (level, meaning) for name, level, meaning in rows} == EVENTS


def test_every_event_is_logged_somewhere_and_nothing_else_is() -> None:
    used = set()
    for path in (ROOT / "spoold").rglob("*.py"):
        used |= set(re.findall(r"\blog\(\s*\"([a-z_.]+)\"", path.read_text()))
    assert used == set(EVENTS)


def test_every_failpoint_is_passed_somewhere() -> None:
    used = set()
    for path in (ROOT / "spoold").rglob("*.py"):
        used |= set(re.findall(r"\bfailpoint\(\"([a-z0-9-]+)\"\)", path.read_text()))
    assert used == set(NAMES)


@pytest.mark.parametrize("marker", ["spoold demo", "pytest"])
def test_both_commands_are_single_lines(marker: str) -> None:
    lines = [line for line in README.splitlines() if line.startswith("python3 -m venv .venv &&")]
    assert sum(marker in line for line in lines) == 1
