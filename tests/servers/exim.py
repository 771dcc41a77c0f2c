"""A real Exim of the test's own, from the Debian package unpacked by `tests.servers.debian`, in its own root directory.

It takes mail for everybody, on a port of 127.0.0.1 with STARTTLS where a certificate is given and then on an
implicit-TLS port too, and keeps it in a Maildir: one file a message, whose Envelope-to field names all the recipients.
It refuses the local parts that begin with `gone` (550 5.1.1) and puts off those that begin with `full` (452 4.2.2).

Its rules of protocol are the strict ones that it has as installed (`smtp_enforce_sync`); no limit stops the test. It
adds Return-path, Envelope-to and Received fields, and changes nothing else.
"""

import subprocess
from pathlib import Path

from tests.servers.certificate import Certificate
from tests.servers.debian import Root
from tests.servers.mailbox import Delivered, fields
from tests.servers.process import Server, free_port

_USER = "Debian-exim"

_CONFIGURATION = """\
primary_hostname = relay.example
local_interfaces = 127.0.0.1
daemon_smtp_ports = {ports}
daemon_startup_retries = 0
{tls}
exim_user = Debian-exim
exim_group = Debian-exim
deliver_drop_privilege = true
log_file_path = /log/%slog
log_selector = +pipelining +smtp_protocol_error +smtp_syntax_error +smtp_connection +received_recipients +tls_cipher
spool_directory = /spool
keep_environment =
host_lookup =
rfc1413_hosts =
dns_dnssec_ok = 0
disable_ipv6 = true
smtp_accept_max = 0
queue_only = true
smtp_accept_max_per_connection = {limit}
smtp_banner = relay.example ESMTP Exim
message_size_limit = 50M
acl_smtp_rcpt = recipient
acl_smtp_data = everything
received_headers_max = 100

begin acl
recipient:
  deny message = 550 5.1.1 no such user
       local_parts = ^gone
  defer message = 452 4.2.2 mailbox full
        local_parts = ^full
  accept
everything:
  accept

begin routers
everybody:
  driver = accept
  transport = mailbox

begin transports
mailbox:
  driver = appendfile
  directory = /mail
  maildir_format
  batch_max = 1000
  envelope_to_add
  return_path_add

begin retry
* * F,1h,1m
"""


class Exim(Server):
    """A context manager. `certificate` opens STARTTLS, and a second, implicit-TLS port `smtps_port`.

    After `messages_per_connection`, if that is not 0, MAIL is answered `421 too many messages in this connection`.
    """

    name = "Exim"
    farewell = " lost D="

    def __init__(self, *, certificate: Certificate | None = None, messages_per_connection: int = 0) -> None:
        super().__init__()
        #: The implicit-TLS port; 0 without a certificate.
        self.smtps_port = 0
        self._certificate = certificate
        self._limit = messages_per_connection

    def received_mail(self) -> list[Delivered]:
        """Everything in the Maildir, one entry a recipient, in the order of its names: that of arrival."""
        found = []
        for file in sorted(self._inbox.iterdir()):
            added, data = fields(file.read_bytes(), (b"Return-path", b"Envelope-to", b"Received"))
            for recipient in added["Envelope-to"].split(","):
                sender = added["Return-path"].strip("<>")
                found.append(Delivered(recipient.strip(), sender, data, added["Received"].encode()))
        return found

    def settle(self, timeout: float = 20) -> list[Delivered]:
        """Deliver everything accepted, then return it.

        One queue run at the end: a delivery process for each message as it comes would compete with the test.
        """
        if any(self._queue()):
            self._root.start("/usr/sbin/exim4", "-qff", log=self._output).wait(timeout)
        left = self._queue()
        if left:
            raise TimeoutError(f"Exim did not deliver {len(left)} files of its queue:\n{self.log()[-2000:]}")
        return self.received_mail()

    def log(self) -> str:
        """Exim's logs since the start or `reset`: what it did, what it refused, and what went wrong."""
        return "".join(file.read_text(errors="replace") for file in sorted((self._root.path / "log").iterdir()))

    def reset(self) -> None:
        """Back to the state after the start: queue, mailbox and logs empty."""
        self.settle()
        for file in (*self._inbox.iterdir(), *(self._root.path / "log").iterdir()):
            file.unlink()

    @property
    def _inbox(self) -> Path:
        return self._root.path / "mail" / "new"

    def _queue(self) -> "list[Path]":
        return list((self._root.path / "spool" / "input").glob("*"))

    @property
    def _output(self) -> Path:
        return self._root.path / "var/log/output"

    def _prepare(self) -> None:
        self._root = Root("exim4-daemon-light", ["usr/sbin/exim4"], [_USER])

    def _lay_out(self) -> None:
        for folder in ("spool", "log", "mail"):
            self._root.own(folder, _USER)
        if self._certificate:
            self._root.write("etc/chain.pem", self._certificate.chain.read_text(), mode=0o640, group=_USER)

    def _launch(self) -> "subprocess.Popen[bytes]":
        ports, tls = str(self.port), "tls_advertise_hosts ="
        if self._certificate:
            self.smtps_port = free_port()
            ports = f"{self.port} : {self.smtps_port}"
            tls = (
                "tls_advertise_hosts = *\ntls_certificate = /etc/chain.pem\ntls_privatekey = /etc/chain.pem\n"
                f"tls_on_connect_ports = {self.smtps_port}"
            )
        self._root.write("etc/exim4/exim4.conf", _CONFIGURATION.format(ports=ports, tls=tls, limit=self._limit))
        self._root.own("mail/new", _USER)
        return self._root.start("/usr/sbin/exim4", "-bdf", "-oP", "/tmp/exim.pid", log=self._output)

    def _said(self) -> str:
        return self._output.read_text(errors="replace") + self.log()

    def _remove(self) -> None:
        self._root.remove()
