"""All commands and their options, without the commands: each is imported when it is asked for, for nobody should wait
for what another one needs.
"""

import argparse

from spoold import __version__
from spoold.core.state import RecipientState

_DESCRIPTION = "A file-drop mail agent: jobs are folders, reports are files, nothing is sent twice and nothing is lost."
#: Whom `resend` can send to again.
STATES = {state.label: state for state in RecipientState if state.final or state is RecipientState.UNCERTAIN}
#: What each shell calls the file that it loads by itself.
SHELLS = {"bash": "spoold", "zsh": "_spoold", "fish": "spoold.fish"}
#: Options of `pack` that are keys of job.yaml, as `option: key`; those that may be given several times are lists there.
PACK_TEXTS = ("description", "relay", "send-after", "expires", "timezone", "rate", "priority", "on-uncertain")
PACK_FLAGS = ("strict", "allow-duplicate")


def parser() -> argparse.ArgumentParser:
    """`run` of what it parses is the command's module in `spoold.cli` and the function there that runs it."""
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
    sub.set_defaults(run="demo.run")

    sub = add("init", "Make a spool: its folders and a commented spoold.yaml.")
    sub.add_argument("spool", metavar="SPOOL", help="the folder to make it in")
    sub.set_defaults(run="init.run")

    sub = add("run", "Run the agent.")
    sub.add_argument("--drain", action="store_true", help="exit when nothing is left that could be sent now")
    sub.set_defaults(run="run.run")

    sub = add("check", "Check configuration, spool, machine and relays; compare and repair what the agent wrote.")
    sub.add_argument("--send-to", metavar="ADDR", help="send a test message there, through each relay")
    sub.add_argument("--deep", action="store_true", help="compare the database with folders, messages and reports")
    sub.add_argument(
        "--repair", action="store_true", help="with --deep: put folders and reports right; stop the agent first"
    )
    sub.add_argument("--json", action="store_true", help="one JSON document")
    sub.set_defaults(run="check.check.run")

    sub = add("validate", "Say what intake would say about a job folder.")
    sub.add_argument("jobdir", metavar="JOBDIR", help="a job's folder")
    sub.set_defaults(run="handover.validate.run")

    sub = add("seal", "Write SHA256SUMS into a job folder, so that it is taken the moment it is complete.")
    sub.add_argument("jobdir", metavar="JOBDIR", help="a job's folder")
    sub.set_defaults(run="handover.seal.run")

    sub = add("pack", "Make a job folder of a message and a list of recipients.")
    _add_pack(sub)
    sub.set_defaults(run="handover.pack.run")

    sub = add("submit", "Look through a job folder and hand it over to a spool, sealed and in one step.")
    sub.add_argument("jobdir", metavar="JOBDIR", help="a job's folder")
    sub.add_argument(
        "dest", metavar="DEST", nargs="?", help="a spool, or host:spool by rsync and ssh; else the configured one"
    )
    sub.add_argument("--name", metavar="NAME", help="the job's name, if it is not to be the folder's")
    sub.add_argument("--wait", action="store_true", help="wait for the job's end; exit 0 if everybody was sent to")
    sub.set_defaults(run="handover.submit.run")

    # For the help; what follows it is not read here.
    add("sendmail", "Take a message from standard input, with sendmail's options and exit codes.")

    sub = add("status", "Show the agent and its jobs, or one job.")
    sub.add_argument("job", metavar="JOB", nargs="?", help="a job's name, or its folder")
    sub.add_argument("--json", action="store_true", help="one JSON document")
    sub.add_argument("--watch", action="store_true", help="show it again every second until Ctrl-C")
    sub.set_defaults(run="status.status.run")

    sub = add("plan", "Show when a job would start, pause and end under its windows and rates.")
    sub.add_argument("job", metavar="JOB|JOBDIR", help="a job in the spool, or a folder that is not there yet")
    sub.add_argument("--json", action="store_true", help="one JSON document")
    sub.set_defaults(run="plan.run")

    sub = add("resend", "Make a new job for recipients of one that is done, with the same messages.")
    sub.add_argument("job", metavar="JOB", help="the name of a job that is done")
    sub.add_argument("--state", metavar="STATE[,STATE…]", required=True, help=", ".join(STATES))
    sub.add_argument("--name", metavar="NAME", help="the new job's name; else JOB-resend")
    sub.add_argument("--allow-duplicate", action="store_true", help="even if the very same was resent before")
    sub.set_defaults(run="handover.resend.run")

    sub = add("dsn", "Write RFC 3464 delivery-status files for a job's failed, expired and delayed recipients.")
    sub.add_argument("job", metavar="JOB")
    sub.set_defaults(run="dsn.run")

    sub = add("purge", "Remove jobs that have been done for long, with their reports.")
    sub.add_argument("--older-than", metavar="DURATION", required=True, help="such as 30d")
    sub.add_argument("--dry-run", action="store_true", help="only say which")
    sub.add_argument("--yes", action="store_true", help="do not ask")
    sub.add_argument("--json", action="store_true", help="one JSON document")
    sub.set_defaults(run="purge.run")

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
        sub.set_defaults(run="control.run")

    sub = add("completion", "Print the script that completes spoold's command line in a shell.")
    sub.add_argument(
        "shell", choices=[*SHELLS, "jobs"], help="the shell; `jobs` prints the names that the scripts ask for"
    )
    sub.set_defaults(run="reference.completion.run")
    return top


def _add_pack(parser: argparse.ArgumentParser) -> None:
    """The manifest's keys as options."""
    parser.add_argument("message", metavar="MESSAGE", help="a message file")
    parser.add_argument(
        "recipients", metavar="RECIPIENTS", help="a .csv file with a column `address`, or one address a line"
    )
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="the folder to make; else the message's name without .eml"
    )
    parser.add_argument("--sender", metavar="ADDR", help="the envelope sender; else the message's From")
    for option in PACK_TEXTS:
        parser.add_argument(f"--{option}", metavar="VALUE", help=f"{option.replace('-', '_')} of job.yaml")
    for option in PACK_FLAGS:
        parser.add_argument(f"--{option}", action="store_true", help=f"{option.replace('-', '_')}: true in job.yaml")
    parser.add_argument(
        "--window", metavar="WINDOW", action="append", help="one of `windows` of job.yaml; may be repeated"
    )
    parser.add_argument(
        "--domain-rate", metavar="DOMAIN=RATE", action="append", help="one of `domain_rates`; may be repeated"
    )
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", help="any key of job.yaml, with a value in YAML")
