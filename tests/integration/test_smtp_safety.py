"""What a job could make the agent say, seen on the wire: commands and headers that nobody ordered, messages in messages."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.reader import END_OF_DATA, bare, ends_of_data
from tests.servers.agent import Agent, wait_for
from tests.servers.relay import Relay
from tests.servers.tap import Tap

HEADER = b"From: <news@example.com>\nSubject: x\n"
COMMAND = re.compile(rb"EHLO \S+|MAIL FROM:<news@example\.com>(?: SIZE=\d+)?|RCPT TO:<\w+@one\.example>|DATA|RSET|QUIT")


def transactions(said: bytes) -> list[bytes]:
    """The data of each message in a connection's octets, with its end; every command must be one of ours."""
    found = []
    at = 0
    while at < len(said):
        end = said.index(b"\r\n", at)
        line = said[at:end]
        assert COMMAND.fullmatch(line), line
        at = end + 2
        if line == b"DATA":
            # With the line end before it, the first line is like all others (RFC 5321 §4.5.2).
            end = said.index(b"\r\n.\r\n", at - 2) + 5
            found.append(said[at:end])
            at = end
    return found


# --- commands -----------------------------------------------------------------------------------------------------------

ORDER = "RCPT TO:<eve@evil.example>"
TRICKS = [
    *(f"\r\n{ORDER}", f"\n{ORDER}", f"\r{ORDER}", f"\0{ORDER}", f"\x85{ORDER}", f"\u2028{ORDER}", f"\x0b{ORDER}"),
    *(
        "\0",
        "\x1b",
        ">",
        "<",
        "> SIZE=0 <",
        ">\r\nDATA\r\n.\r\n<",
        " ",
        "\t",
        "\u00a0",
        "\u3000",
        f"\uff0e\r\n{ORDER}",
        "\u200b",
        "\\",
    ),
]
PLACES = ("yaml", "csv", "txt")


def tricked(trick: str) -> list[str]:
    plain = [f"bob{trick}x@evil.example", f"bob@evil-{trick}x.example", f"bob@evil.example>{trick}"]
    # A space, a tab and a backslash may stand between quotes (RFC 5321 §4.1.2); not even there the others.
    return plain if trick in " \\" else [*plain, f'"bob{trick}x"@evil.example']


def test_no_address_from_any_place_becomes_a_command(tmp_path: Path) -> None:
    with Relay() as relay, Tap(relay.port) as tap, Agent(tmp_path, tap.port, relay={"connections": 2}) as agent:
        agent.start()
        good: list[str] = []
        names: list[str] = []
        for number, trick in enumerate(TRICKS):
            for place in PLACES:
                name, to = f"{place}-{number}", f"good{place}{number}@one.example"
                people = [to, *tricked(trick)]
                table = io.StringIO()
                csv.writer(table).writerows([["address"], *([each] for each in people)])
                files = {"recipients.txt": "\n".join([*people, ""]).encode()} if place == "txt" else {}
                agent.drop(
                    name,
                    table.getvalue() if place == "csv" else "",
                    manifest={"recipients": people} if place == "yaml" else {},
                    files=files,
                )
                names.append(name)
                good.append(to)
            for form, sender in enumerate(tricked(trick)):
                names.append(agent.drop(f"sender-{number}-{form}", manifest={"sender": sender}))
        wait_for(lambda: all((agent.spool / "done" / name).is_dir() for name in names), 40)
        states = {name: (agent.status(name) or {})["state"] for name in names}
        assert agent.stop() == 0
    # A sender that is none rejects its job. So does what no list can have, such as NUL in a file; the other lists' good
    # recipients got their message.
    assert {state for name, state in states.items() if name.startswith("sender")} == {"rejected"}
    finished = {name for name, state in states.items() if state == "finished"}
    assert {f"yaml-{number}" for number, trick in enumerate(TRICKS)} <= finished
    assert sorted(relay.recipients) == sorted(
        to for to, name in zip(good, _lists(names), strict=True) if name in finished
    )
    assert relay.violations == []
    for said in tap.said:
        transactions(bytes(said))
        assert b"evil" not in said
        assert bare(bytes(said)) == 0


def _lists(names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith("sender")]


# --- header fields --------------------------------------------------------------------------------------------------------

SENDERS = {
    "": "spoold.invalid",
    "news@example.com": "example.com",
    "news@b\u00fccher.example": "xn--bcher-kva.example",
    '"a b\\"c"@example.com': "example.com",
    "news@[IPv6:2001:db8::1]": "[IPv6:2001:db8::1]",
}


