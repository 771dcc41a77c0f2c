"""The agent's session against the servers that people run, in clear and encrypted: what each of them kept is what was
sent, to each recipient once, and none of them saw anything against the protocol.

Postfix is as strict here as it can be made (`smtpd_forbid_unauth_pipelining`), Exim as it is installed
(`smtp_enforce_sync`).
"""

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.servers.agent import Agent
from tests.servers.certificate import Authority
from tests.servers.exim import Exim
from tests.servers.library import Library
from tests.servers.mailbox import Delivered
from tests.servers.opensmtpd import OpenSmtpd
from tests.servers.pipeline import Pipeline, group
from tests.servers.postfix import Postfix
from tests.servers.sink import Sink

#: In a log: the client did, or the server suffered, something that an orderly session knows nothing of.
TROUBLE = re.compile(
    r"synchroni|pipelining (?:not|after|violation)|improper|bad-input|io-error|syntax|protocol error|unexpected|lost|"
    r"aborted|abandoned|incomplete|timeout|warning|warn:|panic|fatal|too many|Error|reason=(?!quit)",
    re.IGNORECASE,
)
#: Seconds: far more than it takes, for machines with much else to do.
WAIT = 60
pytestmark = pytest.mark.timeout(120)

ENCRYPTED = {"Postfix": "none starttls tls", "Exim": "none starttls tls", "aiosmtpd": "none starttls tls"}
WAYS = [(name, way) for name, ways in ENCRYPTED.items() for way in ways.split()]
WAYS += [("OpenSMTPD", "none"), ("smtp-sink", "none")]
#: Those that offer PIPELINING.
PIPELINING = [(name, way) for name, way in WAYS if name in ("Postfix", "Exim", "smtp-sink")]


class Server(Protocol):
    """What the servers have in common."""

    port: int

    def settle(self, timeout: float = 20) -> list[Delivered]: ...
    def log(self) -> str: ...
    def reset(self) -> None: ...


#: How each is started. Postfix is one of this module's own: other tests end their connections rudely, and its log would
#: tell of that.
STARTS: dict[str, Callable[[Authority], contextlib.AbstractContextManager[Server]]] = {
    "Postfix": lambda ca: Postfix(certificate=ca.valid),
    "Exim": lambda ca: Exim(certificate=ca.valid),
    "OpenSMTPD": lambda _: OpenSmtpd(),
    "aiosmtpd": lambda ca: Library(certificate=ca.valid),
    "smtp-sink": lambda _: Sink(),
}


@pytest.fixture(scope="module")
def running(ca: Authority) -> Iterator[Callable[[str], Server]]:
    """Gives the server of a name, as after its start. Each is started when first asked for, once for this module."""
    with contextlib.ExitStack() as stack:
        started: dict[str, Server] = {}

        def find(name: str) -> Server:
            if name not in started:
                started[name] = stack.enter_context(STARTS[name](ca))
            started[name].reset()
            return started[name]

        yield find


@pytest.fixture
def server(name: str, running: Callable[[str], Server]) -> Server:
    """The server of this name; Postfix as strict as can be, and with recipients that it refuses."""
    found = running(name)
    if isinstance(found, Postfix):
        found.set("smtpd_forbid_unauth_pipelining", "yes")
        found.set("smtpd_data_restrictions", "reject_unauth_pipelining")
        found.answer("gone@", "550 5.1.1 no such user")
        found.answer("full@", "452 4.2.2 mailbox full")
    return found


def port(server: Server, way: str) -> int:
    """Where this way of encryption is offered."""
    return int(getattr(server, "smtps_port")) if way == "tls" else server.port  # noqa: B009 - not all servers have it


def trouble(log: str) -> list[str]:
    """The lines of a server's log that should not be there."""
    return [line for line in log.splitlines() if TROUBLE.search(line)]


def message(number: int) -> bytes:
    """Dots at the start of lines, 8-bit content, text that looks like an mbox; every number is another message."""
    head = (
        f"Date: Tue, 24 Nov 2026 10:00:00 +0000\nMessage-ID: <{number}.interop@example.com>\n"
        f"From: <news@example.com>\nTo: <user{number}@one.example>\nSubject: Number {number}\n"
    )
    if number % 4 == 1:
        kind = "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n"
        text = f"\nGr\u00fc\u00dfe an Nummer {number}: \u20ac \u2603\n"
    elif number % 4 == 2:
        kind, text = "", f"\n.\n..\n.{number}\n...\n. \n\n.\n"
    elif number % 4 == 3:
        kind, text = "", f"\nFrom here to {number}\n>From there\n\n" + f"{'x' * 997}\n" * (number % 40) + "QUIT\n"
    else:
        kind, text = "", f"\nnumber {number}\n"
    return (head + kind + text).encode()


#: 1 MB, with a dot at the start of every fourth line.
BIG = message(100) + b"".join(
    b".%07d " % line * 6 + b"\n" if line % 4 == 0 else b"%07d " % line * 9 + b"\n" for line in range(14_500)
)


