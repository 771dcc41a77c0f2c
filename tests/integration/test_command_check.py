"""`spoold check` as a process: what is good, what a relay refuses, and everything that is wrong with several."""

from pathlib import Path

from tests.servers.agent import Agent
from tests.servers.certificate import Authority
from tests.servers.process import free_port
from tests.servers.relay import Relay, Reply, Rule


def test_check_of_what_is_good_sends_a_message_on_request(agent: Agent, relay: Relay) -> None:
    done = agent.command("check")
    assert (done.returncode, done.stderr) == (0, "")
    assert relay.accepted == []
    assert done.stdout.splitlines()[-1] == f"ok       relay default at 127.0.0.1:{relay.port}, security none"
    agent.start()
    sent = agent.command("check", "--send-to", "postmaster@one.example")
    assert (sent.returncode, sent.stderr) == (0, "")
    assert "an agent runs on it" in sent.stdout
    [mail] = relay.accepted
    assert mail.recipients == ("postmaster@one.example",)
    assert mail.mail_from == "postmaster@one.example"
    for field in (b"From: ", b"To: ", b"Date: ", b"Message-ID: <", b"Subject: spoold check"):
        assert b"\r\n" + field in b"\r\n" + mail.data
    assert relay.violations == []


def test_check_of_a_refused_test_message_fails_with_the_reply(agent: Agent, relay: Relay) -> None:
    relay.rules.append(Rule("RCPT", Reply("550 5.7.1 Relaying denied")))
    done = agent.command("check", "--send-to", "ada@one.example")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("error    relay default: message to ada@one.example: ")
    assert "550 5.7.1 Relaying denied" in line


def test_check_names_everything_that_is_wrong_with_several_relays(
    agent: Agent, relay: Relay, ca: Authority, tmp_path: Path
) -> None:
    with Relay(tls=ca.valid.context(), credentials=("me", "secret")) as secure:
        (tmp_path / "right").write_text("secret\n")
        (tmp_path / "wrong").write_text("guess\n")
        for path in (tmp_path / "right", tmp_path / "wrong"):
            path.chmod(0o600)
        login = {
            "host": "127.0.0.1", "port": secure.port, "security": "starttls", "username": "me", "ca_file": str(ca.pem),
        }  # fmt: skip
        down = free_port()
        agent.configure(
            relay.port,
            config={
                "relays": {
                    "good": {**login, "password_file": "right"},
                    "badlogin": {**login, "password_file": "wrong"},
                    "nopassword": {**login, "password_file": "missing"},
                    "untrusted": {"host": "127.0.0.1", "port": secure.port, "security": "starttls"},
                    "down": {"host": "127.0.0.1", "port": down, "security": "none"},
                }
            },
        )
        done = agent.command("check")
    assert done.returncode == 1
    assert f"relay good at 127.0.0.1:{secure.port}, security starttls, logged in as me" in done.stdout
    errors = dict(line.removeprefix("error    relay ").split(": ", 1) for line in done.stderr.splitlines())
    assert list(errors) == ["badlogin", "nopassword", "untrusted", "down"]
    assert "535" in errors["badlogin"]
    assert str(tmp_path / "missing") in errors["nopassword"]
    assert "certificate" in errors["untrusted"]
    assert str(down) in errors["down"]
    for text in errors.values():
        assert "to do: " in text
    assert "secret" not in done.stdout + done.stderr
    assert "guess" not in done.stdout + done.stderr
