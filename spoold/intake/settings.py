"""What intake is told by the configuration."""

from collections.abc import Collection
from dataclasses import dataclass

from spoold.core.completeness import IntakePolicy
from spoold.core.terms import Defaults


@dataclass(frozen=True, slots=True)
class Settings:
    """What the configuration says that intake needs; replaced as a whole when it is read again."""

    policy: IntakePolicy
    defaults: Defaults
    relays: Collection[str]
