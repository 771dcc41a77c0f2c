"""The rules of a scripted relay: each fault, at the place and the time that were asked for."""

import contextlib

import pytest

from tests.servers import script
from tests.servers.relay import Relay
from tests.servers.talk import Talk, deliver, talk


@pytest.mark.parametrize(
    ("action", "heard", "kept"),
    [
        (script.Reply("451 4.3.0 busy"), b"451 4.3.0 busy\r\n", 0),
        (script.Reply("250-two\n250 lines"), b"250-two\r\n250 lines\r\n", 1),
        (script.Reply("421 4.3.2 bye"), b"421 4.3.2 bye\r\n", 0),
        (script.Drop(), b"", 0),
        (script.DropBeforeAccept(), b"", 0),
        (script.DropAfterAccept(), b"", 1),
        (script.DropAfterAccept(reset=True), b"RST", 1),
        (script.Garbage(b"\xff\x00?\r\n"), b"\xff\x00?\r\n", 0),
        (script.Garbage(b"25", accept=True), b"25", 1),
        (script.Delay(0.01), b"250 2.0.0 Ok: queued as 1\r\n", 1),
    ],
)
def test_faults_at_the_dot(relay: Relay, action: script.Action, heard: bytes, kept: int) -> None:
    relay.rules.append(script.Rule("DOT", action))
    with talk(relay) as client:
        if heard == b"25":
            client.socket.settimeout(0.2)
            with pytest.raises(TimeoutError):
                deliver(client, "c@b.example")
        else:
            assert deliver(client, "c@b.example") == heard
    assert len(relay.accepted) == kept


def test_a_rule_acts_on_the_nth_match_only(relay: Relay) -> None:
    relay.rules.append(script.Rule("RCPT", script.Reply("450 4.2.1 not now"), match="^bad@", nth=2, times=1))
    with talk(relay) as client:
        client.ask(b"MAIL FROM:<>\r\n")
        names = ["bad", "good", "bad", "good", "bad"]
        replies = [client.ask(f"RCPT TO:<{name}@b.example>\r\n".encode())[:3] for name in names]
    assert replies == [b"250", b"250", b"450", b"250", b"250"]


def test_a_hook_decides_and_is_told_what_happens(relay: Relay) -> None:
    seen: list[script.Event] = []

    def hook(event: script.Event) -> script.Action | None:
        seen.append(event)
        return script.Reply("451 4.0.0 hooked") if event.occurrence == 2 else None

    relay.rules.append(script.Rule("MAIL", hook))
    with talk(relay) as client:
        assert client.ask(b"MAIL FROM:<a@b.example>\r\n").startswith(b"250")
        client.ask(b"RSET\r\n")
        assert client.ask(b"MAIL FROM:<a@b.example>\r\n") == b"451 4.0.0 hooked\r\n"
    assert [(event.argument, event.connection, event.occurrence) for event in seen] == [
        ("a@b.example", 1, 1),
        ("a@b.example", 1, 2),
    ]


def test_a_bug_in_a_hook_is_not_lost() -> None:
    def hook(event: script.Event) -> None:
        raise ZeroDivisionError

    relay = Relay(rules=[script.Rule("MAIL", hook)])
    relay.start()
    with talk(relay) as client:
        assert client.ask(b"MAIL FROM:<>\r\n") == b""
    with pytest.raises(ZeroDivisionError):
        relay.close()


def until_body(client: Talk) -> None:
    """A message to c@b.example, as far as the go-ahead for its body."""
    client.ask(b"MAIL FROM:<>\r\n")
    client.ask(b"RCPT TO:<c@b.example>\r\n")
    client.ask(b"DATA\r\n")


def test_a_reset_in_the_middle_of_a_body(relay: Relay) -> None:
    relay.rules.append(script.Rule("BODY", script.RstMidBody(after=1000)))
    with talk(relay) as client:
        until_body(client)
        client.say(b"x" * 999)
        client.say(b"x")
        with pytest.raises(ConnectionResetError):
            client.hear()
    assert relay.accepted == []


def test_a_relay_that_hangs_at_body_fills_up(relay: Relay) -> None:
    relay.rules.append(script.Rule("BODY", script.Hang(), times=1))
    with talk(relay) as client:
        until_body(client)
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
        script.Rule(place, script.Reply("421 4.3.2 no"), nth=1, times=1),
        script.Rule(place, script.Drop(), nth=2, times=1),
        script.Rule(place, script.Hang(), nth=3, times=1),
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
