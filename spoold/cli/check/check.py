"""`spoold check`: whether the agent can work, and with `--deep` whether what it wrote is what it knows."""

import argparse
import asyncio
import os
import time
from collections.abc import Callable

from spoold.cli import config
from spoold.cli.check.deep import Difference, Inspection
from spoold.cli.check.finding import Findings
from spoold.cli.check.machine import check_clock, check_disk, check_limits, check_name
from spoold.cli.check.premises import (
    check_agent,
    check_aside,
    check_configuration,
    check_database,
    check_spool,
    check_staging,
)
from spoold.cli.check.probe import check_relays
from spoold.cli.command import UsageError, open_spool
from spoold.cli.config import Config, ConfigError
from spoold.core.recipient.address import Address, AddressError, parse_address
from spoold.storage.database import DatabaseError
from spoold.storage.owner import require_owner
from spoold.storage.snapshot import Snapshot
from spoold.storage.spooldir import PRIVATE, Spool, SpoolError


def run(options: argparse.Namespace) -> int:
    """One finding a thing; 1 if one of them is an error, warnings alone are none."""
    recipient: Address | None = None
    if options.send_to is not None:
        try:
            recipient = parse_address(options.send_to)
        except AddressError as error:
            raise UsageError(f"--send-to: {error}") from None
    if options.repair and not options.deep:
        raise UsageError("--repair: expected --deep with it")
    findings = Findings(as_json=options.json)
    try:
        found = config.read(config.find(options.config))
    except ConfigError as error:
        if not options.json:
            raise
        for line in str(error).splitlines():
            findings.bad("configuration", line)
        findings.print_json()
        return 2
    check_configuration(found, findings)
    _in_spool(found, findings, lambda spool: _check_spool(found, spool, options, findings))
    check_name(found, findings)
    asyncio.run(check_relays(found, recipient, findings))
    findings.print_json()
    return int(findings.failed)


def _in_spool(found: Config, findings: Findings, check: Callable[[Spool], None]) -> None:
    try:
        spool = open_spool(found.spool)
    except SpoolError as error:
        findings.bad("spool", str(error))
        return
    try:
        check(spool)
    finally:
        spool.close()


def _check_spool(found: Config, spool: Spool, options: argparse.Namespace, findings: Findings) -> None:
    check_spool(found, spool, findings)
    check_disk(spool, findings)
    check_clock(spool, findings)
    check_limits(found, spool, findings)
    check_database(spool, findings)
    check_staging(spool, findings, time.time())
    check_aside(spool, findings)
    check_agent(spool, findings)
    if options.deep:
        try:
            _compare(found, spool, findings, repair=options.repair)
        except DatabaseError as error:
            findings.bad("deep.database", f"database: {error}", "see `If the database is damaged` in systemd/README.md")


def _compare(found: Config, spool: Spool, findings: Findings, *, repair: bool) -> None:
    if not spool.database.exists():
        findings.good("deep", "deep: no agent has ever run on this spool, so there is nothing to compare")
        return
    if repair and not _may_repair(spool, findings):
        return
    running = spool.is_locked() and not repair
    snapshot = Snapshot(spool.database)
    try:
        faults = snapshot.faults()
        for fault in faults:
            findings.bad("deep.database", f"database: {fault}", "see `If the database is damaged` in systemd/README.md")
        if faults:
            # It is not to be trusted: nothing is put right by it.
            return
        inspection = Inspection(spool, snapshot, zone=found.agent.defaults.zone, running=running)
        if repair:
            for name in inspection.repair():
                findings.good(
                    "deep.repaired", f"job {name}: repaired: its report and its folder are as the database says"
                )
        clean = True
        for difference in inspection.differences():
            clean = False
            _tell(difference, findings)
        if clean:
            findings.good("deep", "deep: database, folders, messages and reports agree")
    finally:
        snapshot.close()


def _may_repair(spool: Spool, findings: Findings) -> bool:
    """Take the spool for this process. Whoever is not its user would leave files that the agent cannot write to."""
    owner = os.fstat(spool.fd(PRIVATE)).st_uid
    if os.geteuid() != owner:
        findings.bad(
            "deep.repair",
            f"repair: {spool.path} belongs to uid {owner}",
            f"run it as that user: setpriv --reuid={owner}",
        )
        return False
    try:
        require_owner(spool)
        spool.lock()
    except SpoolError as error:
        findings.bad(
            "deep.repair", f"repair: {error}", "stop the agent first; without --repair the check works beside it"
        )
        return False
    spool.adopt_umask()
    return True


def _tell(difference: Difference, findings: Findings) -> None:
    say = findings.warn if difference.mild else findings.bad
    say("deep.difference", f"job {difference.job}: {difference.text}", difference.remedy)
