"""The servers themselves: what other tests rely on when they ask for one."""

import asyncio
import base64
import contextlib
import os
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.certificate import Authority, Certificate
from tests.servers.postfix import Postfix, Tls
from tests.servers.process import descendants, wait_until
from tests.servers.relay import (
    Action,
    Delay,
    Drop,
    DropAfterAccept,
    DropBeforeAccept,
    Event,
    Garbage,
    Hang,
    Relay,
    Reply,
    RstMidBody,
    Rule,
    read_journal,
)
from tests.servers.sshd import Sshd

MESSAGE = b"Subject: x\r\nBcc: z@z.example\r\n\r\n.one\r\n..two\r\n.\r\n\xc3\xa4 end\r\n"


class Talk:
    """A client that sends exactly what it is told."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.file = self.socket.makefile("rb")

    def say(self, data: bytes) -> None:
        self.socket.sendall(data)

    def hear(self) -> bytes:
        """One reply, all its lines; b"" at the end of the connection."""
        lines = [self.file.readline()]
        while lines[-1][3:4] == b"-":
            lines.append(self.file.readline())
        return b"".join(lines)

    def ask(self, data: bytes) -> bytes:
        self.say(data)
        return self.hear()

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@contextlib.contextmanager
def talk(relay: Relay, *, hello: bool = True) -> Iterator[Talk]:
    client = Talk(relay.port)
    try:
        if hello:
            assert client.hear().startswith(b"220 ")
            assert client.ask(b"EHLO client.example\r\n").startswith(b"250-")
        yield client
    finally:
        client.close()


def deliver(client: Talk, *recipients: str, body: bytes = b"x: y\r\n\r\nz\r\n.\r\n") -> bytes:
    """Send a message, one pipelined group and the body; returns the reply to the dot, b"" for none."""
    group = [b"MAIL FROM:<a@sender.example>\r\n"]
    group += [f"RCPT TO:<{recipient}>\r\n".encode() for recipient in recipients]
    client.say(b"".join([*group, b"DATA\r\n"]))
    replies = [client.hear() for _ in range(len(group) + 1)]
    assert replies[-1].startswith(b"354"), replies
    client.say(body)
    try:
        return client.hear()
    except ConnectionResetError:
        return b"RST"


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


@pytest.fixture
def job(tmp_path: Path) -> Path:
    folder = tmp_path / "job"
    (folder / "messages").mkdir(parents=True)
    (folder / "job.yaml").write_text("sender: a@b.example\n")
    (folder / "messages" / "1.eml").write_bytes(MESSAGE)
    return folder


def test_rsync_and_scp_upload_through_sshd(sshd: Sshd, job: Path, tmp_path: Path) -> None:
    for result in (sshd.rsync(job, tmp_path / "by-rsync"), sshd.scp(job, tmp_path / "by-scp")):
        assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "by-rsync" / "job" / "messages" / "1.eml").read_bytes() == MESSAGE
    assert (tmp_path / "by-scp" / "messages" / "1.eml").read_bytes() == MESSAGE


def test_ssh_runs_commands(sshd: Sshd, tmp_path: Path) -> None:
    assert sshd.run(f"cat > {tmp_path}/READY; exit 3", stdin="x").returncode == 3
    assert (tmp_path / "READY").read_text() == "x"


def test_an_rsync_can_be_cut_in_the_middle(sshd: Sshd, job: Path, tmp_path: Path) -> None:
    (job / "messages" / "2.eml").write_bytes(b"x" * 3_000_000)
    target = tmp_path / "new"
    with sshd.popen_rsync(job, target, "-a", "--bwlimit=200") as rsync:
        wait_until(lambda: list(target.glob("job/messages/.2.eml.*")) != [], 10, "rsync's temporary file")
        rsync.kill()
    assert rsync.returncode == -signal.SIGKILL
    assert not (target / "job" / "messages" / "2.eml").exists()
    assert (target / "job" / "job.yaml").exists()


def test_a_failed_upload_is_a_return_code(sshd: Sshd, tmp_path: Path) -> None:
    assert sshd.rsync(tmp_path / "missing", tmp_path / "x").returncode == 23


def test_relay_keeps_what_it_accepted_byte_for_byte(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with Relay(journal=journal) as relay:
        with smtplib.SMTP("127.0.0.1", relay.port) as client:
            client.sendmail("a@b.example", ["c@b.example", "d@b.example"], MESSAGE, ["BODY=8BITMIME"])
        (message,) = relay.accepted
        assert message.data == MESSAGE
        assert message.recipients == ("c@b.example", "d@b.example")
        assert message.mail_from == "a@b.example"
        assert "BODY=8BITMIME" in message.mail_params
        assert relay.violations == []
        assert [line.text.split()[0].upper() for line in relay.commands] == [
            "EHLO",
            "MAIL",
            "RCPT",
            "RCPT",
            "DATA",
            "QUIT",
        ]
    assert read_journal(journal) == [message]


def test_relay_writes_the_journal_before_it_says_so(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with Relay(journal=journal, rules=[Rule("DOT", Hang(accept=True))]) as relay, talk(relay) as client:
        thread = threading.Thread(target=deliver, args=(client, "c@b.example"))
        thread.start()
        relay.wait_for(lambda relay: relay.accepted)
        assert len(read_journal(journal)) == 1
        relay.release()
        thread.join()
    assert len(read_journal(journal)) == 1


def test_a_pipelined_group_pays_one_latency() -> None:
    with Relay(latency=0.05) as relay, talk(relay) as client:
        begin = time.monotonic()
        reply = deliver(client, *(f"{number}@b.example" for number in range(50)))
        elapsed = time.monotonic() - begin
        assert reply.startswith(b"250 2.0.0")
        assert 0.1 <= elapsed < 1
        assert relay.violations == []


@pytest.mark.parametrize(
    ("action", "heard", "kept"),
    [
        (Reply("451 4.3.0 busy"), b"451 4.3.0 busy\r\n", 0),
        (Reply("250-two\n250 lines"), b"250-two\r\n250 lines\r\n", 1),
        (Reply("421 4.3.2 bye"), b"421 4.3.2 bye\r\n", 0),
        (Drop(), b"", 0),
        (DropBeforeAccept(), b"", 0),
        (DropAfterAccept(), b"", 1),
        (DropAfterAccept(reset=True), b"RST", 1),
        (Garbage(b"\xff\x00?\r\n"), b"\xff\x00?\r\n", 0),
        (Garbage(b"25", accept=True), b"25", 1),
        (Delay(0.01), b"250 2.0.0 Ok: queued as 1\r\n", 1),
    ],
)
def test_faults_at_the_dot(relay: Relay, action: Action, heard: bytes, kept: int) -> None:
    relay.rules.append(Rule("DOT", action))
    with talk(relay) as client:
        if heard == b"25":
            client.socket.settimeout(0.2)
            with pytest.raises(TimeoutError):
                deliver(client, "c@b.example")
        else:
            assert deliver(client, "c@b.example") == heard
    assert len(relay.accepted) == kept


def test_a_rule_acts_on_the_nth_match_only(relay: Relay) -> None:
    relay.rules.append(Rule("RCPT", Reply("450 4.2.1 not now"), match="^bad@", nth=2, times=1))
    with talk(relay) as client:
        client.ask(b"MAIL FROM:<>\r\n")
        names = ["bad", "good", "bad", "good", "bad"]
        replies = [client.ask(f"RCPT TO:<{name}@b.example>\r\n".encode())[:3] for name in names]
    assert replies == [b"250", b"250", b"450", b"250", b"250"]


def test_a_hook_decides_and_is_told_what_happens(relay: Relay) -> None:
    seen: list[Event] = []

    def hook(event: Event) -> Action | None:
        seen.append(event)
        return Reply("451 4.0.0 hooked") if event.occurrence == 2 else None

    relay.rules.append(Rule("MAIL", hook))
    with talk(relay) as client:
        assert client.ask(b"MAIL FROM:<a@b.example>\r\n").startswith(b"250")
        client.ask(b"RSET\r\n")
        assert client.ask(b"MAIL FROM:<a@b.example>\r\n") == b"451 4.0.0 hooked\r\n"
    assert [(event.argument, event.connection, event.occurrence) for event in seen] == [
        ("a@b.example", 1, 1),
        ("a@b.example", 1, 2),
    ]


def test_a_reset_in_the_middle_of_a_body(relay: Relay) -> None:
    relay.rules.append(Rule("BODY", RstMidBody(after=1000)))
    with talk(relay) as client:
        client.ask(b"MAIL FROM:<>\r\n")
        client.ask(b"RCPT TO:<c@b.example>\r\n")
        client.ask(b"DATA\r\n")
        client.say(b"x" * 999)
        client.say(b"x")
        with pytest.raises(ConnectionResetError):
            client.hear()
    assert relay.accepted == []


def test_a_relay_that_hangs_at_body_fills_up(relay: Relay) -> None:
    relay.rules.append(Rule("BODY", Hang(), times=1))
    with talk(relay) as client:
        client.ask(b"MAIL FROM:<>\r\n")
        client.ask(b"RCPT TO:<c@b.example>\r\n")
        client.ask(b"DATA\r\n")
        sent = 0
        client.socket.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            while sent < 100_000_000:
                sent += client.socket.send(b"x" * 62 + b"\r\n")
        assert sent < 100_000_000
        relay.release()
        client.socket.settimeout(10)
        client.say(b"\r\n.\r\n")
        assert client.hear().startswith(b"250")
    assert len(relay.accepted[0].data) >= sent


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("connect", b""),
        ("EHLO", b"EHLO x\r\n"),
        ("MAIL", b"MAIL FROM:<>\r\n"),
        ("RCPT", b"RCPT TO:<a@b.example>\r\n"),
        ("DATA", b"DATA\r\n"),
        ("RSET", b"RSET\r\n"),
        ("QUIT", b"QUIT\r\n"),
        ("STARTTLS", b"STARTTLS\r\n"),
        ("AUTH", b"AUTH PLAIN\r\n"),
    ],
)
def test_every_command_can_be_refused_dropped_and_left_hanging(relay: Relay, place: str, line: bytes) -> None:
    relay.rules += [
        Rule(place, Reply("421 4.3.2 no"), nth=1, times=1),
        Rule(place, Drop(), nth=2, times=1),
        Rule(place, Hang(), nth=3, times=1),
    ]
    for expected in (b"421 4.3.2 no\r\n", b""):
        with talk(relay, hello=False) as client:
            if line:
                client.hear()
                client.say(line)
            assert client.hear() == expected
            if expected:
                assert client.hear() == b""
    with talk(relay, hello=False) as client:
        if line:
            client.hear()
            client.say(line)
        relay.wait_for(lambda relay: relay.rules[2].seen == 3)
        client.socket.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.hear()


def test_max_recipients(relay: Relay) -> None:
    relay.max_recipients = 2
    with talk(relay) as client:
        client.ask(b"MAIL FROM:<>\r\n")
        replies = [client.ask(f"RCPT TO:<{number}@b.example>\r\n".encode()) for number in range(3)]
    assert replies[1:] == [b"250 2.1.5 Ok\r\n", b"452 4.5.3 Too many recipients\r\n"]


def test_a_stopped_relay_refuses_and_comes_back_on_its_port(relay: Relay) -> None:
    with talk(relay) as client:
        relay.stop()
        assert client.hear() == b""
    with pytest.raises(ConnectionRefusedError):
        Talk(relay.port)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", relay.port))
    relay.start()
    with talk(relay) as client:
        assert deliver(client, "c@b.example").startswith(b"250")
    assert relay.connections == 2


def test_a_stop_with_reset(relay: Relay) -> None:
    with talk(relay) as client:
        relay.stop(reset=True)
        with pytest.raises(ConnectionResetError):
            client.hear()


def test_a_paused_relay_lets_clients_wait(relay: Relay) -> None:
    relay.pause()
    client = Talk(relay.port)
    try:
        client.socket.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        client.socket.settimeout(10)
        relay.resume()
        assert client.socket.recv(3) == b"220"
    finally:
        client.close()


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


def test_relay_notes_what_a_client_must_not_do(relay: Relay) -> None:
    relay.extensions = ("SIZE 100",)
    with talk(relay) as client:
        client.say(b"MAIL FROM: <a@b.example>\r\nRCPT TO:<c@b.example>\r\n")
        assert client.hear() == b"250 Ok\r\n"
        assert client.hear() == b"250 Ok\r\n"
        client.ask(b"DATA\r\n")
        assert client.ask(b"a\nb\r\n.\r\n").startswith(b"250")
        assert client.ask(b"MAIL FROM:<> BODY=8BITMIME\r\n").startswith(b"555")
        assert client.ask(b"MAIL FROM:<> SIZE=101\r\n").startswith(b"552")
    assert relay.violations == [
        "connection 1: more input behind MAIL, but PIPELINING is not offered",
        "connection 1: MAIL with a space before the path",
        "connection 1: a bare CR or LF in message data",
        "connection 1: MAIL parameter BODY=8BITMIME, which is not offered",
    ]


async def test_a_relay_can_be_used_from_a_test_with_a_loop(relay: Relay) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    assert (await reader.readline()).startswith(b"220")
    writer.write(b"NOOP\r\n")
    await asyncio.to_thread(relay.wait_for, lambda relay: relay.commands)
    writer.close()
    await writer.wait_closed()


def test_a_bug_in_a_hook_is_not_lost() -> None:
    def hook(event: Event) -> None:
        raise ZeroDivisionError

    relay = Relay(rules=[Rule("MAIL", hook)])
    relay.start()
    with talk(relay) as client:
        assert client.ask(b"MAIL FROM:<>\r\n") == b""
    with pytest.raises(ZeroDivisionError):
        relay.close()


def test_relay_runs_as_a_program_and_its_journal_survives_a_kill(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    command = [sys.executable, "-m", "tests.servers.relay", "--journal", str(journal)]
    command += ["--reply", "RCPT", "^bad@", "550 5.1.1 no"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with smtplib.SMTP("127.0.0.1", port) as client:
            refused = client.sendmail("a@b.example", ["bad@b.example", "c@b.example"], b"x: y\r\n\r\nz\r\n")
        assert refused == {"bad@b.example": (550, b"5.1.1 no")}
        process.kill()
    assert [message.recipients for message in read_journal(journal)] == [("c@b.example",)]
