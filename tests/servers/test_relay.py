"""The scripted relay: what it keeps, when it says so, what it notes, and how it stops and comes back."""

import asyncio
import smtplib
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.servers.relay import Hang, Relay, Rule, read_journal
from tests.servers.talk import MESSAGE, Talk, deliver, talk


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