def is_there(row: dict[str, str], state: str, code: str, status: str | None = None) -> bool:
    return (row["state"], row["smtp_code"], row["attempts"]) == (state, code, "1") and (
        status is None or row["dsn_status"] == status
    )


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_every_server_keeps_what_was_sent_byte_for_byte_and_sees_an_orderly_session(
    tmp_path: Path, ca: Authority, server: Server, name: str, way: str
) -> None:
    refusing = name != "smtp-sink"
    before = len(server.log())
    # Refused and put off in the middle of one transaction, and each in a transaction of its own.
    shared = [f"reader{number}@one.example" for number in range(300)]
    if refusing:
        for number in range(10):
            shared.insert(number * 31 + 5, f"gone@d{number}.example")
            shared.insert(number * 29 + 11, f"full@d{number}.example")
    personal = [f"user{number}@one.example" for number in range(200)]
    files = {f"messages/{number}.eml": message(number) for number in range(200)}
    files["messages/100.eml"] = BIG
    if refusing:
        # Not one behind the other: see the test of a list of bad addresses.
        for number in range(10):
            personal[number * 10 + 5] = f"gone@p{number}.example"
            personal[number * 10 + 105] = f"full@p{number}.example"
    rows = "address,message\n" + "".join(f"{to},messages/{number}.eml\n" for number, to in enumerate(personal))
    relay: dict[str, Any] = {"connections": 4, "recipients_per_message": 50, "security": way}
    if way != "none":
        relay["ca_file"] = str(ca.pem)
    with Agent(tmp_path, port(server, way), relay=relay) as agent:
        agent.start()
        agent.drop("personal", rows, message=None, files=files)
        agent.drop("shared", shared, message=message(301))
        state = "waiting" if refusing else "finished"
        for job, total in (("personal", 180 if refusing else 200), ("shared", 300)):
            counts = agent.wait_state(job, state, timeout=WAIT)["counts"]
            lost = 10 if refusing else 0
            assert (counts["sent"], counts["failed"], counts["deferred"]) == (total, lost, lost), counts
            assert counts["uncertain"] == 0
        for row in agent.recipients("personal") + agent.recipients("shared"):
            if row["address"].startswith("gone"):
                assert is_there(row, "failed", "550", "5.1.1"), row
            elif row["address"].startswith("full"):
                assert is_there(row, "deferred", "452", "4.2.2"), row
            else:
                assert is_there(row, "sent", "250"), row
        assert agent.stop() == 0
        assert agent.events("relay.down") == agent.events("message.uncertain") == []
        assert agent.events("agent.task_failed") == []
    kept = server.settle(WAIT)
    expected = {to: files[f"messages/{number}.eml"] for number, to in enumerate(personal)}
    expected |= dict.fromkeys(shared, message(301))
    taken = [to for to in expected if not to.startswith(("gone", "full"))]
    assert Counter(mail.recipient for mail in kept) == Counter(taken)
    for mail in kept:
        assert mail.sender == "news@example.com"
        assert mail.data == expected[mail.recipient], mail.recipient
        assert (b"esmtps" in mail.added.lower()) == (way != "none"), mail.added
    assert trouble(server.log()[before:]) == []


@pytest.mark.parametrize(("name", "way"), PIPELINING)
def test_the_next_transaction_may_stand_right_behind_the_final_dot(
    ca: Authority, server: Server, name: str, way: str
) -> None:
    before = len(server.log())
    gone = [] if name == "smtp-sink" else ["gone@one.example"]
    bodies = [message(number) for number in range(40)] + [BIG, message(41)]
    context = None if way == "none" else ca.client_context()
    with Pipeline(port(server, way), context=context, implicit=way == "tls") as client:
        assert "PIPELINING" in client.extensions
        client.write(group(["user0@one.example", *gone]))
        assert client.codes(3 + len(gone)) == ["250", "250", *["550" for _ in gone], "354"]
        for number, body in enumerate(bodies):
            wire = re.sub(rb"(?m)^\.", b"..", body).replace(b"\n", b"\r\n") + b".\r\n"
            if number == len(bodies) - 1:
                # Here every recipient is refused, and QUIT ends that: the server must still keep in step.
                client.write(wire + (group(gone) if gone else b"") + b"QUIT\r\n" * (not gone))
                break
            follows = group([f"user{number + 1}@one.example", *gone])
            if number % 2:
                client.write(wire + follows)
            else:  # the same in several packets, which meet the server while it deals with the message
                client.write(wire)
                client.write(follows)
            assert client.codes(4 + len(gone)) == ["250", "250", "250", *["550" for _ in gone], "354"], number
        assert client.codes(1) == ["250"]
        if gone:
            codes = client.codes(3)
            assert codes[:2] == ["250", "550"]
            assert codes[2][0] == "5"
            client.write(b"QUIT\r\n")
        assert client.codes(1) == ["221"]
    kept = {mail.recipient: mail.data for mail in server.settle(WAIT)}
    assert kept == {f"user{number}@one.example": body for number, body in enumerate(bodies)}
    assert trouble(server.log()[before:]) == []


