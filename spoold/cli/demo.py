"""`spoold demo`: the whole life of a job in under a minute, with a mail server of its own; nothing leaves the machine."""

import argparse
import asyncio
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from aiosmtpd.smtp import SMTP, Envelope, Session

from spoold.agent.supervisor import Supervisor
from spoold.cli import config, log
from spoold.cli.init import example
from spoold.storage.files import Files
from spoold.storage.spooldir import Spool

_TIMEOUT = 50.0
_CONFIGURATION = """\
spool: .
relays:
  default: {{host: 127.0.0.1, port: {port}, security: none, connections: 4}}
retry: {{every: 4s, for: 1h}}
intake: {{settle: 1s}}
log: {{format: console, level: error}}
"""
_UNKNOWN = "hedy@example.com"
_GREYLISTED = "katherine@example.org"


@dataclass
class _Mailbox:
    """The demo's mail server keeps what it gets, refuses one address for good and one at first."""

    folder: Path
    count: int = 0
    greylisted: bool = False

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address == _UNKNOWN:
            return "550 5.1.1 No such user here"
        if address == _GREYLISTED and not self.greylisted:
            self.greylisted = True
            return "450 4.7.1 Greylisted, try again in some seconds"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - as above
        self.count += 1
        name = f"{self.count:04}.eml"
        content: Any = envelope.content
        header = "".join(f"X-Envelope-To: {to}\r\n" for to in envelope.rcpt_tos)
        (self.folder / name).write_bytes(header.encode() + content)
        return f"250 2.0.0 OK: kept as {name}"


def run(options: argparse.Namespace) -> int:
    """Prints the story; the spool stays where `--keep` says, or under the system's folder for temporary files."""
    if options.keep:
        root = Path(options.keep).resolve()
        root.mkdir(parents=True, exist_ok=True)
    else:
        root = Path(tempfile.mkdtemp(prefix="spoold-demo-"))
    Spool.create(root)
    (root / "received").mkdir(exist_ok=True)
    return asyncio.run(_story(root, _Mailbox(root / "received")))


async def _story(root: Path, mailbox: _Mailbox) -> int:
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(mailbox, hostname="demo.invalid"), "127.0.0.1", 0
    )
    port = server.sockets[0].getsockname()[1]
    (root / "spoold.yaml").write_text(_CONFIGURATION.format(port=port))
    async with server:
        return await _tell(root, mailbox)


async def _tell(root: Path, mailbox: _Mailbox) -> int:
    found = config.read(root / "spoold.yaml")
    log.configure(found.log)
    spool = Spool(root, Files())
    _say(
        f"A spool in {root}, a mail server on port {found.agent.relays['default'].port} that keeps what it gets, and the agent."
    )
    supervisor = Supervisor(
        spool, found.agent, clock=time.time, monotonic=time.monotonic, reload=lambda: found.agent, stop_on_signals=False
    )
    agent = asyncio.create_task(supervisor.run())
    deadline = time.monotonic() + _TIMEOUT
    late = False
    try:
        _drop(
            root,
            "newsletter",
            "One message for twelve people. It is copied into tmp/ and renamed into new/: one step, taken at once.",
        )
        _drop(root, "invoices", "Five people, a message each.")
        _drop(root, "night-mailing", "A mailing that may only be sent at night.")
        shown: dict[str, str] = {}
        cancelled = False
        while time.monotonic() < deadline and not agent.done():
            states = {name: _state(root, name) for name in ("newsletter", "invoices", "night-mailing")}
            for name, state in states.items():
                line = _line(state)
                if line and shown.get(name) != line:
                    shown[name] = line
                    _say(f"  {name:14} {line}")
            over = [
                bool(state) and state["state"] in ("finished", "cancelled", "rejected") for state in states.values()
            ]
            if all(over):
                break
            if all(over[:2]) and states["night-mailing"] and not cancelled:
                cancelled = True
                _say("The night's mailing is not waited for here: touch deferred/night-mailing/CANCEL")
                _touch(root, "night-mailing", "CANCEL")
            await asyncio.sleep(0.1)
        else:
            late = True
            _say("The demo did not end in time; the spool shows how far it came.")
    finally:
        supervisor.stop()
        await agent
        spool.close()
    _end(root, mailbox)
    return int(late)


def _end(root: Path, mailbox: _Mailbox) -> None:
    _say(f"\nThe mail server kept {mailbox.count} messages in {root / 'received'}.")
    _say("It refused one address for good and one at first; the newsletter's report says so:\n")
    report = root / "done" / "newsletter" / "report"
    if (report / "status.txt").exists():
        _say((report / "status.txt").read_text())
        with (report / "recipients.csv").open() as lines:
            for line in lines:
                if line.startswith("line,") or _UNKNOWN in line or _GREYLISTED in line:
                    _say("  " + line.rstrip())
    _say(f"\nLook around: {root}\nThen make a spool of your own: spoold init SPOOL")


def _drop(root: Path, name: str, text: str) -> None:
    _say(f"\n{text}\n  cp -r {name} tmp/ && mv tmp/{name} new/")
    shutil.rmtree(root / "tmp" / name, ignore_errors=True)
    shutil.copytree(example(f"jobs/{name}"), root / "tmp" / name)
    (root / "tmp" / name).rename(root / "new" / name)


def _state(root: Path, name: str) -> dict[str, Any]:
    for folder in ("active", "deferred", "done"):
        try:
            state: dict[str, Any] = orjson.loads((root / folder / name / "report" / "status.json").read_bytes())
        except (OSError, orjson.JSONDecodeError):
            continue
        return state
    return {}


def _line(state: dict[str, Any]) -> str:
    if not state:
        return ""
    counts = ", ".join(f"{count} {name}" for name, count in state["counts"].items() if count)
    reason = f" ({state['reason']})" if state["reason"] else ""
    return f"{state['state']}{reason}: {counts}"


def _touch(root: Path, name: str, control: str) -> None:
    for folder in ("active", "deferred"):
        if (root / folder / name).is_dir():
            (root / folder / name / control).touch()


def _say(text: str) -> None:
    print(text, flush=True)
