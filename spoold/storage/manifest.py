"""A job's manifest, as the database has it: in the compact form where that still counts, else parsed again.

And manifests that were parsed, by their content: a large one takes a second.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from datetime import tzinfo
from zoneinfo import ZoneInfo

from spoold.core.compact import key_of, pack, unpack
from spoold.core.document.reader import READ_BYTES, DocumentError
from spoold.core.folder import MANIFEST
from spoold.core.manifest import SHORT, Manifest, parse_manifest
from spoold.storage.entry import Entry, Kind, NotRegularError, no_file
from spoold.storage.files import Files
from spoold.storage.record import Compact, JobRow


def manifest_of(job: JobRow, zone: ZoneInfo) -> Manifest:
    """The manifest of an accepted job with the timing that counts now; `zone` is the agent's. Raises DocumentError."""
    if job.compact is not None and job.compact.key == key_of(job.manifest, job.timing, zone.key):
        return unpack(job.compact.manifest)
    manifest = parse_manifest(job.manifest, zone=zone)
    return manifest if job.timing is None else replace(manifest, timing=parse_manifest(job.timing, zone=zone).timing)


def compact_of(manifest: Manifest, source: bytes, timing: bytes | None, zone: ZoneInfo) -> Compact:
    """What the database keeps so that `manifest_of` need not parse `source`, or the edited `timing`, again."""
    return Compact(key_of(source, timing, zone.key), pack(manifest))


class Manifests:
    """What the manifests that were parsed last were found to be; `limit` is how many bytes of them are kept. For any thread.

    `parse_large` parses those that are not short.
    """

    def __init__(
        self, parse_large: Callable[[bytes, tzinfo], Manifest] | None = None, *, limit: int = 2 * 1024 * 1024
    ) -> None:
        self._parse_large = parse_large or (lambda source, zone: parse_manifest(source, zone=zone))
        self._limit = limit
        self._kept = 0
        self._found: OrderedDict[tuple[bytes, str], Manifest | DocumentError] = OrderedDict()
        self._lock = threading.Lock()

    def knows(self, source: bytes, zone: tzinfo) -> bool:
        """Whether `parse` has its answer already."""
        with self._lock:
            return len(source) <= SHORT or (source, str(zone)) in self._found

    def parse(self, source: bytes, zone: tzinfo) -> Manifest:
        """As `core.manifest.parse_manifest`, which remembers short ones by itself. Raises DocumentError."""
        if len(source) <= SHORT:
            return parse_manifest(source, zone=zone)
        key = (source, str(zone))
        with self._lock:
            found = self._found.get(key)
            if found is not None:
                self._found.move_to_end(key)
        if found is None:
            try:
                found = self._parse_large(source, zone)
            except DocumentError as error:
                found = error.with_traceback(None)
            with self._lock:
                self._kept += 0 if key in self._found else len(source)
                self._found[key] = found
                while self._kept > self._limit:
                    (old, _), _ = self._found.popitem(last=False)
                    self._kept -= len(old)
        if isinstance(found, DocumentError):
            raise DocumentError(found.problems, incomplete=found.incomplete)
        return found


def read_manifest(
    files: Files, root: int, entries: dict[str, Entry], parse: Callable[[bytes], Manifest]
) -> tuple[Manifest | None, str | None, bool]:
    """(manifest, what is wrong with it, whether more bytes could cure that). Raises OSError where it cannot be read."""
    entry = entries.get(MANIFEST)
    if entry is None:
        return None, f"{MANIFEST} is missing", True
    if entry.kind is not Kind.FILE:
        return None, no_file(MANIFEST, entry.kind), False
    try:
        return parse(files.read_small(root, (MANIFEST,), READ_BYTES)), None, False
    except DocumentError as error:
        return None, str(error.problems[0]), error.incomplete
    except NotRegularError as error:
        return None, no_file(MANIFEST, error.kind), False
    except FileNotFoundError:
        return None, f"{MANIFEST} is missing", True
