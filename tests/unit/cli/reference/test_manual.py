"""The manual pages: current, clean, complete, and installed where man looks."""

import argparse
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from spoold.cli.parser import SHELLS, parser
from spoold.cli.reference import completion, schema
from tests import generated

ROOT = generated.ROOT
PAGES = sorted((ROOT / "spoold/data/man").iterdir())


def need(tool: str, package: str) -> str:
    path = shutil.which(tool)
    if path is None:
        assert os.environ.get("CI") != "true", f"{tool} is missing"
        pytest.skip(f"needs the Debian package {package}")
    return path


def shown(page: Path) -> str:
    """The page as a reader sees it, without line breaks."""
    command = [need("mandoc", "mandoc"), "-T", "utf8", "-O", "width=78", str(page)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return " ".join(re.sub(r".\x08", "", text).split())


@pytest.mark.parametrize(("path", "make"), [pytest.param(*item, id=item[0]) for item in generated.files()])
def test_published_files_are_current(path: str, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert (ROOT / path).read_text(encoding="utf-8") == make(), "out of date: python -m tests.generated"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_mandoc_and_groff_find_nothing_to_say_of_a_page(page: Path) -> None:
    lint = subprocess.run([need("mandoc", "mandoc"), "-T", "lint", page], check=False, capture_output=True, text=True)
    assert [line for line in lint.stdout.splitlines() if "STYLE" not in line] == []
    command = [need("groff", "groff-base"), "-man", "-Tutf8", "-Kutf8", "-ww", "-z", str(page)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stderr == ""


def test_spoold_1_has_every_command_with_every_option_and_its_help() -> None:
    text = shown(ROOT / "spoold/data/man/spoold.1")
    for name, command in completion.commands(parser()).items():
        assert f"spoold {name}" in text
        assert str(command.description) in text.replace("’", "'")
        for action in command._actions:
            if action.help != argparse.SUPPRESS and action.dest != "help":
                assert all(option in text for option in action.option_strings)
                assert " ".join((action.help or "").replace("`", "").split())[1:] in text.replace("’", "'").replace(
                    "...", "…"
                )


@pytest.mark.parametrize("name", sorted(schema.FORMS))
def test_the_page_of_a_document_has_every_key_with_its_text(name: str) -> None:
    text = shown(ROOT / f"spoold/data/man/{name}.5")

    def look(node: Any) -> int:
        if isinstance(node, list):
            return sum(map(look, node))
        if not isinstance(node, dict):
            return 0
        found = 0
        for key, item in node.get("properties", {}).items() if node.get("type") == "object" else ():
            if key not in ("address",) and "description" in item:
                found += f"{key}: {item['description'].replace('`', '').replace('…', '...')}" in text
        return found + sum(map(look, node.values()))

    assert look(schema.schema(name)) >= len(schema.schema(name)["properties"])
    for key in schema.schema(name)["properties"]:
        assert f" {key}: " in text


def test_everything_that_is_published_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    targets = project["tool"]["hatch"]["build"]["targets"]
    shared = targets["wheel"]["shared-data"]
    for page in PAGES:
        assert shared[f"spoold/data/man/{page.name}"] == f"share/man/man{page.name[-1]}/{page.name}"
    assert {shared[f"spoold/data/completion/{file}"] for file in SHELLS.values()} == {
        "share/bash-completion/completions/spoold",
        "share/zsh/site-functions/_spoold",
        "share/fish/vendor_completions.d/spoold.fish",
    }