@pytest.mark.parametrize(("name", "way"), [each for each in PIPELINING if each[0] != "smtp-sink"])
def test_with_chunking_whole_transactions_stand_behind_each_other(
    ca: Authority, server: Server, name: str, way: str
) -> None:
    """RFC 3030: BDAT asks for no go-ahead, so that a session's messages need no round trip of their own."""
    context = None if way == "none" else ca.client_context()
    before = len(server.log())
    with Pipeline(port(server, way), context=context, implicit=way == "tls") as client:
        assert "CHUNKING" in client.extensions
        session = b""
        for number in range(20):
            wire = message(number).replace(b"\n", b"\r\n")
            session += group([f"user{number}@one.example"]).replace(b"DATA", b"BDAT %d LAST" % len(wire)) + wire
        client.write(session + b"QUIT\r\n")
        assert client.codes(61) == ["250"] * 60 + ["221"]
    kept = {mail.recipient: mail.data for mail in server.settle(WAIT)}
    assert kept == {f"user{number}@one.example": message(number) for number in range(20)}
    assert trouble(server.log()[before:]) == []


def test_servers_that_do_not_offer_pipelining_show_why_it_must_not_be_guessed(
    running: Callable[[str], Server],
) -> None:
    library = running("aiosmtpd")
    assert behind_the_dot(library) == ["250", "250"]
    assert len(library.settle()) == 1
    # OpenSMTPD answers the dot itself by `500 Pipelining not supported`, throws the message away, and sometimes ends
    # altogether (`smtpd: tree_xset`): here it is one of its own.
    with OpenSmtpd() as server:
        assert "250" not in behind_the_dot(server)
        assert server.received_mail() == []


def behind_the_dot(server: Server) -> list[str]:
    """The replies to the final dot and to a command that stands right behind it."""
    with Pipeline(server.port) as client:
        assert not {"PIPELINING", "CHUNKING"} & set(client.extensions)
        assert client.ask(b"MAIL FROM:<news@example.com>\r\n").startswith("250")
        assert client.ask(b"RCPT TO:<ada@one.example>\r\n").startswith("250")
        assert client.ask(b"DATA\r\n").startswith("354")
        client.write(b"Subject: x\r\n\r\nx\r\n.\r\nMAIL FROM:<news@example.com>\r\n")
        return client.codes(2)


@pytest.mark.parametrize("name", ["OpenSMTPD", "Exim"])
def test_a_limit_of_messages_a_session_costs_no_recipient_anything_and_no_time(
    tmp_path: Path, name: str, running: Callable[[str], Server]
) -> None:
    # OpenSMTPD answers the 101st MAIL by `452 4.5.3 ... Too many messages sent`, Exim by `421 too many messages in this
    # connection`: as installed the 1,001st.
    to = [f"user{number}@one.example" for number in range(130)]
    with contextlib.ExitStack() as stack:
        own = Exim(messages_per_connection=50)
        server = running(name) if name == "OpenSMTPD" else stack.enter_context(own)
        agent = stack.enter_context(Agent(tmp_path, server.port, relay={"connections": 1, "recipients_per_message": 1}))
        agent.start().drop("many", to)
        agent.wait_state("many", "finished", timeout=WAIT)
        assert {row["attempts"] for row in agent.recipients("many")} == {"1"}
        assert agent.events("relay.down") == agent.events("relay.limit") == []
        assert Counter(mail.recipient for mail in server.settle(WAIT)) == Counter(to)


@pytest.mark.parametrize(("name", "way"), [("Exim", "none"), ("Postfix", "none"), ("Postfix", "starttls")])
def test_a_list_of_bad_addresses_makes_a_server_end_sessions_and_costs_the_good_ones_nothing(
    tmp_path: Path, ca: Authority, server: Server, name: str, way: str
) -> None:
    # As installed, Exim ends a session at the 11th RSET without a message between, Postfix at the 20th refusal.
    if isinstance(server, Postfix):
        server.set("smtpd_hard_error_limit", "20")
    to = [f"{'gone' if number // 30 % 2 else 'user'}@d{number}.example" for number in range(90)]
    relay: dict[str, Any] = {"connections": 1, "recipients_per_message": 1, "security": way}
    if way != "none":
        relay["ca_file"] = str(ca.pem)
    with Agent(tmp_path, port(server, way), relay=relay) as agent:
        agent.start().drop("dirty", to)
        counts = agent.wait_state("dirty", "finished", timeout=WAIT)["counts"]
        assert (counts["sent"], counts["failed"]) == (60, 30)
        assert {row["attempts"] for row in agent.recipients("dirty")} == {"1"}
        assert agent.events("relay.down") == []
    assert Counter(mail.recipient for mail in server.settle(WAIT)) == Counter(to[:30] + to[60:])
