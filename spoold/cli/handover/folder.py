"""A job folder on its sender's side: its files, its manifest, their hashes."""

import hashlib
import os

from spoold.cli.command import UsageError
from spoold.cli.handover.progress import Told, Unit, progress
from spoold.core.document.reader import READ_BYTES, DocumentError
from spoold.core.folder import MANIFEST, MAX_DEPTH, REPORT, is_content, is_hidden
from spoold.core.manifest import Manifest, parse_manifest
from spoold.storage.entry import Entry, Kind, TreeTooLargeError, no_file
from spoold.storage.files import Files
from spoold.storage.link import own_links


def open_folder(files: Files, path: str) -> int:
    """A descriptor of a job folder. Raises UsageError."""
    try:
        return files.open_directory(None, os.path.realpath(path))
    except NotADirectoryError:
        raise UsageError(f"{path}: is no folder; a job is a folder with a job.yaml") from None
    except FileNotFoundError:
        raise UsageError(f"{path}: no such folder") from None


def entries_of(files: Files, root: int) -> dict[str, Entry]:
    """What is in a job folder, by name. Raises UsageError where that is too much."""
    try:
        with progress("Looking for files", Unit.FILES):
            found = files.walk(root, max_entries=3_000_000, max_depth=MAX_DEPTH, skip=frozenset({REPORT}))
    except TreeTooLargeError as error:
        raise UsageError(str(error)) from None
    return {entry.name: entry for entry in own_links(found, os.fstat(root).st_uid)}


def sealable(entries: dict[str, Entry]) -> dict[str, Entry]:
    """The files that a seal lists."""
    return {
        name: entry
        for name, entry in entries.items()
        if entry.kind is Kind.FILE and is_content(name) and not is_hidden(name)
    }


def hash_all(files: Files, root: int, entries: dict[str, Entry], told: Told) -> dict[str, str]:
    """The SHA-256 of each plain file among `entries`, in hexadecimal; `told` hears of the bytes."""
    plain = {name: entry for name, entry in entries.items() if entry.kind is Kind.FILE}
    total = sum(entry.size for entry in plain.values())
    hashes: dict[str, str] = {}
    done = 0
    for name, entry in plain.items():
        hashes[name] = hash_of(files, root, entry)
        done += entry.size
        told(done, total)
    return hashes


def hash_of(files: Files, root: int, entry: Entry) -> str:
    """A file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    for chunk in files.chunks(root, entry.path):
        digest.update(chunk)
    return digest.hexdigest()


def read_job(files: Files, root: int, entries: dict[str, Entry], problems: list[str]) -> Manifest | None:
    """The manifest, None if it is wrong; `problems` gets why."""
    entry = entries.get(MANIFEST)
    if entry is None or entry.kind is not Kind.FILE:
        missing = f"{MANIFEST}: is missing; expected a plain file"
        problems.append(missing if entry is None else no_file(MANIFEST, entry.kind))
        return None
    try:
        return parse_manifest(files.read_small(root, (MANIFEST,), READ_BYTES))
    except DocumentError as error:
        problems.extend(str(problem) for problem in error.problems)
        return None
