"""What several commands need: the configuration, the spool, and errors of usage."""

import argparse
from pathlib import Path

from spoold.cli import config
from spoold.core.problem import UserError
from spoold.storage.files import Files
from spoold.storage.spooldir import Spool


class UsageError(UserError):
    """The command was called in a way that cannot work."""

    exit_code = 2


def configuration(options: argparse.Namespace) -> config.Config:
    """The configuration that the options lead to. Raises ConfigError."""
    return config.read(config.find(options.config))


def open_spool(path: Path) -> Spool:
    """Raises SpoolError."""
    return Spool(path, Files())
