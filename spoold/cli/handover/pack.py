"""`spoold pack`: a job folder made of a message and a list of recipients."""

import argparse
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from spoold.cli.command import UsageError
from spoold.cli.handover.validate import inspect
from spoold.cli.parser import PACK_FLAGS, PACK_TEXTS
from spoold.core.document.composer import Value
from spoold.core.document.reader import DocumentError
from spoold.core.document.reader import load as read_document
from spoold.core.document.writer import manifest_text
from spoold.core.folder import DEFAULT_RECIPIENTS, MANIFEST
from spoold.core.manifest import DEFAULT_MESSAGE, parse_manifest
from spoold.core.message.header import addresses, header_fields
from spoold.core.message.wire import HEADER_LIMIT
from spoold.core.problem import printable
from spoold.core.recipient.list import RecipientsError, read_csv, read_txt
from spoold.storage.draft import Draft, NameTakenError
from spoold.storage.files import CHUNK, Files
from spoold.storage.spooldir import clean_name


def run(options: argparse.Namespace) -> int:
    """Make the folder, then say of it what `validate` says; 1 if there was a problem."""
    output = options.output or clean_name(re.sub(r"\.eml$", "", Path(options.message).name, flags=re.IGNORECASE))
    path = Path(os.path.abspath(output))
    if path.exists():
        raise UsageError(f"{printable(output)}: is there already; expected the name of a folder to make")
    kind = 1 if _is_list(options.recipients) else 0
    with open(options.message, "rb") as message, open(options.recipients, "rb") as recipients:
        values = _manifest(options, message, recipients, kind)
        source = manifest_text(values).encode()
        parse_manifest(source)
        files = Files()
        with (
            files.closing(files.open_directory(None, os.path.realpath(path.parent))) as parent,
            Draft(files, parent, path.name) as draft,
        ):
            draft.add((DEFAULT_MESSAGE,), _chunks(message))
            draft.add((DEFAULT_RECIPIENTS[kind],), _whole_lines(recipients))
            draft.add((MANIFEST,), [source])
            try:
                draft.publish(parent, path.name)
            except NameTakenError:
                raise UsageError(f"{printable(output)}: was made meanwhile; expected a folder to make") from None
    found = inspect(options, str(path), path.name)
    for problem in (*found.problems, *found.failures):
        print(problem, file=sys.stderr)
    print(f"{printable(output)}: packed{', and would not be sent' if found.problems else ''}: {found.summary}")
    if not (found.problems or found.failures):
        print(f"Next: spoold submit {printable(output)}")
    return int(bool(found.problems or found.failures))


def _is_list(path: str) -> bool:
    """Whether the file has one address a line, rather than columns: by its name, else by its first line."""
    if path.lower().endswith((".csv", ".txt")):
        return path.lower().endswith(".txt")
    with open(path, "rb") as file:
        first = file.readline(HEADER_LIMIT).decode(errors="replace")
    return "address" not in [name.strip().strip('"').casefold() for name in first.split(",")]


def _manifest(options: argparse.Namespace, message: BinaryIO, recipients: BinaryIO, kind: int) -> dict[str, object]:
    values: dict[str, object] = {"sender": options.sender if options.sender is not None else _sender(message, options)}
    for option in PACK_TEXTS:
        if (value := getattr(options, option.replace("-", "_"))) is not None:
            values[option.replace("-", "_")] = value
    values |= {option.replace("-", "_"): True for option in PACK_FLAGS if getattr(options, option.replace("-", "_"))}
    if options.window:
        values["windows"] = options.window
    if options.domain_rate:
        values["domain_rates"] = dict(_pair("--domain-rate", text) for text in options.domain_rate)
    for text in options.set or ():
        key, value = _pair("--set", text)
        values[key] = _yaml(key, value)
    if (count := _count(recipients, kind)) is not None:
        # A copy that is cut cannot look whole then.
        values.setdefault("expect", {"recipients": count})
    return values


def _sender(message: BinaryIO, options: argparse.Namespace) -> str:
    head = message.read(HEADER_LIMIT)
    message.seek(0)
    for field in header_fields(head):
        if field.name == "from" and (listed := addresses(field.value)):
            return listed[0]
    raise UsageError(f"{printable(options.message)}: it has no From to take the sender from; expected --sender ADDR")


def _pair(option: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(
            f"{option} {printable(text)}: expected {'DOMAIN=RATE' if option == '--domain-rate' else 'KEY=VALUE'}"
        )
    return key.strip(), value.strip()


def _yaml(key: str, text: str) -> Value:
    try:
        return read_document(f"{key}: {text}".encode(), f"--set {key}").value.get(key)
    except DocumentError as error:
        raise UsageError(str(error)) from None


def _count(recipients: BinaryIO, kind: int) -> int | None:
    """How many there are; None where the list cannot be read, which is told once the folder is there."""
    try:
        read = read_txt if kind else read_csv
        return sum(1 for _ in read(_chunks(recipients), "recipients")) or None
    except RecipientsError:
        return None
    finally:
        recipients.seek(0)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    """The list, its last line with an end: without one it looks like an upload that was cut."""
    last = b"\n"
    for chunk in _chunks(file):
        yield chunk
        last = chunk[-1:]
    if last != b"\n":
        yield b"\n"
