"""A real Postfix of the test's own: one instance a `Postfix` object, apart from the system's in every file.

smtpd listens on a port of 127.0.0.1 and takes mail for any local part of the domains reserved for
documentation (RFC 2606: `*.example`, `example.com`, `.net`, `.org`, and their sub-domains); virtual(8)
delivers it to a Maildir. Everybody else is answered `554 5.7.1 Relay access denied`; nothing ever leaves the
machine.

Each smtpd process serves one connection (`max_use=1`) and reads the configuration afresh, so that `set` and
`answer` act from the next connection on, without a reload.

What this Postfix does not do to a message: rewrite or add header fields, drop Bcc, delay for errors. What it
still does: it collapses the same recipient given twice in one transaction, and keeps lines with LF, as every
Postfix does.
"""

import enum
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.servers.certificate import Certificate
from tests.servers.instance import QMGR, SERVICES, launch, lay_out, master_of, parameters
from tests.servers.mailbox import Delivered, delivered
from tests.servers.process import Server, find_program, free_port, unavailable, wait_until
from tests.servers.sasl import PasswordServer

_UNDELIVERED = ("maildrop", "incoming", "active", "deferred")
_DOMAINS = r"/^([^@]+\.)?example(\.(com|net|org))?$/ OK"

_MASTER = (
    """\
127.0.0.1:{port} inet n - n - - smtpd -o max_use=1
{smtps}tlsmgr unix - - n 1000? 1 tlsmgr
verify unix - - n - 1 verify
discard unix - - n - - discard
virtual unix - n n - - virtual
postlog unix-dgram n - n - 1 postlogd
"""
    + QMGR
    + SERVICES
)


class Tls(enum.Enum):
    """What the plain port does about STARTTLS (RFC 3207)."""

    NONE = "none"
    OFFERED = "may"
    REQUIRED = "encrypt"


