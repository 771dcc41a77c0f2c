"""The command line (CONTRACT §8): arguments in, exit code out. Errors are lines on standard error, never a traceback."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from spoold import __version__
from spoold.cli import check, config, control, demo, init, job, plan, run, status
from spoold.cli.command import UsageError
from spoold.core.document import DocumentError
from spoold.storage.database import DatabaseError
from spoold.storage.spooldir import SpoolError

_DESCRIPTION = "A file-drop mail agent: jobs are folders, reports are files, nothing is sent twice and nothing is lost."


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(prog="spoold", description=_DESCRIPTION)
    top.add_argument("--version", action="version", version=f"spoold {__version__}")
    top.add_argument(
        "--config",
        metavar="FILE",
        help="the configuration; else $SPOOLD_CONFIG, ./spoold.yaml, /etc/spoold/spoold.yaml",
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        return sub

    sub = add("demo", "The whole life of a job in under a minute, in a throw-away spool; nothing leaves the machine.")
    sub.add_argument("--keep", metavar="DIR", help="make the spool in DIR and leave it there")
    sub.set_defaults(run=demo.run)

    sub = add("init", "Make a spool: its folders and a commented spoold.yaml.")
    sub.add_argument("spool", metavar="SPOOL")
    sub.set_defaults(run=init.run)

    sub = add("run", "Run the agent.")
    sub.add_argument("--drain", action="store_true", help="exit when nothing is left that could be sent now")
    sub.set_defaults(run=run.run)

    sub = add("check", "Check configuration, spool, machine and relays; compare and repair what the agent wrote.")
    check.add_options(sub)
    sub.set_defaults(run=check.run)

    sub = add("validate", "Say what intake would say about a job folder.")
    sub.add_argument("jobdir", metavar="JOBDIR")
    sub.set_defaults(run=job.validate)

    sub = add("seal", "Write SHA256SUMS into a job folder, so that it is taken the moment it is complete.")
    sub.add_argument("jobdir", metavar="JOBDIR")
    sub.set_defaults(run=job.seal)

    sub = add("status", "Show the agent and its jobs, or one job.")
    sub.add_argument("job", metavar="JOB", nargs="?")
    sub.add_argument("--json", action="store_true", help="one JSON document")
    sub.add_argument("--watch", action="store_true", help="show it again every second until Ctrl-C")
    sub.set_defaults(run=status.run)

    sub = add("plan", "Show when a job would start, pause and end under its windows and rates.")
    sub.add_argument("job", metavar="JOB|JOBDIR")
    sub.add_argument("--json", action="store_true", help="one JSON document")
    sub.set_defaults(run=plan.run)

    for name, text in (
        ("cancel", "Stop jobs: no new message leaves, what is unsent stays unsent."),
        ("hold", "Pause jobs."),
        ("release", "Let held jobs go on."),
        ("retry", "Try deferred recipients of jobs now."),
    ):
        sub = add(name, text)
        sub.add_argument("jobs", metavar="JOB", nargs="+")
        if name == "retry":
            sub.add_argument("--uncertain", action="store_true", help="also those that may have been sent already")
        sub.set_defaults(run=control.run)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 1 wrong or failed, 2 wrong usage or configuration."""
    options = parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except (UsageError, config.ConfigError) as error:
        return _fail(str(error), 2)
    except (SpoolError, DatabaseError, DocumentError) as error:
        return _fail(str(error), 1)
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 1)
    except Exception as error:  # noqa: BLE001 - no traceback reaches a user
        return _fail(f"internal error, a bug, please report it: {type(error).__name__}: {error}", 1)


def _fail(text: str, code: int) -> int:
    for line in text.splitlines():
        print(f"spoold: {line}", file=sys.stderr)
    return code


def entry() -> NoReturn:
    """The program. Output that was closed (`>&-`) is output that nobody wants to see, not an error."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - it stays open as long as the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - as above
    sys.exit(main())
