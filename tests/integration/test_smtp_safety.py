"""What a job, a relay or a mistake could make the agent say, seen on the wire, in every file and on a terminal: commands
and headers that nobody ordered, messages hidden in messages, replies that act on a terminal, and passwords.
"""

import base64
import csv
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.reader import END_OF_DATA, bare, ends_of_data
from tests.servers.agent import Agent, wait_for
from tests.servers.certificate import Authority
from tests.servers.relay import Event, Garbage, Relay, Reply, Rule
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


# --- replies ------------------------------------------------------------------------------------------------------------------

#: Colours, a window title, a C1 introducer, direction overrides and isolates, invalid UTF-8, a carriage return, NUL.
EVIL = "\x1b[31m\x1b]0;owned\x07\x9b2J\u202ekcatta\u2066\u200f\udcff\udc9b\r\x00\x08"
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufffd]")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def on_terminal(agent: Agent, *arguments: str) -> str:
    """What a `spoold` command writes to a terminal, without colours."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "spoold", "--config", str(agent.config), *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "200"},
    )
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 65536):
            shown += data
    except OSError:  # EIO: the other end is closed
        pass
    os.close(ours)
    process.wait(30)
    return COLOUR.sub("", shown.decode("utf-8", "surrogateescape")).replace("\r\n", "\n")


def test_replies_act_on_no_terminal_log_or_report_and_are_cut(tmp_path: Path) -> None:
    long = "A" * 1_000_000
    lines = "\n".join(["550-5.1.1 " + EVIL + "B" * 7000] * 150 + ["550 5.1.1 end"])
    texts = {
        "connect": Rule("connect", Reply(f"421 4.7.0 {EVIL}"), times=1),
        "connect long": Rule("connect", Reply(f"554 {long}"), times=1),
        "ehlo": Rule(
            "EHLO", Reply(f"250-{EVIL}\n250-SIZE {EVIL}\n250-X{EVIL} {EVIL}\n250 SIZE \u00b2"), nth=1, times=3
        ),
        "mail": Rule("MAIL", Reply(f"451 4.3.0 {EVIL}"), times=1),
        "bob": Rule("RCPT", Reply(f"550 5.1.1 {EVIL}end"), match="bob"),
        "cid": Rule("RCPT", Reply(f"450 4.2.0 {EVIL}end"), match="cid"),
        "many lines": Rule("RCPT", Reply(lines), match="dan"),
        "data": Rule("DATA", Garbage(EVIL.encode("utf-8", "surrogateescape") + b"\r\n"), times=1),
        "a megabyte": Rule("DOT", Reply(f"250 {long}"), match="fay"),
        "dot": Rule("DOT", Reply(f"250 2.0.0 {EVIL}end")),
    }
    config = {"log": {"format": "console", "level": "debug"}, "retry": {"every": "1s", "for": "1h"}, "keep_done": "1d"}
    to = [f"{name}@one.example" for name in ("ada", "bob", "cid", "dan", "eve", "fay")]
    relay = Relay(rules=list(texts.values()))
    with (
        relay,
        Agent(tmp_path, relay.port, relay={"connections": 1, "recipients_per_message": 1}, config=config) as agent,
    ):
        agent.start(wait=False)
        seen: dict[str, str] = {}

        def look() -> bool:
            status = agent.status("evil") or {}
            if status.get("relay_error"):
                seen[status["relay_error"]] = (agent.report("evil", "status.txt") or b"").decode()
            counts = status.get("counts", {})
            return [counts.get(state) for state in ("sent", "failed", "deferred", "uncertain")] == [2, 2, 1, 1]

        agent.drop("evil", to, manifest={"description": f"{EVIL.replace(chr(0xDCFF), '').replace(chr(0xDC9B), '')}"})
        wait_for(look, 60)
        shown = [
            on_terminal(agent, *words) for words in (("status",), ("status", "evil"), ("status", "evil", "--json"))
        ]
        shown += [
            on_terminal(agent, "status", "--json"),
            on_terminal(agent, "check"),
            on_terminal(agent, "plan", "evil"),
        ]
        agent.stop()
        files = list(agent.spool.glob("*/evil/report/*"))
        files += [agent.spool / "status.json", agent.spool / "metrics.prom", *tmp_path.glob("agent-*.log")]
        written = {path: path.read_bytes() for path in files}
        attempts = agent.attempts("evil")
    assert len(written) >= 8
    assert seen
    texts_seen = [*shown, *seen, *seen.values(), *(data.decode().replace("\r\n", "\n") for data in written.values())]
    for text in texts_seen:
        assert text
        assert FORBIDDEN.search(text) is None, FORBIDDEN.search(text)
        assert max(map(len, text.split("\n"))) < 5000
        assert "A" * 2000 not in text
    assert max(len(attempt["diagnostic"]) for attempt in attempts) <= 1100
    assert any("\\x1b[31m" in attempt["diagnostic"] and attempt["diagnostic"].endswith("end") for attempt in attempts)


# --- passwords ----------------------------------------------------------------------------------------------------------------

USER = "postman@example.com"
CANARY = "kanari\u00e4 vogel-4711"


def forms(secret: str) -> list[bytes]:
    """The password as it could be met: plain, escaped, and in base64 at any of the three alignments."""
    raw = secret.encode()
    plain = [raw, json.dumps(secret)[1:-1].encode(), repr(raw)[2:-1].encode(), b"vogel-4711"]
    encoded = [base64.b64encode(b"\0" * shift + raw)[4 if shift else 0 : -4] for shift in range(3)]
    return [*plain, *encoded, raw.hex().encode()]


def echo(code: str) -> Any:
    """A relay that repeats the command that it does not like, as many do."""

    def answer(event: Event) -> Reply:
        return Reply(f"{code} cannot do: AUTH {event.argument}")

    return answer


def test_a_password_is_in_nothing_that_the_agent_writes_whatever_goes_wrong(tmp_path: Path, ca: Authority) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "password").write_text(CANARY + "\n")
    (secret / "password").chmod(0o600)
    right = (USER, CANARY)
    context = ca.valid.context
    relays = {
        "taken": Relay(tls=context(), credentials=right),
        "taken-login": Relay(tls=context(), credentials=right, mechanisms=("LOGIN",)),
        "refused": Relay(tls=context(), credentials=(USER, "another")),
        "refused-login": Relay(tls=context(), credentials=(USER, "another"), mechanisms=("LOGIN",)),
        "echoed": Relay(
            tls=context(), credentials=right, mechanisms=("PLAIN",), rules=[Rule("AUTH", echo("535 5.7.8"))]
        ),
        "echoed-later": Relay(
            tls=context(), credentials=right, mechanisms=("PLAIN",), rules=[Rule("AUTH", echo("454 4.7.0"))]
        ),
        "unknown": Relay(tls=context(), credentials=right, mechanisms=("PLAIN",), rules=[Rule("AUTH", echo("500"))]),
        "garbage": Relay(tls=context(), credentials=right, rules=[Rule("AUTH", Garbage(b"\xff\0what?\r\n"))]),
        "untrusted": Relay(tls=ca.untrusted.context(), credentials=right),
        "stripped": Relay(credentials=right),
    }
    given = {
        name: {
            "host": "127.0.0.1",
            "port": relay.port,
            "security": "starttls",
            "ca_file": str(ca.pem),
            "username": USER,
            "password_file": "secret/password",
            "connections": 1,
        }
        for name, relay in relays.items()
    }
    environ = {"CREDENTIALS_DIRECTORY": str(secret), "PYTHONDEVMODE": "", "LC_ALL": "C.UTF-8"}
    with ExitStack() as stack:
        for relay in relays.values():
            stack.enter_context(relay)
        config = {"relays": {"default": given["taken"], **given}}
        agent = stack.enter_context(Agent(tmp_path, 1, environ=environ, config=config))
        agent.start()
        for name in relays:
            agent.drop(name, [f"ada@{name}.example"], manifest={"relay": name})
        taken = [name for name in relays if name.startswith("taken")]
        for name in taken:
            agent.wait_state(name, "finished")
        for name in relays.keys() - set(taken):
            wait_for(lambda name=name: (agent.status(name) or {}).get("relay_error"), 20, name)  # type: ignore[misc]
        for name in ("echoed", "echoed-later", "unknown"):
            assert "AUTH PLAIN (hidden); to do: " in (agent.status(name) or {})["relay_error"]
        outputs: list[bytes] = []
        for words in (
            ("status",),
            ("status", "--json"),
            ("status", "echoed"),
            ("status", "echoed", "--json"),
            ("check",),
        ):
            done = agent.command(*words, timeout=60)
            outputs += [done.stdout.encode(), done.stderr.encode()]
        for kind in ("cmdline", "comm", "environ"):
            outputs.append(Path(f"/proc/{agent.pid}/{kind}").read_bytes())
        # A configuration that is wrong in every way in which a password could get into it.
        for wrong in (
            f"relays: {{default: {{host: x, username: {USER}, password: '{CANARY}'}}}}",
            f"relays: {{default: {{host: x, password_file: ['{CANARY}']}}}}",
            f"password: {CANARY}\n\tx",
            f'password: "{CANARY}',
        ):
            agent.config.write_text(wrong + "\n")
            before = len(agent.events("agent.reload_failed"))
            os.kill(agent.pid, signal.SIGHUP)
            wait_for(lambda before=before: len(agent.events("agent.reload_failed")) > before)  # type: ignore[misc]
            done = agent.command("status")
            assert done.returncode == 2
            outputs += [done.stdout.encode(), done.stderr.encode()]
        agent.config.unlink()
        assert agent.stop() == 0
        files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.parent != secret}
    assert len(files) > 60
    for name in relays.keys() - set(taken):
        assert relays[name].accepted == []
    for place, data in [*files.items(), *enumerate(outputs)]:
        for form in forms(CANARY):
            assert re.search(re.escape(form), data, re.IGNORECASE) is None, (place, form)
