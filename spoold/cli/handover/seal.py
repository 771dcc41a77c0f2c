"""`spoold seal`: SHA256SUMS, with which a job is taken the moment that all of it is there."""

import argparse
import sys

from spoold.cli.handover.folder import entries_of, hash_all, open_folder, sealable
from spoold.cli.handover.progress import Unit, progress
from spoold.core.folder import SEAL
from spoold.core.problem import printable
from spoold.core.seal import format_seal
from spoold.storage.entry import Kind
from spoold.storage.link import LinkedFiles


def run(options: argparse.Namespace) -> int:
    """Write SHA256SUMS; 1 if the folder holds something that cannot be sealed."""
    files = LinkedFiles()
    root = open_folder(files, options.jobdir)
    entries = entries_of(files, root)
    wrong = [entry for entry in entries.values() if entry.kind not in (Kind.FILE, Kind.DIRECTORY)]
    for entry in wrong:
        print(f"{printable(entry.name)}: is {entry.kind.value}; a job has plain files only", file=sys.stderr)
    if wrong:
        return 1
    with progress("Sealing", Unit.BYTES) as told:
        hashes = hash_all(files, root, sealable(entries), told)
    files.replace(root, SEAL, [format_seal(hashes).encode(errors="surrogateescape")], durable=True)
    print(f"{options.jobdir}: sealed, {len(hashes)} file(s)")
    return 0
