"""A large manifest is parsed in a process of its own: it may take a second, of which nobody else is to wait for Python's lock."""

import os
import subprocess
import sys
import threading
from datetime import UTC, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import orjson

from spoold.core.compact import pack, unpack
from spoold.core.document.reader import DocumentError
from spoold.core.manifest import Manifest, parse_manifest
from spoold.core.problem import Problem

_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); import spoold.intake.parser as p; p.main()"
_NICE = 5
#: Seconds; sixty-four kilobytes take one or two.
_LONGEST = 60.0
_AT_ONCE = threading.BoundedSemaphore(2)


def parse_apart(source: bytes, zone: tzinfo) -> Manifest:
    """As `core.manifest.parse_manifest`. Raises DocumentError."""
    environ = {name: value for name, value in os.environ.items() if name != "SPOOLD_FAILPOINT"}
    command = [sys.executable, "-P", "-c", _PROGRAM, orjson.dumps(sys.path).decode(), str(zone)]
    with _AT_ONCE:
        try:
            done = subprocess.run(  # noqa: S603 - our own program
                command, input=source, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ, check=True,
                start_new_session=True, timeout=_LONGEST,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            return parse_manifest(source, zone=zone)  # no process is to be had
    kind, data = done.stdout[:1], done.stdout[1:]
    if kind == b"M":
        return unpack(data)
    problems, incomplete = orjson.loads(data)
    raise DocumentError(tuple(Problem(*problem) for problem in problems), incomplete=incomplete)


def main() -> None:
    """The process: the manifest comes by standard input, the zone by `sys.argv`."""
    os.nice(_NICE)
    try:
        zone: tzinfo = ZoneInfo(sys.argv[2])
    except (ValueError, ZoneInfoNotFoundError):
        zone = UTC
    try:
        answer = b"M" + pack(parse_manifest(sys.stdin.buffer.read(), zone=zone))
    except DocumentError as error:
        problems = [(problem.where, problem.text) for problem in error.problems]
        answer = b"P" + orjson.dumps((problems, error.incomplete))
    sys.stdout.buffer.write(answer)
