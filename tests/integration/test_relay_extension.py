"""SIZE, 8BITMIME and SMTPUTF8: what is said on the wire, and what happens where the relay lacks them; large messages."""

import hashlib
from pathlib import Path

import pytest

from tests.servers.agent import Agent
from tests.servers.relay import EXTENSIONS, Relay

PLAIN = b"From: <news@example.com>\nMessage-ID: <1@example.com>\nDate: Mon, 1 Jan 2024 00:00:00 +0000\n\nHello\n"
EIGHT_BIT = PLAIN + "Gr\u00fc\u00dfe\n".encode()
EIGHT_BIT_HEADER = "Subject: Gr\u00fc\u00dfe\n".encode() + PLAIN


def without(*keywords: str) -> tuple[str, ...]:
    return tuple(line for line in EXTENSIONS if line.partition(" ")[0] not in keywords)


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelining", "one by one"])
def test_a_relay_that_offers_nothing_gets_plain_messages_and_the_rest_fails_with_its_reason(
    tmp_path: Path, pipelining: bool
) -> None:
    lost = ("SIZE", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", *(() if pipelining else ("PIPELINING",)))
    rows = "address,message\nada@one.example,plain.eml\nbob@one.example,eight.eml\ncid@one.example,header.eml\nd\u00f6rte@one.example,plain.eml\n"  # noqa: E501
    files = {"plain.eml": PLAIN, "eight.eml": EIGHT_BIT, "header.eml": EIGHT_BIT_HEADER}
    with Relay(extensions=without(*lost)) as relay, Agent(tmp_path, relay.port) as agent:
        agent.start().drop("mixed", rows, message=None, files=files)
        status = agent.wait_state("mixed", "finished")
        assert (status["counts"]["sent"], status["counts"]["failed"]) == (1, 3)
        found = {row["address"]: (row["state"], row["dsn_status"]) for row in agent.recipients("mixed")}
        assert found == {
            "ada@one.example": ("sent", "2.0.0"),
            "bob@one.example": ("failed", "5.6.3"),
            "cid@one.example": ("failed", "5.6.3"),
            "d\u00f6rte@one.example": ("failed", "5.6.7"),
        }
        texts = [row["diagnostic"] for row in agent.recipients("mixed")]
        assert "8BITMIME" in texts[1]
        assert "SMTPUTF8" in texts[3]
    (mail,) = relay.accepted
    assert (mail.recipients, mail.mail_params) == (("ada@one.example",), ())
    assert mail.data == PLAIN.replace(b"\n", b"\r\n")
    assert relay.violations == []


def test_parameters_say_what_the_message_needs_and_no_more(agent: Agent, relay: Relay) -> None:
    rows = "address,message\nada@one.example,plain.eml\nbob@one.example,eight.eml\ncid@one.example,header.eml\nd\u00f6rte@one.example,plain.eml\n"  # noqa: E501
    files = {"plain.eml": PLAIN, "eight.eml": EIGHT_BIT, "header.eml": EIGHT_BIT_HEADER}
    agent.start().drop("mixed", rows, message=None, files=files)
    agent.drop("sender", ["ada@one.example"], manifest={"sender": "j\u00fcrgen@example.com"}, message=PLAIN)
    assert agent.wait_state("mixed", "finished")["counts"]["sent"] == 4
    assert agent.wait_state("sender", "finished")["counts"]["sent"] == 1
    sizes = {name: len(data) + data.count(b"\n") for name, data in files.items()}
    found = {(mail.mail_from, mail.recipients[0]): set(mail.mail_params) for mail in relay.accepted}
    assert found == {
        ("news@example.com", "ada@one.example"): {f"SIZE={sizes['plain.eml']}"},
        ("news@example.com", "bob@one.example"): {f"SIZE={sizes['eight.eml']}", "BODY=8BITMIME"},
        ("news@example.com", "cid@one.example"): {f"SIZE={sizes['header.eml']}", "BODY=8BITMIME"},
        ("news@example.com", "d\u00f6rte@one.example"): {f"SIZE={sizes['plain.eml']}", "SMTPUTF8"},
        ("j\u00fcrgen@example.com", "ada@one.example"): {f"SIZE={sizes['plain.eml']}", "SMTPUTF8"},
    }
    assert all(f"SIZE={len(mail.data)}" in mail.mail_params for mail in relay.accepted)
    assert relay.violations == []


def test_an_address_beyond_ascii_does_not_make_the_others_in_its_job_need_smtputf8(tmp_path: Path) -> None:
    to = ["ada@one.example", "d\u00f6rte@one.example", "bob@one.example", "cid@b\u00fccher.example"]
    with Relay(extensions=without("SMTPUTF8")) as relay, Agent(tmp_path, relay.port) as agent:
        agent.start().drop("mixed", to)
        status = agent.wait_state("mixed", "finished")
        assert (status["counts"]["sent"], status["counts"]["failed"]) == (3, 1)
        assert set(relay.recipients) == {"ada@one.example", "bob@one.example", "cid@xn--bcher-kva.example"}
        assert relay.violations == []


def test_a_message_over_the_relays_size_fails_without_a_byte_of_it_being_sent(tmp_path: Path) -> None:
    extensions = ("SIZE 2000", *without("SIZE"))
    rows = "address,message\nada@one.example,small.eml\nbob@one.example,large.eml\n"
    files = {"small.eml": PLAIN, "large.eml": PLAIN + (b"x" * 70 + b"\n") * 40}
    with Relay(extensions=extensions) as relay, Agent(tmp_path, relay.port) as agent:
        agent.start().drop("sizes", rows, message=None, files=files)
        agent.wait_state("sizes", "finished")
        small, large = agent.recipients("sizes")
        assert small["state"] == "sent"
        assert (large["state"], large["dsn_status"]) == ("failed", "5.3.4")
        assert "2000" in large["diagnostic"]
        assert not any("bob@" in line.text for line in relay.commands)


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelining", "one by one"])
@pytest.mark.parametrize("mebibytes", [0.6, 5])
def test_a_large_message_is_streamed_byte_for_byte(tmp_path: Path, pipelining: bool, mebibytes: float) -> None:
    # Dots at the beginning of lines wherever a chunk may end, LF line ends, and none at the end.
    line = b".0123456789" + b"." * 51
    lines = b"\n".join(line[number % 7 :] for number in range(int(mebibytes * 1024 * 1024) // 60))
    message = PLAIN + b"\n.\n..\n" + lines
    wire = message.replace(b"\n", b"\r\n") + b"\r\n"
    extensions = EXTENSIONS if pipelining else without("PIPELINING")
    to = [f"user{number}@one.example" for number in range(4)]
    options = {"recipients_per_message": 2, "connections": 2}
    with Relay(extensions=extensions) as relay, Agent(tmp_path, relay.port, relay=options) as agent:
        agent.start().drop("large", to, message=message)
        agent.wait_state("large", "finished", timeout=40)
        assert sorted(relay.recipients) == to
        assert {hashlib.sha256(mail.data).hexdigest() for mail in relay.accepted} == {hashlib.sha256(wire).hexdigest()}
        assert {mail.mail_params for mail in relay.accepted} == {(f"SIZE={len(wire)}",)}
        assert relay.violations == []
