"""Encryption and login with real certificates: what the relay sees, and that the password is seen by nobody else."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.servers.agent import Agent
from tests.servers.certificate import Authority
from tests.servers.postfix import Postfix
from tests.servers.relay import Relay

SECRET = "p\u00e4ss phrase-4711"  # not a common word, and beyond ASCII
LOGIN = ("postman", SECRET)


def settings(security: str, ca: Authority) -> dict[str, Any]:
    return {"security": security, **({} if security == "none" else {"ca_file": str(ca.pem)})}


def password_file(root: Path, secret: str = SECRET) -> str:
    path = root / "smtp-password"
    path.write_text(secret + "\n")
    path.chmod(0o600)
    return path.name


@pytest.mark.parametrize("security", ["none", "starttls", "tls"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", None])
def test_each_kind_of_encryption_with_and_without_login(
    tmp_path: Path, ca: Authority, security: str, mechanism: str | None
) -> None:
    relay = Relay(
        tls=None if security == "none" else ca.valid.context(),
        implicit_tls=security == "tls",
        require_tls=security != "none",
        credentials=LOGIN if mechanism else None,
        mechanisms=(mechanism,) if mechanism else (),
    )
    given = settings(security, ca)
    if mechanism:
        given |= {"username": "postman", "password_file": password_file(tmp_path)}
    with relay, Agent(tmp_path, relay.port, relay=given) as agent:
        agent.start().drop("secret", ["ada@one.example", "bob@one.example"])
        agent.wait_state("secret", "finished")
        assert agent.stop() == 0
    (mail,) = relay.accepted
    assert (mail.tls, mail.user) == (security != "none", "postman" if mechanism else None)
    assert relay.violations == []
    assert relay.handshake_failures == []
    lines = [line.text.split()[0] for line in relay.commands]
    before_tls = lines[: lines.index("STARTTLS")] if "STARTTLS" in lines else []
    assert "AUTH" not in before_tls
    assert "MAIL" not in before_tls


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_postfix_takes_mail_under_tls_with_a_login_from_a_systemd_credential(
    tmp_path: Path, ca: Authority, postfix: Postfix, security: str
) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir(mode=0o700)
    (credentials / "smtp").write_text("secret")  # as systemd has it: no line end
    if security == "starttls":
        postfix.set("smtpd_tls_security_level", "encrypt")
    postfix.set("smtpd_tls_auth_only", "yes")
    postfix.set("smtpd_client_restrictions", "permit_sasl_authenticated, reject")
    given = {**settings(security, ca), "username": "postman", "credential": "smtp"}
    port = postfix.port if security == "starttls" else postfix.smtps_port
    environ = {"CREDENTIALS_DIRECTORY": str(credentials)}
    with Agent(tmp_path, port, relay=given, environ=environ) as agent:
        agent.start().drop("secret", ["ada@one.example"])
        agent.wait_state("secret", "finished")
    (mail,) = postfix.settle()
    assert b"using TLSv1." in mail.added
    assert b"with ESMTPSA" in mail.added
    assert set(postfix.login_attempts()) == {("postman", "secret")}


def test_credential_without_systemd_is_a_fault_of_the_relay_that_names_what_is_missing(
    tmp_path: Path, ca: Authority
) -> None:
    relay = Relay(tls=ca.valid.context(), credentials=LOGIN)
    given = {**settings("starttls", ca), "username": "postman", "credential": "smtp"}
    with relay, Agent(tmp_path, relay.port, relay=given) as agent:
        agent.start().drop("waits")
        status = agent.wait_state("waits", "waiting")
        assert status["reason"] == "relay"
        assert "LoadCredential" in status["relay_error"]
        assert "`credential`" in status["relay_error"]
        assert relay.connections == 0


@pytest.mark.parametrize(
    ("content", "wanted"),
    [(None, "cannot be read: No such file"), (b"", "expected one line"), (b"a\nb\n", "expected one line"), (b"\xff\xfe\n", "not UTF-8")],
    ids=["missing", "empty", "two lines", "binary"],
)  # fmt: skip
def test_password_file_that_is_no_good_makes_jobs_wait_and_is_read_again_when_it_is_right(
    tmp_path: Path, content: bytes | None, wanted: str
) -> None:
    path = tmp_path / "smtp-password"
    if content is not None:
        path.write_bytes(content)
    relay = Relay(credentials=LOGIN)
    given = {"username": "postman", "password_file": "smtp-password"}
    with relay, Agent(tmp_path, relay.port, relay=given) as agent:
        agent.start().drop("waits", ["ada@one.example"])
        status = agent.wait_state("waits", "waiting")
        assert wanted in status["relay_error"]
        assert "smtp-password" in status["relay_error"]
        assert status["counts"]["queued"] == 1
        password_file(tmp_path)
        agent.wait_state("waits", "finished")
        assert [mail.user for mail in relay.accepted] == ["postman"]
        assert [row["attempts"] for row in agent.recipients("waits")] == ["1"]


def test_password_appears_in_no_log_no_report_no_database_and_no_process_title(tmp_path: Path, ca: Authority) -> None:
    # Refused first, then taken: every text that a login can give rise to.
    relay = Relay(tls=ca.valid.context(), credentials=("postman", "another"))
    given = {**settings("starttls", ca), "username": "postman", "password_file": password_file(tmp_path)}
    with relay, Agent(tmp_path, relay.port, relay=given) as agent:
        agent.start().drop("secret", ["ada@one.example"])
        agent.wait_state("secret", "waiting")
        titles = [Path(f"/proc/{agent.pid}/{name}").read_bytes() for name in ("cmdline", "comm", "environ")]
        checked = agent.command("check")
        shown = [agent.command(*words).stdout for words in (("status",), ("status", "secret", "--json"))]
        assert checked.returncode == 1
        assert "refused the login of postman" in checked.stdout + checked.stderr
        relay.credentials = LOGIN
        agent.wait_state("secret", "finished")
        assert agent.command("check").returncode == 0
        assert agent.stop() == 0
        everything = [
            path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "smtp-password"
        ]
    assert len(everything) > 10
    texts = [*titles, *everything, *(text.encode() for text in [checked.stdout, checked.stderr, *shown])]
    for secret in (SECRET, "phrase-4711", json.dumps(SECRET)[1:-1]):
        assert not any(secret.encode() in text for text in texts)


def test_ca_file_adds_to_the_systems_authorities_and_does_not_replace_them(tmp_path: Path, ca: Authority) -> None:
    # The system's authorities here are the tests' own; the configuration adds one that signed nothing.
    private = tmp_path / "private.pem"
    trustme.CA().cert_pem.write_to_path(str(private))
    relay = Relay(tls=ca.valid.context())
    given = {"security": "starttls", "ca_file": "private.pem"}
    with relay, Agent(tmp_path, relay.port, relay=given, environ={"SSL_CERT_FILE": str(ca.pem)}) as agent:
        agent.start().drop("public")
        agent.wait_state("public", "finished")
        assert [mail.tls for mail in relay.accepted] == [True]


def test_without_ca_file_a_private_authority_is_not_trusted_and_nothing_is_said_in_clear(
    tmp_path: Path, ca: Authority
) -> None:
    relay = Relay(tls=ca.valid.context(), credentials=LOGIN)
    given = {"security": "starttls", "username": "postman", "password_file": password_file(tmp_path)}
    with relay, Agent(tmp_path, relay.port, relay=given) as agent:
        agent.start().drop("waits")
        status = agent.wait_state("waits", "waiting")
        assert "certificate is not trusted" in status["relay_error"]
        assert "`ca_file`" in status["relay_error"]
    assert {line.text.split()[0] for line in relay.commands} <= {"EHLO", "STARTTLS"}


def test_a_stripped_starttls_does_not_get_the_password(tmp_path: Path, ca: Authority) -> None:
    relay = Relay(credentials=LOGIN)  # offers AUTH in clear, and no STARTTLS, as behind a meddling middlebox
    given = {**settings("starttls", ca), "username": "postman", "password_file": password_file(tmp_path)}
    with relay, Agent(tmp_path, relay.port, relay=given) as agent:
        agent.start().drop("waits")
        status = agent.wait_state("waits", "waiting")
        assert "STARTTLS" in status["relay_error"]
    assert {line.text.split()[0] for line in relay.commands} <= {"EHLO", "QUIT"}


def test_a_relay_under_tls_that_drops_the_connection_is_used_again_at_once(tmp_path: Path, ca: Authority) -> None:
    relay = Relay(tls=ca.valid.context(), implicit_tls=True)
    given = {**settings("tls", ca), "connections": 1}
    with relay, Agent(tmp_path, relay.port, relay=given) as agent:
        agent.start().drop("first", ["ada@one.example"])
        agent.wait_state("first", "finished")
        relay.stop()
        relay.start()
        agent.drop("second", ["bob@one.example"])
        agent.wait_state("second", "finished")
        assert [row["attempts"] for row in agent.recipients("second")] == ["1"]
        assert relay.recipients == ["ada@one.example", "bob@one.example"]
        assert agent.events("relay.down") == []
        assert not os.path.exists(agent.spool / "deferred" / "second")
