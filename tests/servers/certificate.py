"""A private certificate authority, and the right and wrong server certificates that it issues."""

import datetime
import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme

NAMES = ("127.0.0.1", "localhost")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A server's key and certificates in one PEM file, key first, as Postfix' `smtpd_tls_chain_files` wants
    it.
    """

    chain: Path

    def context(self) -> ssl.SSLContext:
        """A fresh server-side context; tests may tighten it (`minimum_version`, `set_ciphers`)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain)
        return context


class Authority:
    """A certificate authority that nobody trusts, unless told so with `pem`; all its files are in
    `directory`.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ca = trustme.CA()
        #: The authority's own certificate: what `ca_file` in a relay's configuration points to.
        self.pem = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.pem))
        #: Good for 127.0.0.1 and localhost.
        self.valid = self._issue("valid", self._ca, NAMES, days=(-1, 365))
        #: Ended yesterday.
        self.expired = self._issue("expired", self._ca, NAMES, days=(-30, -1))
        #: Begins tomorrow.
        self.future = self._issue("future", self._ca, NAMES, days=(1, 30))
        #: Valid, but for another host.
        self.wrong_name = self._issue("wrong-name", self._ca, ("elsewhere.example",), days=(-1, 365))
        #: Right names and dates, but from an authority that is not this one.
        self.untrusted = self._issue("untrusted", trustme.CA(), NAMES, days=(-1, 365))

    def _issue(self, name: str, ca: trustme.CA, names: tuple[str, ...], days: tuple[int, int]) -> Certificate:
        now = datetime.datetime.now(datetime.UTC)
        begin, end = (now + datetime.timedelta(days=offset) for offset in days)
        leaf = ca.issue_cert(*names, not_before=begin, not_after=end)
        chain = self._directory / f"{name}.pem"
        leaf.private_key_and_cert_chain_pem.write_to_path(str(chain))
        chain.chmod(0o600)
        return Certificate(chain)

    def client_context(self) -> ssl.SSLContext:
        """A client-side context that trusts this authority alone, names and dates verified."""
        return ssl.create_default_context(cafile=str(self.pem))
