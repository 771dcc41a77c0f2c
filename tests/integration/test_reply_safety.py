"""Replies of a hostile relay, in every file and on a terminal: none acts on anything, none is long."""

import re
from pathlib import Path

from tests.servers.agent import Agent, wait_for
from tests.servers.relay import Garbage, Relay, Reply, Rule
from tests.servers.terminal import Terminal

#: Colours, a window title, a C1 introducer, direction overrides and isolates, invalid UTF-8, a carriage return, NUL.
EVIL = "\x1b[31m\x1b]0;owned\x07\x9b2J\u202ekcatta\u2066\u200f\udcff\udc9b\r\x00\x08"
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufffd]")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def on_terminal(agent: Agent, *arguments: str) -> str:
    """What a `spoold` command writes to a terminal, without colours."""
    terminal = Terminal(["--config", str(agent.config), *arguments], 200)
    terminal.end()
    return COLOUR.sub("", terminal.raw.decode("utf-8", "surrogateescape")).replace("\r\n", "\n")


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
