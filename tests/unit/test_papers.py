"""The papers say what is so: tables are the lists in the code, links lead somewhere, and the README is for users."""

import re
from pathlib import Path

import pytest

from spoold.event import EVENTS
from spoold.failpoint import NAMES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
ADMINISTRATORS = (ROOT / "systemd/README.md").read_text()
PAPERS = ("README.md", "spoold/README.md", "systemd/README.md", "tests/README.md")


def test_table_of_log_events_is_the_list_in_the_code() -> None:
    rows = re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| (\w+) \| (.*) \|$", ADMINISTRATORS, re.MULTILINE)
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


def test_the_readme_is_no_longer_than_a_user_reads() -> None:
    assert len(README.splitlines()) <= 300


@pytest.mark.parametrize("name", PAPERS)
def test_every_link_leads_to_a_file_and_every_anchor_to_a_heading(name: str) -> None:
    paper = ROOT / name
    text = re.sub(r"```.*?```", "", paper.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)|(?:srcset|src)=\"([^\"]+)\"", text):
        path, _, anchor = "".join(target).partition("#")
        found = (paper.parent / path).resolve() if path else paper
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("name", "below"), [("spoold/README.md", "spoold"), ("tests/README.md", "tests")])
def test_every_module_that_a_paper_names_is_there(name: str, below: str) -> None:
    paths = set(re.findall(r"`(?:tests/|spoold/)?([a-z_0-9/]+\.py)`", (ROOT / name).read_text()))
    assert paths
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / below).rglob("*.py")}
    assert {path for path in paths if not any(module.endswith("/" + path) for module in modules)} == set()


def test_every_cell_of_the_fault_matrix_names_a_test_file() -> None:
    text = (ROOT / "tests/README.md").read_text().partition("## The fault matrix")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ")[1:] for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    named = {
        word for row in rows for cell in row for word in re.findall(r"\b[a-z]+(?:_[a-z]+)*\b", cell.partition(":")[0])
    }
    there = {
        path.stem.removeprefix("test_")
        for room in ("integration", "acceptance")
        for path in (ROOT / "tests" / room).glob("test_*.py")
    }
    assert named - there <= {"at", "the", "start", "a", "back", "up", "is", "restored", "by", "hand", "says"}
