"""The closed list of events against the source, so that neither has one that the other lacks."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

import spoold
from spoold.event import EVENTS, log

SOURCE = Path(spoold.__file__).parent
LEVELS = {"debug", "info", "warning", "error", "critical"}


def logged() -> Iterator[tuple[str, str, set[str]]]:
    """(place, event, fields) of each call of `log` in the source."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "log":
                place = f"{path.relative_to(SOURCE)}:{node.lineno}"
                assert node.args, place
                [name] = node.args
                assert isinstance(name, ast.Constant), f"{place}: an event's name stands where it is logged"
                assert isinstance(name.value, str)
                yield place, name.value, {keyword.arg for keyword in node.keywords if keyword.arg is not None}


def test_every_event_that_is_logged_is_in_the_list() -> None:
    assert [(place, event) for place, event, _ in logged() if event not in EVENTS] == []


def test_every_event_in_the_list_is_logged_somewhere() -> None:
    assert EVENTS.keys() - {event for _, event, _ in logged()} == set()


def test_nothing_is_logged_past_the_list() -> None:
    for path in SOURCE.rglob("*.py"):
        if path != SOURCE / "event.py":
            text = path.read_text()
            assert "get_logger" not in text, path
            assert "traceback.print" not in text, path


def test_every_event_has_a_level_and_a_line_of_explanation() -> None:
    for name, (level, text) in EVENTS.items():
        area, _, what = name.partition(".")
        assert area.isidentifier(), name
        assert what.isidentifier(), name
        assert level in LEVELS
        assert text == text.strip()
        assert "\n" not in text


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_event_has_the_level_of_the_list(name: str) -> None:
    with structlog.testing.capture_logs() as captured:
        log(name, number=1)
    assert [(event["event"], event["log_level"], event["number"]) for event in captured] == [(name, EVENTS[name][0], 1)]


def test_unknown_event_is_refused() -> None:
    with pytest.raises(KeyError):
        log("agent.surprised")


def test_the_agent_does_without_rich_and_whoever_wants_it_still_has_it() -> None:
    program = "import sys, spoold.event; assert 'rich' not in sys.modules; import rich.table; print(rich.__name__)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout == "rich\n"
