"""A manifest's wishes with the agent's defaults: the terms on which a job is sent."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from spoold.agent.live import Terms
from spoold.core.manifest import Manifest, Priority
from spoold.core.planner import Schedule
from spoold.core.retry import RetryPolicy
from spoold.core.schedule import Windows


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the configuration gives to jobs that do not say otherwise, and the agent's own windows, which bind all."""

    zone: ZoneInfo
    retry: RetryPolicy
    windows: Windows
    unsupported: str | None = None


def terms_of(manifest: Manifest, defaults: Defaults, accepted_at: float) -> Terms:
    """The terms of a job that was accepted at `accepted_at` (POSIX seconds)."""
    timing = manifest.timing
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
        unsupported=defaults.unsupported or unsupported(manifest),
    )


def unsupported(manifest: Manifest) -> str | None:
    """The wish that this version would not honour, in a sentence; the job is held rather than sent against it."""
    timing = manifest.timing
    keys = [
        key
        for key, given in (
            ("rate", timing.rate is not None),
            ("domain_rates", bool(timing.domain_rates)),
            ("priority", timing.priority is not Priority.NORMAL),
        )
        if given
    ]
    if not keys:
        return None
    return f"job.yaml: {', '.join(keys)}: not honoured by this version yet; cancel the job, or upload it without"


def manifest_errors(manifest: Manifest, defaults: Defaults, relays: Collection[str], now: float) -> list[str]:
    """What only this agent can know to be wrong with a manifest."""
    errors = []
    if manifest.relay not in relays:
        errors.append(f"job.yaml: relay: no relay '{manifest.relay}' here; there are {', '.join(sorted(relays))}")
    if terms_of(manifest, defaults, now).schedule.opens(now) is None:
        errors.append("job.yaml: windows: never sends: these windows and the agent's are never open at the same time")
    return errors
