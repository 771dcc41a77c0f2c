"""A job's manifest, as the database has it: in the compact form where that still counts, else parsed again."""

from dataclasses import replace
from zoneinfo import ZoneInfo

from spoold.core.compact import key_of, pack, unpack
from spoold.core.manifest import Manifest, parse_manifest
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
