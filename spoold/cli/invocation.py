"""One command, run: arguments in, exit code out. Errors are lines on standard error, never a traceback."""

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence

from spoold.agent import signalling
from spoold.cli.parser import parser
from spoold.core.problem import UserError, printable

_AGENT = "run.run"


def invoke(arguments: Sequence[str]) -> int:
    """Run the command that the arguments name; returns its exit code: 0 done, 1 wrong or failed, 2 wrong usage or configuration."""
    options = parser().parse_args(arguments)
    if options.run == _AGENT:
        signalling.hold()
    try:
        module, _, function = options.run.rpartition(".")
        code: int = getattr(importlib.import_module(f"spoold.cli.{module}"), function)(options)
        sys.stdout.flush()
        return code
    except UserError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:
        return 1  # whoever reads has seen enough
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


def _fail(text: str, code: int) -> int:
    with contextlib.suppress(OSError, ValueError):  # nobody can be told
        for line in text.splitlines():
            print(f"spoold: {line}", file=sys.stderr)
    return code
