"""What other tests rely on when they ask for a Postfix."""

import os
import smtplib

import pytest

from tests.servers.certificate import Authority
from tests.servers.postfix import Postfix, Tls
from tests.servers.process import descendants
from tests.servers.talk import MESSAGE


def test_postfix_delivers_the_bytes_that_were_sent(postfix: Postfix) -> None:
    with smtplib.SMTP(postfix.host, postfix.port) as client:
        client.sendmail(
            "a@sender.example", ["Ada@a.example", "bob@example.org"], MESSAGE, mail_options=["BODY=8BITMIME"]
        )
    mail = postfix.wait_for(2)
    assert {copy.recipient for copy in mail} == {"Ada@a.example", "bob@example.org"}
    assert {copy.sender for copy in mail} == {"a@sender.example"}
    assert {copy.data for copy in mail} == {MESSAGE.replace(b"\r\n", b"\n")}


def test_postfix_offers_what_a_modern_relay_offers(postfix: Postfix) -> None:
    with smtplib.SMTP(postfix.host, postfix.port) as client:
        client.ehlo()
        offered = set(client.esmtp_features)
    assert offered >= {"pipelining", "8bitmime", "smtputf8", "size", "dsn", "starttls", "auth"}


def test_postfix_takes_utf8_addresses(postfix: Postfix) -> None:
    with smtplib.SMTP(postfix.host, postfix.port) as client:
        client.sendmail("a@b.example", ["jürgen@b.example"], MESSAGE, ["SMTPUTF8", "BODY=8BITMIME"])
    assert [copy.recipient for copy in postfix.wait_for(1)] == ["jürgen@b.example"]


def test_postfix_is_empty_and_as_given_after_reset(postfix: Postfix) -> None:
    postfix.answer("bad@b.example", "550 5.1.1 no such user")
    postfix.set("smtpd_recipient_limit", "1")
    with smtplib.SMTP(postfix.host, postfix.port) as client:
        client.sendmail("a@b.example", ["c@b.example"], MESSAGE)
    postfix.reset()
    assert postfix.received_mail() == []
    with smtplib.SMTP(postfix.host, postfix.port) as client:
        assert client.sendmail("a@b.example", ["bad@b.example", "c@b.example"], MESSAGE) == {}
    assert len(postfix.settle()) == 2


def test_postfix_answers_at_rcpt_as_told(postfix: Postfix) -> None:
    postfix.answer("full@b.example", "450 4.2.0 come back later")
    postfix.answer("gone.example", "550 5.1.2 no such domain")
    postfix.set("smtpd_recipient_limit", "2")
    with smtplib.SMTP(postfix.host, postfix.port) as client:
        client.ehlo()
        client.mail("a@b.example")
        code, text = client.rcpt("full@b.example")
        assert (code, text.startswith(b"4.2.0"), text.endswith(b"come back later")) == (450, True, True)
        assert client.rcpt("x@gone.example")[0] == 550
        assert client.rcpt("x@elsewhere.invalid")[0] == 554
        assert [client.rcpt(f"{number}@b.example")[0] for number in range(3)] == [250, 250, 452]


def test_postfix_refuses_a_message_over_its_limit(ca: Authority) -> None:
    with Postfix(message_size_limit=1000) as postfix, smtplib.SMTP(postfix.host, postfix.port) as client:
        client.ehlo()
        assert client.mail("a@b.example", ["SIZE=2000"])[0] == 552


def test_postfix_checks_passwords_under_tls(postfix: Postfix, ca: Authority) -> None:
    context = ca.client_context()
    with smtplib.SMTP("127.0.0.1", postfix.port) as client:
        client.starttls(context=context)
        assert client.login("postman", "secret")[0] == 235
    with (
        smtplib.SMTP_SSL("127.0.0.1", postfix.smtps_port, context=context) as client,
        pytest.raises(smtplib.SMTPAuthenticationError),
    ):
        client.login("postman", "wrong")
    assert postfix.login_attempts()[0] == ("postman", "secret")


def test_postfix_can_require_tls_and_a_login(ca: Authority) -> None:
    with (
        Postfix(certificate=ca.valid, tls=Tls.REQUIRED, login=("me", "pw"), login_required=True) as postfix,
        smtplib.SMTP("127.0.0.1", postfix.port) as client,
    ):
        client.ehlo()
        assert client.mail("a@b.example")[0] == 530
        client.starttls(context=ca.client_context())
        client.ehlo()
        assert client.mail("a@b.example")[0] == 250
        assert client.rcpt("c@b.example")[0] == 554
        client.rset()
        client.login("me", "pw")
        assert client.sendmail("a@b.example", ["c@b.example"], MESSAGE) == {}
        postfix.wait_for(1)


def test_two_postfixes_run_side_by_side_and_leave_nothing() -> None:
    before = set(descendants(os.getpid()))
    with Postfix() as one, Postfix() as two:
        for number, server in enumerate((one, two)):
            with smtplib.SMTP(server.host, server.port) as client:
                client.sendmail("a@b.example", [f"{number}@b.example"], MESSAGE)
        assert [copy.recipient for copy in one.wait_for(1)] == ["0@b.example"]
        assert [copy.recipient for copy in two.wait_for(1)] == ["1@b.example"]
    assert set(descendants(os.getpid())) <= before
