"""A real OpenSMTPD of the test's own, from the Debian package unpacked by `tests.servers.debian`, in its own root
directory.

It takes mail for everybody, on a port of 127.0.0.1, and keeps it in a Maildir: one file a recipient. It refuses the
local parts that begin with `gone` (550 5.1.1) and puts off those that begin with `full` (452 4.2.2).

There is no TLS here: Debian 12's version cannot serve it, since it is linked with OpenSSL 3 ("missing private key",
OpenSMTPD issues 1171 and 1239).

It adds Return-Path, Delivered-To and Received fields. Its limits are those that it has as installed: 100 messages a
session.
"""

import subprocess
from pathlib import Path

from tests.servers.debian import Root
from tests.servers.mailbox import Delivered, fields
from tests.servers.process import Server, wait_until

_KEEPER = "keeper"
_PROGRAMS = ("usr/sbin/smtpd", "usr/libexec/opensmtpd/mail.maildir", "bin/sh")

_CONFIGURATION = """\
smtp max-message-size "50M"
filter gone phase rcpt-to match rcpt-to regex "^gone.*@" reject "550 5.1.1 no such user"
filter full phase rcpt-to match rcpt-to regex "^full.*@" reject "452 4.2.2 mailbox full"
filter answers chain {{ gone, full }}
listen on 127.0.0.1 port {port} filter answers hostname relay.example
table everybody {{ "@" = keeper }}
action keep maildir "/mail" virtual <everybody>
match from any for any action keep
"""


class OpenSmtpd(Server):
    """A context manager."""

    name = "OpenSMTPD"
    farewell = "reason=disconnect"

    def received_mail(self) -> list[Delivered]:
        """Everything in the Maildir."""
        found = []
        for file in sorted(self._inbox.iterdir()):
            added, data = fields(file.read_bytes(), (b"Return-Path", b"Delivered-To", b"Received"))
            sender = added["Return-Path"].strip("<>")
            found.append(Delivered(added["Delivered-To"], sender, data, added["Received"].encode()))
        return found

    def settle(self, timeout: float = 20) -> list[Delivered]:
        """Wait until everything accepted is delivered, then return it."""
        wait_until(lambda: not self._queued(), timeout, "an empty queue")
        return self.received_mail()

    def log(self) -> str:
        """OpenSMTPD's log since the start or `reset`, but for what it says of a spool folder that it has not made yet."""
        lines = self._log_file.read_text(errors="replace").splitlines(keepends=True)
        return "".join(line for line in lines if "purge_task" not in line)

    def reset(self) -> None:
        """Back to the state after the start: queue, mailbox and log empty."""
        self.settle()
        for file in self._inbox.iterdir():
            file.unlink()
        with self._log_file.open("r+b") as log:
            log.truncate()

    @property
    def _inbox(self) -> Path:
        return self._root.path / "mail" / "new"

    @property
    def _log_file(self) -> Path:
        return self._root.path / "var/log/smtpd"

    def _queued(self) -> bool:
        spool = self._root.path / "var/spool/smtpd"
        return any(path.is_file() for name in ("queue", "incoming") for path in (spool / name).rglob("*"))

    def _prepare(self) -> None:
        self._root = Root("opensmtpd", _PROGRAMS, ["opensmtpd", "opensmtpq", _KEEPER])

    def _lay_out(self) -> None:
        for folder in ("mail", "mail/new", "mail/cur", "mail/tmp", "home"):
            self._root.own(folder, _KEEPER)
        for folder in ("var/spool/smtpd", "var/lib/opensmtpd/empty"):
            (self._root.path / folder).mkdir(parents=True)
        (self._root.path / "var/spool/smtpd").chmod(0o711)

    def _launch(self) -> "subprocess.Popen[bytes]":
        self._root.write("etc/smtpd.conf", _CONFIGURATION.format(port=self.port), mode=0o600)
        return self._root.start("/usr/sbin/smtpd", "-d", log=self._log_file)

    def _remove(self) -> None:
        self._root.remove()
