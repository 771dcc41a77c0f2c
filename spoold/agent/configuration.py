"""What the agent runs on, as the parts take it; read from spoold.yaml by the command line."""

from collections.abc import Collection
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from spoold.core.completeness import IntakePolicy
from spoold.core.recipient.address import Address
from spoold.core.schedule.retry import RetryPolicy
from spoold.core.schedule.window import Windows
from spoold.delivery.limiter import Limits
from spoold.smtp.relay import Relay


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the configuration gives to jobs that do not say otherwise, and the agent's own windows, which bind all."""

    zone: ZoneInfo
    retry: RetryPolicy
    windows: Windows


@dataclass(frozen=True, slots=True)
class Settings:
    """What the configuration says that intake needs; replaced as a whole when it is read again."""

    policy: IntakePolicy
    defaults: Defaults
    relays: Collection[str]


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the agent runs on; built from the configuration file, replaced whole by SIGHUP."""

    relays: dict[str, Relay]
    defaults: Defaults
    intake: IntakePolicy
    keep_done: float | None
    """Seconds after which a finished job is removed; None keeps it."""
    limits: Limits = field(default_factory=Limits)
    notify: Address | None = None
    """Who gets a summary mail of each job that ends."""

    @property
    def settings(self) -> Settings:
        return Settings(self.intake, self.defaults, frozenset(self.relays))
