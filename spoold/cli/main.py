"""The command line (CONTRACT §8): arguments in, exit code out. Errors are lines on standard error, never a traceback."""

import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import NoReturn

from spoold.cli.parser import parser
from spoold.core.problem import UserError, printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 1 wrong or failed, 2 wrong usage or configuration."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if (mail := _sendmail(arguments)) is not None:
        from spoold.cli.handover import sendmail

        return sendmail.run(*mail)
    options = parser().parse_args(arguments)
    try:
        module, _, function = options.run.rpartition(".")
        code: int = getattr(importlib.import_module(f"spoold.cli.{module}"), function)(options)
        sys.stdout.flush()
        return code
    except UserError as error:
        return _fail(str(error), error.exit_code)
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