class Postfix(Server):
    """A context manager; every option can be given as a keyword, and any main.cf parameter with `set`.

    `certificate` opens STARTTLS as `tls` says, and a second, implicit-TLS port `smtps_port`. `login` offers
    AUTH PLAIN and LOGIN for that user and password; with `login_required` everybody else is refused at RCPT
    (554 5.7.1).
    """

    name = "Postfix"
    farewell = "disconnect from"

    def __init__(
        self,
        *,
        certificate: Certificate | None = None,
        tls: Tls = Tls.OFFERED,
        login: tuple[str, str] | None = None,
        login_required: bool = False,
        recipient_limit: int = 1000,
        message_size_limit: int = 50_000_000,
        answers: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        #: The implicit-TLS port; 0 without a certificate.
        self.smtps_port = 0
        self._certificate = certificate
        self._login = login
        self._passwords: PasswordServer | None = None
        self._given_answers = dict(answers or {})
        self._answers = dict(self._given_answers)
        self._given = {
            "smtpd_recipient_limit": str(recipient_limit),
            "message_size_limit": str(message_size_limit),
            "smtpd_tls_security_level": (tls if certificate else Tls.NONE).value,
            "smtpd_sasl_auth_enable": "yes" if login else "no",
            "smtpd_client_restrictions": "permit_sasl_authenticated, reject" if login_required else "",
        }
        self._parameters: dict[str, str] = {}

    def set(self, parameter: str, value: str) -> None:
        """Set a main.cf parameter of smtpd(8), from the next connection on, until `reset`."""
        self._parameters[parameter] = value
        self._write("main.cf", "".join(f"{name} = {text}\n" for name, text in self._parameters.items()))

    def answer(self, recipient: str, reply: str) -> None:
        """Answer RCPT for an address, a `domain`, or a `localpart@` with e.g. `450 4.2.0 text` (access(5)).

        From the next connection on, until `reset`. Postfix puts `<address>: Recipient address rejected: `
        before the text.
        """
        self._answers[recipient] = reply
        self._write("answers", "".join(f"{key} {text}\n" for key, text in self._answers.items()))

    def received_mail(self) -> list[Delivered]:
        """Everything in the mailboxes, in the order of delivery."""
        files = sorted((entry.stat().st_mtime_ns, entry.name, entry) for entry in self._inbox.iterdir())
        return [delivered(entry.read_bytes()) for _, _, entry in files]

    def wait_for(self, count: int, timeout: float = 10) -> list[Delivered]:
        """Wait until at least `count` copies are delivered; TimeoutError with the log's end after `timeout`
        seconds.

        It blocks: from a coroutine, call it through `asyncio.to_thread`.
        """
        try:
            wait_until(lambda: len(os.listdir(self._inbox)) >= count, timeout, f"{count} delivered copies")
        except TimeoutError as error:
            tail = "\n".join(self.log().splitlines()[-20:])
            raise TimeoutError(f"{error}; there are {len(os.listdir(self._inbox))}; the log ends:\n{tail}") from None
        return self.received_mail()

    def queued(self) -> int:
        """How many messages Postfix has accepted and not yet delivered."""
        queues = (self._root / "queue" / name for name in _UNDELIVERED)
        return sum(len(files) for queue in queues for _, _, files in os.walk(queue))

    def settle(self, timeout: float = 10) -> list[Delivered]:
        """Wait until everything accepted is delivered, then return it: how a test proves that nothing came
        twice.
        """
        wait_until(lambda: self.queued() == 0, timeout, "an empty queue")
        return self.received_mail()

    def login_attempts(self) -> list[tuple[str, str]]:
        """Every (user, password) that was tried since the start or `reset`."""
        return list(self._passwords.attempts) if self._passwords else []

    def log(self) -> str:
        """Postfix' own log since the start."""
        file = self._root / "log" / "postfix.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def reset(self) -> None:
        """Back to the state after the start: queue and mailboxes empty, parameters and answers as given."""
        self.settle()
        for entry in self._inbox.iterdir():
            entry.unlink()
        if self._passwords:
            self._passwords.attempts.clear()
        self._configure()

    @property
    def _inbox(self) -> Path:
        return self._root / "mail" / "inbox" / "new"

    def _write(self, name: str, text: str) -> None:
        # Renamed into place: an smtpd that starts just now reads the old file or the new one, never half of
        # one.
        draft = self._root / "etc" / f".{name}"
        draft.write_text(text, encoding="utf-8")
        # Postfix waits, up to two seconds, until a file that it reads has an mtime that is not of just now.
        os.utime(draft, (0, 0))
        draft.rename(self._root / "etc" / name)

    def _prepare(self) -> None:
        postconf = find_program("postconf")
        if os.geteuid() != 0:
            unavailable("Postfix can only be started by root")
        self._master = master_of(postconf)
        # Not below pytest's folders: those are mode 0700, and Postfix' daemons are not root.
        self._root = Path(tempfile.mkdtemp(prefix="postfix-"))

    def _lay_out(self) -> None:
        lay_out(self._root)
        (self._root / "log").mkdir()
        nobody = pwd.getpwnam("nobody")
        for path in ("mail", "mail/inbox", "mail/inbox/cur", "mail/inbox/new", "mail/inbox/tmp"):
            (self._root / path).mkdir()
            os.chown(self._root / path, nobody.pw_uid, nobody.pw_gid)
        self._defaults = {
            **parameters(self._root),
            "maillog_file_prefixes": str(self._root),
            "maillog_file": str(self._root / "log" / "postfix.log"),
            "myhostname": "relay.example",
            # Bounces, too, stay here: to reserved domains they are delivered, others are thrown away.
            "default_transport": "discard:",
            "relay_transport": "discard:",
            "virtual_mailbox_domains": f"regexp:{self._root}/etc/domains",
            "virtual_mailbox_base": str(self._root / "mail"),
            # virtual(8) refuses $1 in maps: one Maildir for all, Delivered-To says whose the copy is.
            "virtual_mailbox_maps": "static:inbox/",
            "virtual_uid_maps": f"static:{nobody.pw_uid}",
            "virtual_gid_maps": f"static:{nobody.pw_gid}",
            "virtual_mailbox_limit": "0",
            "local_header_rewrite_clients": "",
            "message_drop_headers": "",
            "disable_mime_input_processing": "yes",
            "smtpd_error_sleep_time": "0",
            "smtpd_soft_error_limit": "10000",
            "smtpd_hard_error_limit": "10000",
            "smtpd_relay_restrictions": "reject_unauth_destination",
            "smtpd_recipient_restrictions": f"check_recipient_access texthash:{self._root}/etc/answers",
        }
        if self._certificate:
            chain = self._root / "etc" / "chain.pem"
            shutil.copyfile(self._certificate.chain, chain)
            chain.chmod(0o600)
            self._defaults["smtpd_tls_chain_files"] = str(chain)
            self._defaults["smtpd_tls_received_header"] = "yes"
        if self._login:
            self._defaults["smtpd_sasl_type"] = "dovecot"
            self._defaults["smtpd_sasl_path"] = "private/password"
            self._passwords = PasswordServer(self._root / "queue" / "private" / "password", *self._login)
        self._write("domains", _DOMAINS + "\n")
        self._configure()

    def _configure(self) -> None:
        self._answers = dict(self._given_answers)
        self._write("answers", "".join(f"{key} {text}\n" for key, text in self._answers.items()))
        self._parameters = dict(self._defaults)
        for name, value in self._given.items():
            self.set(name, value)

    def _launch(self) -> "subprocess.Popen[bytes]":
        smtps = ""
        if self._certificate:
            self.smtps_port = free_port()
            smtps = (
                f"127.0.0.1:{self.smtps_port} inet n - n - - smtpd"
                " -o max_use=1 -o smtpd_tls_wrappermode=yes -o smtpd_tls_security_level=encrypt\n"
            )
        self._write("master.cf", _MASTER.format(port=self.port, smtps=smtps))
        environ = {"PATH": os.defpath, "MAIL_CONFIG": str(self._root / "etc")}
        return launch(self._master, self._root, environ)

    def _remove(self) -> None:
        if self._passwords:
            self._passwords.close()
        shutil.rmtree(self._root)
