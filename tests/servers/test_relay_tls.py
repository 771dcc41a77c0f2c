"""The scripted relay under TLS, and the logins that it takes."""

import base64
import smtplib
import ssl

import pytest

from tests.servers.certificate import Authority, Certificate
from tests.servers.relay import Relay
from tests.servers.talk import MESSAGE, talk


def test_relay_speaks_starttls_and_checks_the_login(ca: Authority) -> None:
    with Relay(tls=ca.valid.context(), credentials=("me", "pw")) as relay:
        with smtplib.SMTP("127.0.0.1", relay.port) as client:
            client.ehlo()
            assert "auth" not in client.esmtp_features
            client.starttls(context=ca.client_context())
            client.ehlo()
            assert client.mail("a@b.example")[0] == 530
            with pytest.raises(smtplib.SMTPAuthenticationError):
                client.login("me", "wrong")
            client.user, client.password = "me", "pw"
            assert client.auth("LOGIN", client.auth_login)[0] == 235
            client.sendmail("a@b.example", ["c@b.example"], MESSAGE, ["BODY=8BITMIME"])
        assert (relay.accepted[0].tls, relay.accepted[0].user) == (True, "me")
        assert relay.violations == []


@pytest.mark.parametrize("initial", [True, False])
def test_relay_takes_auth_plain_with_and_without_initial_response(relay: Relay, initial: bool) -> None:
    relay.credentials = ("me", "pw")
    secret = base64.b64encode(b"\0me\0pw") + b"\r\n"
    with talk(relay) as client:
        if initial:
            assert client.ask(b"AUTH PLAIN " + secret).startswith(b"235")
        else:
            assert client.ask(b"AUTH PLAIN\r\n") == b"334 \r\n"
            assert client.ask(secret).startswith(b"235")


def test_relay_speaks_implicit_tls(ca: Authority) -> None:
    with Relay(tls=ca.valid.context(), implicit_tls=True) as relay:
        with smtplib.SMTP_SSL("127.0.0.1", relay.port, context=ca.client_context()) as client:
            client.sendmail("a@b.example", ["c@b.example"], MESSAGE, ["BODY=8BITMIME"])
        assert relay.accepted[0].tls


@pytest.mark.parametrize("name", ["expired", "future", "wrong_name", "untrusted"])
@pytest.mark.parametrize("implicit", [True, False])
def test_a_client_that_verifies_refuses_a_wrong_certificate(ca: Authority, name: str, implicit: bool) -> None:
    wrong: Certificate = getattr(ca, name)
    with Relay(tls=wrong.context(), implicit_tls=implicit) as relay:
        if implicit:
            with pytest.raises(ssl.SSLCertVerificationError):
                smtplib.SMTP_SSL("127.0.0.1", relay.port, context=ca.client_context())
        else:
            client = smtplib.SMTP("127.0.0.1", relay.port)
            with pytest.raises(ssl.SSLCertVerificationError):
                client.starttls(context=ca.client_context())
            client.close()
        relay.wait_for(lambda relay: relay.handshake_failures)
        assert relay.accepted == []