def test_added_fields_are_two_lines_whatever_the_job_is_called(tmp_path: Path) -> None:
    evil = "x\r\nBcc: eve@evil.example\r\n\r\nbody"
    with Relay() as relay, Agent(tmp_path, relay.port) as agent:
        agent.start()
        for number, sender in enumerate(SENDERS):
            name = f"a@b.example+_-.{number}"
            files = {f"messages/Bcc: \u202e\xe4{number}.eml": b"Subject: own\n\nown\n"}
            people = [
                f"shared{number}@one.example",
                {"address": f"own{number}@one.example", "message": next(iter(files))},
            ]
            manifest = {"sender": sender, "description": evil, "timezone": "Asia/Kathmandu", "recipients": people}
            agent.drop(name, "", manifest=manifest, message=b"Subject: shared\n\nshared\n", files=files)
        for number in range(len(SENDERS)):
            agent.wait_state(f"a@b.example+_-.{number}", "finished")
    assert len(relay.accepted) == 2 * len(SENDERS)
    seen = set()
    for mail in relay.accepted:
        domain = SENDERS[mail.mail_from.replace("xn--bcher-kva", "b\u00fccher")]
        date, message_id, subject, empty, body, end = mail.data.decode("ascii").split("\r\n")
        assert re.fullmatch(r"Date: [A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0545", date)
        match = re.fullmatch(r"Message-ID: <([0-9a-f.]{20,30})@(.+)>", message_id)
        assert match
        assert match[2] == domain
        seen.add(match[1])
        assert (subject, empty, body, end) == (f"Subject: {body}", "", body, "")
    assert len(seen) == len(relay.accepted)


# --- messages hidden in messages --------------------------------------------------------------------------------------------

SMUGGLED = b"MAIL FROM:<eve@evil.example>\r\nRCPT TO:<victim@evil.example>\r\nDATA\r\nhidden\r\n"
#: What the agent reads at a time; a message over 512 KiB is streamed in such pieces.
PIECE = 1 << 18
LARGE = 2 * PIECE + 8192


def _at(offset: int, end: bytes) -> bytes:
    """A large message in which `end`, and what would be smuggled, stand at this offset."""
    head = HEADER + b"\n"
    filler = (b"y" * 62 + b"\r\n") * (LARGE // 64)
    return head + filler[-(offset - len(head)) :][:-2] + b"yy" + end + SMUGGLED + filler[: LARGE - offset]


def smuggling() -> Iterator[tuple[str, bytes]]:
    """Named messages: every end that a server may believe in, small, first of all, without a header, and at borders."""
    for number, end in enumerate(END_OF_DATA):
        yield f"small{number}", HEADER + b"\nx" + end + SMUGGLED + b"x" + end
        yield f"first{number}", HEADER + b"\n" + end[end.index(b".") :] + SMUGGLED
        yield f"alone{number}", end[end.index(b".") :] + SMUGGLED
        for before in range(6) if is_sendable(end) else range(1, 6, 2):
            yield f"border{number}at{before}", _at(PIECE - before, end)
    for number, line in enumerate((b"\n.", b".\n", b"\r\n.", b"..\r\n", b"\n.\n")):
        for shift in range(2):
            yield f"dense{number}shift{shift}", HEADER + b"\n" + b"x" * shift + line * (LARGE // len(line))


def is_sendable(data: bytes) -> bool:
    """Whether every CR has its LF."""
    return b"\r" not in data.replace(b"\r\n", b"")


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelining", "one by one"])
def test_nothing_in_a_message_looks_like_its_end_to_any_server(tmp_path: Path, pipelining: bool) -> None:
    table, files = "address,message\n", {}
    good: list[str] = []
    bad: list[str] = []
    for name, data in smuggling():
        if name.startswith("border") and not pipelining:
            continue  # how the commands go does not matter to a body that is streamed
        files[f"m/{name}.eml"] = data
        table += f"{name}@one.example,m/{name}.eml\n"
        (good if is_sendable(data) else bad).append(f"{name}@one.example")
    assert min(len(good), len(bad)) > 10
    relay = Relay()
    if not pipelining:
        relay.extensions = tuple(each for each in relay.extensions if each != "PIPELINING")
    with relay, Tap(relay.port) as tap, Agent(tmp_path, tap.port, relay={"connections": 2}) as agent:
        agent.start().drop("smuggling", table, message=None, files=files)
        agent.wait_state("smuggling", "finished", timeout=60)
        rows = {row["address"]: row for row in agent.recipients("smuggling")}
        assert agent.stop() == 0
    assert sorted(relay.recipients) == sorted(good)
    for to in bad:
        assert (rows[to]["state"], rows[to]["dsn_status"], rows[to]["attempts"]) == ("failed", "5.6.0", "0")
        assert "carriage return" in rows[to]["diagnostic"]
    assert relay.violations == []
    sent = [data for said in tap.said for data in transactions(bytes(said))]
    assert len(sent) == len(good)
    for data in sent:
        assert ends_of_data(data) == [len(data)]
    for said in tap.said:
        assert bare(bytes(said)) == 0
        assert b"\0" not in said
    for mail in relay.accepted:
        (to,) = mail.recipients
        source = files[f"m/{to.partition('@')[0]}.eml"].replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        assert mail.data.endswith(source) or mail.data.endswith(source + b"\r\n"), to
