"""A relay that fails at each step in each way, in turn: what it costs, what the report says, and that sending goes on.

All cases run side by side: one agent, a relay and a job of three recipients for each case. The fault comes once, at the
first occasion (at RCPT: for bob); `retry` is two seconds, so that in the end everybody has got the message exactly
once, except where the fault was final or the outcome cannot be known.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers.agent import MESSAGE, wait_for
from tests.servers.fleet import Fleet
from tests.servers.relay import (
    EXTENSIONS,
    Action,
    Drop,
    DropAfterAccept,
    DropBeforeAccept,
    Garbage,
    Hang,
    Relay,
    Reply,
    RstMidBody,
    Rule,
)

STEPS = ("connect", "EHLO", "MAIL", "RCPT", "DATA", "BODY", "DOT")
FAULTS: dict[str, Action] = {
    "4xx": Reply("451 4.3.0 not now"),
    "5xx": Reply("554 5.7.1 never"),
    "421": Reply("421 4.3.2 shutting down"),
    "hang": Hang(),
    "garbage": Garbage(b"\x1b[31mHTTP/1.1 400 Bad Request\r\n"),
    "drop": Drop(),
    "reset": Drop(reset=True),
}
#: At BODY the message is larger than all buffers between, so that its dot cannot have left when the fault comes.
LARGE = MESSAGE + b"0123456789" * 7 + b"\n" + (b"x" * 75 + b"\n") * (5_500_000 // 76)

SENT = ["sent 2.0.0"]
AGAIN_451 = ["deferred 4.3.0", "sent 2.0.0"]
NEVER = ["failed 5.7.1"]
BROKEN = ["deferred 4.4.2", "sent 2.0.0"]
UNKNOWN = ["uncertain 4.4.2"]


@dataclass(frozen=True)
class Expected:
    """`ada`, `bob` and `cid`: their attempts; `fault` is what `relay_error` must have said, "" for nothing at all."""

    ada: list[str]
    bob: list[str]
    cid: list[str]
    fault: str = ""

    @classmethod
    def all(cls, history: list[str], fault: str = "") -> "Expected":
        return cls(history, history, history, fault)


def expected(step: str, fault: str, pipelining: bool) -> Expected:
    """The contract, as a table."""
    if step in ("connect", "EHLO"):
        # Nobody is bounced, nothing counts as an attempt.
        say = {
            "4xx": "refused the session: 451 4.3.0 not now",
            "5xx": "refused the session: 554 5.7.1 never",
            "421": "turned the connection away: 421 4.3.2 shutting down",
            "hang": "no answer within 2 s",
        }
        return Expected.all(SENT, say.get(fault, "127.0.0.1"))
    if fault == "421":
        return Expected.all(SENT, "ends the session: 421 4.3.2 shutting down")
    if step == "DOT" and fault in ("hang", "garbage", "drop", "reset"):
        return Expected.all(UNKNOWN)
    if step == "RCPT" and fault == "4xx":
        return Expected(SENT, AGAIN_451, SENT)
    if step == "RCPT" and fault == "5xx":
        return Expected(SENT, NEVER, SENT)
    return Expected.all({"4xx": AGAIN_451, "5xx": NEVER}.get(fault, BROKEN))


def cases() -> dict[str, tuple[str, str, Rule]]:
    found = {}
    for step in STEPS:
        for name, action in FAULTS.items():
            at = action
            if step == "BODY" and name == "reset":
                at = RstMidBody(after=100_000)
            if step == "BODY" and name == "garbage":
                continue  # the relay reads on behind garbage, and takes the message for refused: see DOT
            rule = Rule(step, at, match="bob" if step == "RCPT" else None, times=1)
            found[f"{step.lower()}-{name}"] = (step, name, rule)
    # To the agent these two look alike.
    found["dot-taken"] = ("DOT", "drop", Rule("DOT", DropAfterAccept(), times=1))
    found["dot-not-taken"] = ("DOT", "drop", Rule("DOT", DropBeforeAccept(reset=True), times=1))
    found["dot-hang-taken"] = ("DOT", "hang", Rule("DOT", Hang(accept=True), times=1))
    return found


@pytest.mark.timeout(120)
@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelining", "one by one"])
def test_each_fault_at_each_step_ends_as_the_contract_says(pipelining: bool, tmp_path: Path) -> None:
    extensions = EXTENSIONS if pipelining else tuple(line for line in EXTENSIONS if line != "PIPELINING")
    table = cases()
    relays = {name: Relay(rules=[rule], extensions=extensions) for name, (_, _, rule) in table.items()}
    unknown = {
        name for name, (step, fault, _) in table.items() if "uncertain 4.4.2" in expected(step, fault, pipelining).ada
    }
    with Fleet(tmp_path, relays, settings={name: {"connections": 1} for name in relays}) as fleet:
        agent = fleet.agent.start()
        for name, (step, _, _) in table.items():
            to = [f"{local}@{name}.example" for local in ("ada", "bob", "cid")]
            agent.drop(name, to, manifest={"relay": name}, message=LARGE if step == "BODY" else MESSAGE)
        fleet.follow(
            table,
            lambda status: status["counts"]["uncertain"] or status["state"] == "finished",
            timeout=40,
        )  # fmt: skip
        # What cannot be known rests for fifteen minutes; on demand it is sent again now.
        for name in sorted(unknown):
            status = agent.status(name)
            assert status is not None
            assert (status["state"], status["reason"]) == ("waiting", "retry") or status["counts"]["sending"], name
            assert len(agent.events("message.uncertain")) == len(unknown)
        # The status is written before the attempts are.
        wait_for(lambda: all(len(fleet.history(name)) == 3 for name in unknown))
        found = {name: fleet.history(name) for name in unknown}
        told = agent.command("retry", "--uncertain", *sorted(unknown))
        assert told.returncode == 0, told.stderr
        fleet.finish(table)
        found = {name: fleet.history(name) for name in table} | found

        wanted = {}
        for name, (step, fault, _) in table.items():
            wish = expected(step, fault, pipelining)
            wanted[name] = {"ada": wish.ada, "bob": wish.bob, "cid": wish.cid}
        odd = {name: (history, wanted[name]) for name, history in found.items() if history != wanted[name]}
        assert odd == {}
        for name, (step, fault, _) in table.items():
            wish = expected(step, fault, pipelining)
            said = fleet.errors[name]
            if wish.fault:
                assert any(wish.fault in error for error in said), (name, said)
                assert all("; to do: " in error for error in said), (name, said)
            else:
                assert said == [], name
            assert all(error.isprintable() for error in said)
            refused = {local for local, history in wanted[name].items() if history == NEVER}
            taken = Counter(address.partition("@")[0] for address in relays[name].recipients)
            twice = name in ("dot-taken", "dot-hang-taken")
            assert taken == dict.fromkeys({"ada", "bob", "cid"} - refused, 2 if twice else 1), name
            assert len({mail.data for mail in relays[name].accepted}) <= 1, f"{name}: not the same bytes again"
            assert relays[name].violations == [], name
            rows = {row["address"].partition("@")[0]: row for row in agent.recipients(name)}
            assert {local: row["state"] for local, row in rows.items()} == {
                local: "failed" if local in refused else "sent" for local in rows
            }, name
            for local, row in rows.items():
                attempts = len(wanted[name][local]) + (name in unknown)
                assert (row["attempts"], row["dsn_action"]) == (
                    str(attempts),
                    "failed" if local in refused else "relayed",
                ), (name, row)
                assert row["diagnostic"].isprintable()
        assert agent.events("agent.task_failed") == []
        assert agent.events("agent.failed") == []
        assert agent.stop() == 0
