"""`spoold completion`: the scripts that complete spoold's commands, options and jobs in bash, zsh and fish.

The scripts come with the program, made of its own parser by shtab, which is needed only to make them. What an argument
takes (a file, a folder, a job …) is told by the name that the help gives it.
"""

import argparse
from typing import Any

from spoold.cli.command import UsageError, open_spool
from spoold.cli.config import ConfigError, find, place
from spoold.cli.init import data
from spoold.cli.parser import SHELLS, STATES
from spoold.core.manifest import Priority
from spoold.core.state import OnUncertain
from spoold.storage.spooldir import FOLDERS, SpoolError, valid_name

#: Arguments by their names in the help.
_KINDS = {
    **dict.fromkeys(("FILE", "MESSAGE", "RECIPIENTS"), "file"),
    **dict.fromkeys(("DIR", "SPOOL", "JOBDIR", "DEST"), "directory"),
    **dict.fromkeys(("JOB", "JOB|JOBDIR"), "job"),
}
#: The values of options that take one of a few.
_CHOICES = {"state": list(STATES), "priority": [*Priority], "on_uncertain": [*OnUncertain]}
_JOBS = "command spoold completion jobs 2>/dev/null"
#: shtab's own zsh would ask for the jobs when the script is loaded, not when they are needed.
_ZSH_JOBS = f'_spoold_jobs() {{ compadd -- ${{(f)"$({_JOBS})"}} }}'


def run(options: argparse.Namespace) -> int:
    """Print a shell's script; `jobs` are the jobs of the spool, which the scripts ask for."""
    if options.shell == "jobs":
        return _print_jobs(options)
    print(data("completion", SHELLS[options.shell]).read_text(), end="")
    return 0


def _print_jobs(options: argparse.Namespace) -> int:
    """One name a line. Nobody reads an error while a line is being completed: there are no names then."""
    try:
        spool = open_spool(place(find(options.config))[0])
    except (ConfigError, SpoolError, UsageError, OSError):
        return 1
    # The shell takes the names for words of its own language: only those that can be no more than a word may go there.
    names = {name for folder in FOLDERS for name in spool.jobs(folder) if valid_name(name)}
    print(*sorted(names), sep="\n")
    return 0


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """The script for `shell`, one of `SHELLS`, of all that `parser` knows."""
    import shtab

    job = {**shtab.cmd(_JOBS), "zsh": "_spoold_jobs"}
    kinds: dict[str, Any] = {"file": shtab.FILE, "directory": shtab.DIRECTORY, "job": job}
    for action in _actions(parser):
        if action.dest in _CHOICES:
            action.choices = _CHOICES[action.dest]
        elif isinstance(action.metavar, str) and action.metavar in _KINDS:
            action.complete = kinds[_KINDS[action.metavar]]  # type: ignore[attr-defined]
    # A preamble for each shell is what shtab documents, and not what it declares.
    preamble: Any = {"zsh": _ZSH_JOBS}
    text = shtab.complete(parser, shell, preamble=preamble)
    if shell == "zsh":
        text = text.replace('"(*):', '"*:')  # an argument that may be repeated; shtab's form completes the first only
    return "".join(line.rstrip() + "\n" for line in text.splitlines())


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of the commands, in the order of the help."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for each in (parser, *commands(parser).values()) for action in each._actions]
