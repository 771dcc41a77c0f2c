"""A certificate that names its host in the subject's CN alone is nobody's (RFC 9525 §6.3): refused and told."""

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.servers.agent import Agent
from tests.servers.relay import Relay

WANTED = "Expected the name localhost, as the relay is called here, in its subjectAltName; a CN does not count"


def certificate(folder: Path, common_name: str, *also: str) -> Path:
    """Key and self-signed certificate in one file, for this CN and, in subjectAltName, these names."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if also:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(each) for each in also]), critical=False
        )
    pem = folder / "relay.pem"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    return pem


@pytest.mark.parametrize("security", ["starttls", "tls"])
@pytest.mark.parametrize(("also", "good"), [((), False), (("elsewhere.example",), False), (("localhost",), True)])
def test_name_in_the_common_name_alone_is_refused_and_told(
    tmp_path: Path, security: str, also: tuple[str, ...], good: bool
) -> None:
    pem = certificate(tmp_path, "localhost", *also)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    relay = Relay(tls=context, implicit_tls=security == "tls")
    given = {"host": "localhost", "security": security, "ca_file": str(pem)}
    with relay, Agent(tmp_path, relay.port, relay=given) as agent:
        agent.start().drop("secret", ["ada@one.example"])
        checked = agent.command("check")
        if good:
            agent.wait_state("secret", "finished")
            assert checked.returncode == 0, checked.stderr
        else:
            status = agent.wait_state("secret", "waiting")
            assert status["reason"] == "relay"
            assert WANTED in status["relay_error"]
            assert checked.returncode == 1
            assert WANTED in checked.stderr
            assert relay.accepted == []
