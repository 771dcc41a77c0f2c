"""The house: every room says what it is for, and no module is more than one can read in a sitting."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = sorted((ROOT / "spoold").rglob("__init__.py"))
LIMIT = 350


@pytest.mark.parametrize("room", ROOMS[1:], ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_room_says_what_it_owns_what_comes_in_and_what_goes_out(room: Path) -> None:
    lines = room.read_text().splitlines()
    assert lines[0].startswith('"""')
    for word in ("Owns: ", "Comes in: ", "Goes out: "):
        [line] = [line for line in lines if line.startswith(word)]
        assert line.endswith("."), line


def test_every_folder_with_modules_is_a_room() -> None:
    folders = {path.parent for path in (ROOT / "spoold").rglob("*.py")}
    assert folders == {path.parent for path in ROOMS}


@pytest.mark.parametrize("tree", ["spoold", "tests"])
def test_no_module_passes_the_limit(tree: str) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / tree).rglob("*.py")}
    assert {str(path.relative_to(ROOT)): lines for path, lines in lengths.items() if lines > LIMIT} == {}
