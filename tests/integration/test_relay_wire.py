"""A relay played octet by octet: answers that trickle in, and plaintext slipped in behind the `220` of STARTTLS."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.servers.agent import Agent
from tests.servers.certificate import Authority
from tests.servers.relay import Relay

HOST = "127.0.0.1"


class Peer:
    """The server's end of one connection. `lines` are the commands, those under TLS with `tls ` before them."""

    def __init__(self, end: socket.socket, lines: list[str]) -> None:
        self.end = end
        self._lines = lines
        self._pending = b""
        self._mark = ""

    def line(self) -> str:
        """The next command; nothing may come behind it, for nothing here offers PIPELINING (RFC 2920 section 3.1)."""
        text = self._until(b"\r\n").decode()
        assert self._pending == b"", self._pending
        self._lines.append(self._mark + text)
        return text

    def data(self) -> bytes:
        """Everything up to the final dot."""
        return self._until(b"\r\n.\r\n")

    def say(self, reply: bytes) -> None:
        self.end.sendall(reply)

    def start_tls(self, context: ssl.SSLContext) -> None:
        self.end = context.wrap_socket(self.end, server_side=True)
        self._mark = "tls "

    def _until(self, end: bytes) -> bytes:
        while end not in self._pending:
            data = self.end.recv(65536)
            if not data:
                raise ConnectionError
            self._pending += data
        found, _, self._pending = self._pending.partition(end)
        return found


@contextlib.contextmanager
def played(play: Callable[[Peer], None]) -> Iterator[tuple[int, list[str]]]:
    """A listener whose connections `play` answers, one at a time; gives its port and the commands that came."""
    lines: list[str] = []
    bugs: list[BaseException] = []
    listener = socket.create_server((HOST, 0))

    def serve() -> None:
        while True:
            try:
                end, _ = listener.accept()
            except OSError:
                return
            end.settimeout(20)
            peer = Peer(end, lines)
            try:
                play(peer)
            except OSError:  # the client has gone
                pass
            except BaseException as bug:  # the test's own, it is raised below
                bugs.append(bug)
            finally:
                peer.end.close()

    thread = threading.Thread(target=serve, name="peer")
    thread.start()
    try:
        yield int(listener.getsockname()[1]), lines
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(30)
    if bugs:
        raise bugs[0]


def take_mail(peer: Peer, say: Callable[[bytes], None], kept: list[bytes], final: Callable[[bytes], None]) -> None:
    """From MAIL to QUIT, any number of transactions."""
    while (command := peer.line()).split(":")[0] != "QUIT":
        if command == "DATA":
            say(b"354 go on\r\n")
            kept.append(peer.data())
            final(b"250 Ok\r\n")
        else:
            say(b"250 Ok\r\n")
    say(b"221 Bye\r\n")


def test_answers_of_one_octet_at_a_time_are_waited_for_and_hold_nobody_else_up(tmp_path: Path, relay: Relay) -> None:
    """The reply to the dot comes at one octet a second, all others faster, so that the test ends."""
    kept: list[bytes] = []
    pause = threading.Event()

    def play(peer: Peer) -> None:
        def trickle(reply: bytes, every: float = 0.02) -> None:
            for octet in reply:
                pause.wait(every)  # never set: it is the pace of this relay
                peer.say(bytes([octet]))

        trickle(b"220-slow\r\n220 ESMTP\r\n")
        peer.line()
        trickle(b"250-slow\r\n250 8BITMIME\r\n")
        take_mail(peer, trickle, kept, lambda reply: trickle(reply, 1.0))

    with played(play) as (port, lines):
        relays: dict[str, Any] = {
            "default": {"host": HOST, "port": port, "security": "none", "connections": 1},
            "fast": {"host": HOST, "port": relay.port, "security": "none"},
        }
        with Agent(tmp_path, port, config={"relays": relays}) as agent:
            agent.start().drop("slow", ["ada@one.example", "bob@one.example"])
            agent.drop("beside", ["eve@two.example"], manifest={"relay": "fast"})
            agent.wait_state("beside", "finished")
            assert (agent.status("slow") or {"counts": {"sent": 0}})["counts"]["sent"] == 0
            assert agent.wait_state("slow", "finished", 30)["counts"]["sent"] == 2
            assert [row["attempts"] for row in agent.recipients("slow")] == ["1", "1"]
            assert agent.stop() == 0
    assert len(kept) == 1
    assert [line.split(":")[0].split()[0] for line in lines] == ["EHLO", "MAIL", "RCPT", "RCPT", "DATA", "QUIT"]


