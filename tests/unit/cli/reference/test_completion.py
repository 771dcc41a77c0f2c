"""Completion in real shells: what is typed, with tabs, is what the program is called with."""

import os
import pty
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spoold.cli.main import main
from spoold.cli.parser import SHELLS, parser
from spoold.cli.reference import completion
from spoold.storage.spooldir import Spool
from tests import generated

ROOT = generated.ROOT
LIMIT = 30.0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder to type in: a spool with two jobs, a job folder, and a `spoold` that notes what it is called with."""
    Spool.create(tmp_path / "spool")
    (tmp_path / "spool/active/autumn-sale").mkdir()
    (tmp_path / "spool/done/winter-sale").mkdir()
    (tmp_path / "spool/new/$(touch broken)").mkdir()
    (tmp_path / "spoold.yaml").write_text("spool: spool\nrelays: {default: {host: localhost}}\n")
    (tmp_path / "jobfolder").mkdir()
    (tmp_path / "letter.eml").touch()
    program = tmp_path / "bin/spoold"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\n[ "$1" = completion ] && exec {sys.executable} -m spoold "$@"\n'
        'printf "%s\\n" "$@" >"$HOME/.called" && mv "$HOME/.called" "$HOME/called"\n'
    )
    program.chmod(0o755)
    return tmp_path


def typed(home: Path, shell: str, keys: str) -> list[str]:
    """The arguments that `spoold` is called with when `keys` are typed in an interactive shell."""
    command = shutil.which(shell)
    if command is None:
        assert os.environ.get("CI") != "true", f"{shell} is missing"
        pytest.skip(f"needs the Debian package {shell}")
    published = ROOT / "spoold/data/completion" / SHELLS[shell]
    arguments = [command]
    if shell == "bash":
        (home / ".bashrc").write_text(f"PS1='here> '; source {published}\n")
        arguments += ["--noprofile", "--rcfile", str(home / ".bashrc"), "-i"]
    elif shell == "zsh":
        (home / ".zshrc").write_text(
            f"PS1='here> '; fpath=({published.parent} $fpath); autoload -Uz compinit; compinit -u -d {home}/dump\n"
        )
        arguments.append("-i")
    else:
        (home / "fish/completions").mkdir(parents=True, exist_ok=True)
        shutil.copy(published, home / "fish/completions")
        (home / "fish/config.fish").write_text("function fish_prompt; echo -n 'here> '; end\n")
        arguments.append("-i")
    environ = {
        **{name: os.environ[name] for name in ("PYTHONPATH", "LANG") if name in os.environ},
        "HOME": str(home),
        "ZDOTDIR": str(home),
        "XDG_CONFIG_HOME": str(home),
        "XDG_DATA_HOME": str(home),
        "PATH": f"{home}/bin:{os.environ['PATH']}",
        "TERM": "dumb" if shell != "fish" else "xterm",
        "HISTFILE": "",
    }
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", *arguments], cwd=home, env=environ, stdin=follower, stdout=follower, stderr=follower
    )
    os.close(follower)
    os.set_blocking(leader, False)
    screen = b""
    try:
        sent, until = False, time.monotonic() + LIMIT
        while not (home / "called").exists():
            assert time.monotonic() < until, f"{shell} did not call it: {screen!r}"
            try:
                screen += os.read(leader, 65536)
            except BlockingIOError:
                time.sleep(0.02)
            except OSError:
                pytest.fail(f"{shell} ended: {screen!r}")
            if not sent and b"here> " in screen:
                os.write(leader, f"spoold {keys}\r".encode())
                sent = True
        return (home / "called").read_text().splitlines()
    finally:
        process.kill()
        process.wait()
        os.close(leader)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("keys", "arguments"),
    [
        ("val\tjobf\t", ["validate", "jobfolder"]),
        ("canc\taut\twin\t", ["cancel", "autumn-sale", "winter-sale"]),
        ("resend --sta\tunc\twin\t", ["resend", "--state", "uncertain", "winter-sale"]),
        ("pack let\t", ["pack", "letter.eml"]),
        ("completion fi\t", ["completion", "fish"]),
    ],
)
def test_commands_options_jobs_and_files_are_completed(home: Path, shell: str, keys: str, arguments: list[str]) -> None:
    if keys.startswith("completion"):
        program = home / "bin/spoold"
        program.write_text(program.read_text().replace('"$1" = completion', '"$2" = jobs'))
    assert [word.rstrip("/") for word in typed(home, shell, keys)] == arguments
    assert not (home / "broken").exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_the_published_script_is_what_the_command_prints_and_knows_every_command_and_option(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    published = (ROOT / "spoold/data/completion" / SHELLS[shell]).read_text()
    assert completion.script(shell, parser()) == published, "out of date: python -m tests.generated"
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == published
    for name, command in completion.commands(parser()).items():
        assert name in published
        for option in command._option_string_actions:
            assert option.lstrip("-") in published


def test_names_of_jobs_are_printed_and_what_is_no_name_is_not(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(home / "spoold.yaml"), "completion", "jobs"]) == 0
    assert capsys.readouterr().out == "autumn-sale\nwinter-sale\n"


def test_without_a_spool_there_are_no_names_and_no_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tmp_path / "none.yaml"), "completion", "jobs"]) == 1
    assert capsys.readouterr() == ("", "")
