"""A manifest's wishes with the agent's defaults: the terms on which a job is sent."""

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

from spoold.agent.configuration import Defaults
from spoold.core.compact import key_of, pack, unpack
from spoold.core.manifest import Manifest, Timing, parse_manifest
from spoold.core.moment import for_people
from spoold.core.problem import shown
from spoold.core.schedule.planner import Schedule
from spoold.delivery.job import Terms
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


def terms_of(timing: Timing, defaults: Defaults, accepted_at: float) -> Terms:
    """The terms of a job that was accepted at `accepted_at` (POSIX seconds)."""
    zone = ZoneInfo(timing.timezone) if timing.timezone else defaults.zone
    parts = tuple(
        (windows, of)
        for windows, of in ((timing.windows, zone), (defaults.windows, defaults.zone))
        if not windows.is_always
    )
    expires = timing.expires
    expires_at = expires.timestamp() if isinstance(expires, datetime) else expires and accepted_at + expires
    return Terms(
        retry=timing.retry or defaults.retry,
        schedule=Schedule(parts),
        send_after=timing.send_after.timestamp() if timing.send_after else None,
        expires_at=expires_at,
        zone=zone,
        rate=timing.rate,
        domain_rates=timing.domain_rates,
        priority=timing.priority,
    )


def manifest_errors(manifest: Manifest, defaults: Defaults, relays: Collection[str], now: float) -> list[str]:
    """What only this agent can know to be wrong with a manifest."""
    errors = timing_errors(manifest.timing, defaults, now)
    if manifest.relay not in relays:
        errors.append(f"job.yaml: relay: no relay {shown(manifest.relay)} here; there are {', '.join(sorted(relays))}")
    return errors


def timing_errors(timing: Timing, defaults: Defaults, now: float) -> list[str]:
    """Terms on which nothing could ever be sent."""
    terms = terms_of(timing, defaults, now)
    if terms.schedule.opens(max(now, terms.send_after or now)) is None:
        return ["job.yaml: windows: never sends: these windows and the agent's are never open at the same time"]
    if terms.expires_at is not None and terms.send_after is not None and terms.expires_at <= terms.send_after:
        return [
            f"job.yaml: expires: never sends: it expires at {for_people(terms.expires_at, terms.zone)},"
            f" before send_after ({for_people(terms.send_after, terms.zone)})"
        ]
    return []
