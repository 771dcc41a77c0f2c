"""What the command line says of what nobody foresaw."""

import asyncio

import pytest

from spoold.cli import main as command
from spoold.cli.status import status


async def _fail(text: str) -> None:
    raise RuntimeError(text)


async def _run_two() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_fail("one\nline"))
        group.create_task(_fail("two"))


def test_internal_error_of_several_tasks_names_each_and_where_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(status, "run", lambda options: asyncio.run(_run_two()))
    assert command.main(["status"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("spoold: internal error, a bug, please report it: ")
    assert r"RuntimeError: one\x0aline (test_main.py:" in line
    assert "RuntimeError: two (test_main.py:" in line
    assert line.endswith("in _fail)")
