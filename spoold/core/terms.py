"""The terms on which a job is sent: its manifest's wishes with the agent's defaults."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo
from zoneinfo import ZoneInfo

from spoold.core.manifest import Manifest, Priority, Timing
from spoold.core.moment import for_people
from spoold.core.problem import shown
from spoold.core.schedule.planner import Schedule
from spoold.core.schedule.rate import Rate
from spoold.core.schedule.retry import RetryPolicy
from spoold.core.schedule.window import Windows


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the configuration gives to jobs that do not say otherwise, and the agent's own windows, which bind all."""

    zone: ZoneInfo
    retry: RetryPolicy
    windows: Windows


@dataclass(frozen=True, slots=True)
class Terms:
    """When a job may send, and how it retries: its manifest's timing with the agent's defaults applied."""

    retry: RetryPolicy
    schedule: Schedule
    send_after: float | None
    expires_at: float | None
    zone: tzinfo
    rate: Rate | None
    domain_rates: Mapping[str, Rate]
    priority: Priority


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
