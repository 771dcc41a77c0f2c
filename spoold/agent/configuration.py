"""What the agent runs on, as the parts take it; read from spoold.yaml by the command line."""

from dataclasses import dataclass, field

from spoold.core.completeness import IntakePolicy
from spoold.core.recipient.address import Address
from spoold.core.terms import Defaults
from spoold.delivery.limiter import Limits
from spoold.intake.settings import Settings
from spoold.smtp.relay import Relay


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
    csv_formulas: bool = False
    """Whether lists for a spreadsheet may have cells that it takes for formulas."""

    @property
    def settings(self) -> Settings:
        return Settings(self.intake, self.defaults, frozenset(self.relays))