def test_an_answer_injected_in_clear_behind_the_220_of_starttls_is_not_the_answer_to_ehlo_under_tls(
    tmp_path: Path, ca: Authority
) -> None:
    """RFC 3207 section 6. Believed, it would offer what the relay does not, and put every reply one command off."""
    kept: list[bytes] = []
    context = ca.valid.context()

    def play(peer: Peer) -> None:
        peer.say(b"220 relay.example\r\n")
        peer.line()
        peer.say(b"250-relay.example\r\n250 STARTTLS\r\n")
        peer.line()
        peer.say(b"220 Go ahead\r\n250-evil\r\n250-AUTH PLAIN\r\n250-SIZE 1\r\n250 PIPELINING\r\n")
        peer.start_tls(context)
        peer.line()
        peer.say(b"250-relay.example\r\n250 8BITMIME\r\n")
        take_mail(peer, peer.say, kept, peer.say)

    with played(play) as (port, lines):
        given = {"security": "starttls", "ca_file": str(ca.pem), "connections": 1}
        with Agent(tmp_path, port, relay=given) as agent:
            agent.start().drop("job", ["ada@one.example", "bob@one.example"])
            agent.wait_state("job", "finished")
            rows = agent.recipients("job")
            assert agent.stop() == 0
    assert [line.split(":")[0].split(" [")[0] for line in lines if "EHLO" not in line] == [
        "STARTTLS", "tls MAIL FROM", "tls RCPT TO", "tls RCPT TO", "tls DATA", "tls QUIT",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines[:3]] == ["EHLO", "STARTTLS", "tls"]
    assert lines[2].startswith("tls EHLO")
    assert [(row["state"], row["attempts"], row["smtp_code"]) for row in rows] == [("sent", "1", "250")] * 2
    assert len(kept) == 1


def test_plaintext_injected_into_the_tls_handshake_ends_the_connection_and_nothing_is_said(
    tmp_path: Path, ca: Authority
) -> None:
    secret = tmp_path / "smtp-password"
    secret.write_text("phrase-4711\n")
    secret.chmod(0o600)
    heard: list[bytes] = []

    def play(peer: Peer) -> None:
        peer.say(b"220 relay.example\r\n")
        peer.line()
        peer.say(b"250-relay.example\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n")
        peer.line()
        peer.say(b"220 Go ahead\r\n")
        heard.append(peer.end.recv(1))  # the handshake has begun
        peer.say(b"250-evil\r\n250 AUTH PLAIN\r\n")
        while data := peer.end.recv(65536):
            heard.append(data)

    with played(play) as (port, lines):
        given = {
            "security": "starttls", "ca_file": str(ca.pem), "username": "me", "password_file": secret.name, "connections": 1,
        }  # fmt: skip
        with Agent(tmp_path, port, relay=given) as agent:
            agent.start().drop("waits")
            status = agent.wait_state("waits", "waiting")
            assert agent.stop() == 0
    assert status["reason"] == "relay"
    assert "TLS" in status["relay_error"]
    assert status["counts"]["queued"] == 1
    assert {line.split()[0] for line in lines} == {"EHLO", "STARTTLS"}
    assert heard[0] == b"\x16"
    assert not any(word in b"".join(heard) for word in (b"EHLO", b"AUTH", b"MAIL", b"4711"))
