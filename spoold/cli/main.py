"""The command line (CONTRACT §8), under the name `spoold` or, as a link, `sendmail`."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from spoold.cli.invocation import invoke

_STDOUT = 1
_STDERR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if (mail := _sendmail(arguments)) is not None:
        from spoold.cli.handover import sendmail

        return sendmail.run(*mail)
    return invoke(arguments)


def _sendmail(arguments: list[str]) -> tuple[list[str], str | None] | None:
    """The arguments of `[--config FILE] sendmail …`, and FILE: sendmail's options are read by its own rules."""
    config_file = None
    if arguments[:1] == ["--config"]:
        config_file, arguments = arguments[1] if len(arguments) > 1 else None, arguments[2:]
    elif arguments[:1] and arguments[0].startswith("--config="):
        config_file, arguments = arguments[0].partition("=")[2], arguments[1:]
    return (arguments[1:], config_file) if arguments[:1] == ["sendmail"] else None


def entry() -> NoReturn:
    """The program. Output that was closed (`>&-`) is output that nobody wants to see, not an error."""
    # A file that got one of these three numbers would be written to by whoever means the output.
    while (fd := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(fd)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - it stays open as long as the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - as above
    name = os.path.basename(sys.argv[0])
    code: object = 1
    try:
        code = main(["sendmail", *sys.argv[1:]] if name == "sendmail" else None)
    except SystemExit as error:  # argparse's
        code = error.code
    sys.exit(1 if not _flushed() and not code else code)


def _flushed() -> bool:
    """Whether all that was printed is written; what is not is forgotten here, for Python would try again and exit with 120."""
    flushed = True
    for stream, fd in ((sys.stdout, _STDOUT), (sys.stderr, _STDERR)):
        try:
            stream.flush()
        except (OSError, ValueError):
            flushed = flushed and fd != _STDOUT
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, fd)
            os.close(null)
    return flushed
