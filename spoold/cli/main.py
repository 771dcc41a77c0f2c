"""The command line (CONTRACT §8): arguments in, exit code out. Errors are lines on standard error, never a traceback."""

import argparse
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import NoReturn

from spoold import __version__
from spoold.cli import (
    check,
    completion,
    config,
    control,
    demo,
    dsn,
    init,
    job,
    pack,
    plan,
    purge,
    resend,
    run,
    status,
    submit,
)
from spoold.cli.command import UsageError
from spoold.core.document import DocumentError
from spoold.core.problem import printable
from spoold.job import JobError
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
    sub.add_argument("spool", metavar="SPOOL", help="the folder to make it in")
    sub.set_defaults(run=init.run)

    sub = add("run", "Run the agent.")
    sub.add_argument("--drain", action="store_true", help="exit when nothing is left that could be sent now")
    sub.set_defaults(run=run.run)

    sub = add("check", "Check configuration, spool, machine and relays; compare and repair what the agent wrote.")
    check.add_options(sub)
    sub.set_defaults(run=check.run)

    sub = add("validate", "Say what intake would say about a job folder.")
    sub.add_argument("jobdir", metavar="JOBDIR", help="a job's folder")
    sub.set_defaults(run=job.validate)

    sub = add("seal", "Write SHA256SUMS into a job folder, so that it is taken the moment it is complete.")
    sub.add_argument("jobdir", metavar="JOBDIR", help="a job's folder")
    sub.set_defaults(run=job.seal)

    sub = add("pack", "Make a job folder of a message and a list of recipients.")
    pack.add_options(sub)
    sub.set_defaults(run=pack.run)

    sub = add("submit", "Look through a job folder and hand it over to a spool, sealed and in one step.")
    sub.add_argument("jobdir", metavar="JOBDIR", help="a job's folder")
    sub.add_argument(
        "dest", metavar="DEST", nargs="?", help="a spool, or host:spool by rsync and ssh; else the configured one"
    )
    sub.add_argument("--name", metavar="NAME", help="the job's name, if it is not to be the folder's")
    sub.add_argument("--wait", action="store_true", help="wait for the job's end; exit 0 if everybody was sent to")
    sub.set_defaults(run=submit.run)

    # For the help; what follows it is not read here.
    add("sendmail", "Take a message from standard input, with sendmail's options and exit codes.")

    sub = add("status", "Show the agent and its jobs, or one job.")
    sub.add_argument("job", metavar="JOB", nargs="?", help="a job's name, or its folder")
    sub.add_argument("--json", action="store_true", help="one JSON document")
    sub.add_argument("--watch", action="store_true", help="show it again every second until Ctrl-C")
    sub.set_defaults(run=status.run)

    sub = add("plan", "Show when a job would start, pause and end under its windows and rates.")
    sub.add_argument("job", metavar="JOB|JOBDIR", help="a job in the spool, or a folder that is not there yet")
    sub.add_argument("--json", action="store_true", help="one JSON document")
    sub.set_defaults(run=plan.run)

    sub = add("resend", "Make a new job for recipients of one that is done, with the same messages.")
    sub.add_argument("job", metavar="JOB", help="the name of a job that is done")
    sub.add_argument("--state", metavar="STATE[,STATE…]", required=True, help=", ".join(resend.STATES))
    sub.add_argument("--name", metavar="NAME", help="the new job's name; else JOB-resend")
    sub.add_argument("--allow-duplicate", action="store_true", help="even if the very same was resent before")
    sub.set_defaults(run=resend.run)

    sub = add("dsn", "Write RFC 3464 delivery-status files for a job's failed, expired and delayed recipients.")
    sub.add_argument("job", metavar="JOB")
    sub.set_defaults(run=dsn.run)

    sub = add("purge", "Remove jobs that have been done for long, with their reports.")
    sub.add_argument("--older-than", metavar="DURATION", required=True, help="such as 30d")
    sub.add_argument("--dry-run", action="store_true", help="only say which")
    sub.add_argument("--yes", action="store_true", help="do not ask")
    sub.add_argument("--json", action="store_true", help="one JSON document")
    sub.set_defaults(run=purge.run)

    for name, text in (
        ("cancel", "Stop jobs: no new message leaves, what is unsent stays unsent."),
        ("hold", "Pause jobs."),
        ("release", "Let held jobs go on."),
        ("retry", "Try deferred recipients of jobs now."),
    ):
        sub = add(name, text)
        sub.add_argument("jobs", metavar="JOB", nargs="+", help="a job's name, or its folder")
        if name == "retry":
            sub.add_argument("--uncertain", action="store_true", help="also those that may have been sent already")
        sub.set_defaults(run=control.run)

    sub = add("completion", "Print the script that completes spoold's command line in a shell.")
    sub.add_argument(
        "shell", choices=[*completion.FILES, "jobs"], help="the shell; `jobs` prints the names that the scripts ask for"
    )
    sub.set_defaults(run=completion.run)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 1 wrong or failed, 2 wrong usage or configuration."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if (mail := _sendmail(arguments)) is not None:
        from spoold.cli import sendmail

        return sendmail.run(*mail)
    options = parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except (UsageError, config.ConfigError) as error:
        return _fail(str(error), 2)
    except (SpoolError, DatabaseError, DocumentError, JobError) as error:
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
        return _fail(f"internal error, a bug, please report it: {'; '.join(_causes(error))}", 1)


def _causes(error: BaseException) -> Iterator[str]:
    """What went wrong and where, in one line each: a report of a bug must be of use without a traceback."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _causes(each)
        return
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno} in {frames[-1].name})" if frames else ""
    yield printable(f"{type(error).__name__}: {error}{where}", 500)


def _sendmail(arguments: list[str]) -> tuple[list[str], str | None] | None:
    """The arguments of `[--config FILE] sendmail …`, and FILE: sendmail's options are read by its own rules."""
    config_file = None
    if arguments[:1] == ["--config"]:
        config_file, arguments = arguments[1] if len(arguments) > 1 else None, arguments[2:]
    elif arguments[:1] and arguments[0].startswith("--config="):
        config_file, arguments = arguments[0].partition("=")[2], arguments[1:]
    return (arguments[1:], config_file) if arguments[:1] == ["sendmail"] else None


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
    if os.path.basename(sys.argv[0]) == "sendmail":
        sys.exit(main(["sendmail", *sys.argv[1:]]))
    sys.exit(main())
