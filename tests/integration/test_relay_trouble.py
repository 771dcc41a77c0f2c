"""A relay that is down, full, misconfigured or refuses us: nobody is bounced, every waiting job says what is wrong and
what to do within five seconds, and sending resumes by itself once the relay is repaired.
"""

import contextlib
import ssl
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.certificate import Authority
from tests.servers.fleet import Fleet
from tests.servers.relay import Hang, Relay, Reply, Rule

WITHIN = 5.0
LOGIN = ("me", "right-secret")


@pytest.fixture(scope="module")
def troubles(ca: Authority, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All troubles at once, through to their repair. Gives what was seen of each, by name."""
    root = tmp_path_factory.mktemp("troubles")
    for name in ("wrong", "right"):
        (root / f"{name}.secret").write_text(f"{name}-secret\n")
        (root / f"{name}.secret").chmod(0o600)
    (root / "changing.secret").write_text("wrong-secret\n")
    (root / "changing.secret").chmod(0o600)
    tls = {"security": "starttls", "ca_file": str(ca.pem)}
    right = {"username": "me", "password_file": "right.secret"}

    def clear(relay: Relay) -> None:
        relay.rules.clear()

    def certify(relay: Relay) -> None:
        relay.tls = ca.valid.context()

    # name: (relay, its settings, the repair)
    table: dict[str, tuple[Relay, dict[str, Any], Callable[[Relay], None]]] = {
        "refused": (Relay(), {}, Relay.start),
        "silent": (Relay(), {}, Relay.resume),
        "turned-away": (Relay(rules=[Rule("connect", Reply("421 4.7.0 too many connections"))]), {}, clear),
        "blocked": (Relay(rules=[Rule("connect", Reply("554 5.7.1 you are listed"))]), {}, clear),
        "expired": (Relay(tls=ca.expired.context()), tls, certify),
        "future": (Relay(tls=ca.future.context()), tls, certify),
        "wrong-name": (Relay(tls=ca.wrong_name.context()), tls, certify),
        "untrusted": (Relay(tls=ca.untrusted.context()), tls, certify),
        "implicit-untrusted": (
            Relay(tls=ca.untrusted.context(), implicit_tls=True),
            {**tls, "security": "tls"},
            certify,
        ),
        "no-starttls": (Relay(), tls, certify),
        "plain-for-tls": (Relay(), {**tls, "security": "tls"}, lambda relay: _speak_tls(relay, ca)),
        "login": (Relay(credentials=LOGIN), {"username": "me", "password_file": "changing.secret"}, lambda _: None),
        "login-later": (
            Relay(credentials=LOGIN, rules=[Rule("AUTH", Reply("454 4.7.0 Temporary authentication failure"))]),
            right,
            clear,
        ),
        "no-auth": (Relay(), right, lambda relay: setattr(relay, "credentials", LOGIN)),
        "login-wanted": (
            Relay(rules=[Rule("MAIL", Reply("530 5.7.0 Authentication required"))]),
            {},
            clear,
        ),
        "full-at-mail": (Relay(rules=[Rule("MAIL", Reply("452 4.3.1 Insufficient system storage"))]), {}, clear),
        "full-at-rcpt": (Relay(rules=[Rule("RCPT", Reply("452 4.3.1 Insufficient system storage"))]), {}, clear),
        "full-at-dot": (Relay(rules=[Rule("DOT", Reply("452 4.3.1 Insufficient system storage"))]), {}, clear),
        "no-such-host": (Relay(), {"host": "relay.invalid"}, lambda _: None),
    }
    relays = {name: relay for name, (relay, _, _) in table.items()}
    settings = {name: {"connections": 2, **given} for name, (_, given, _) in table.items()}
    seen: dict[str, Any] = {}
    with Fleet(root, relays, settings=settings) as fleet:
        relays["refused"].stop()
        relays["silent"].pause()
        agent = fleet.agent.start()
        dropped = {}
        for name in table:
            addresses = [f"{local}@{name}.example" for local in ("ada", "bob", "cid")]
            agent.drop(name, addresses, manifest={"relay": name})
            dropped[name] = time.monotonic()
        told: dict[str, float] = {}
        waits: dict[str, dict[str, Any]] = {}
        deadline = time.monotonic() + 12
        while len(waits) < len(table) and time.monotonic() < deadline:
            for name, status in fleet.look().items():
                if status["relay_error"] and name not in told:
                    told[name] = time.monotonic() - dropped[name]
                if status["relay_error"] and status["state"] == "waiting" and name not in waits:
                    text = agent.report(name, "status.txt") or b""
                    if (agent.spool / "deferred" / name).is_dir():
                        waits[name] = {"status": status, "text": text.decode()}
            time.sleep(0.05)
        down: dict[str, dict[str, Any]] = {}
        while len(down) < len(table) and time.monotonic() < deadline + 5:
            for relay in (agent.state() or {})["relays"]:
                if not relay["up"]:
                    down.setdefault(relay["relay"], relay)
            time.sleep(0.05)
        before = {name: len(relay.accepted) for name, relay in relays.items()}

        for name, (relay, _, repair) in table.items():
            repair(relay)
            if name == "login":
                (root / "changing.secret").write_text("right-secret\n")
            if name == "no-such-host":
                fleet.reconfigure(name, host="127.0.0.1")
        assert agent.process is not None
        agent.process.send_signal(1)
        with contextlib.suppress(AssertionError):  # each case says for itself what it lacks
            fleet.finish(table, timeout=20)
        for name, relay in relays.items():
            seen[name] = {
                "told": told.get(name),
                "wait": waits.get(name),
                "errors": fleet.errors[name],
                "accepted before": before[name],
                "taken": Counter(relay.recipients),
                "violations": list(relay.violations),
                "rows": agent.recipients(name),
                "status": agent.status(name),
                "attempts": agent.attempts(name),
                "down": down.get(name),
                "events": agent.events(),
            }
        agent.stop()
    return seen


def _speak_tls(relay: Relay, ca: Authority) -> None:
    relay.tls = ca.valid.context()
    relay.implicit_tls = True


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("name", "fault", "remedy"),
    [
        ("refused", "cannot connect", "`host` and `port`"),
        ("silent", "no answer within 2 s", "`host` and `port`"),
        ("turned-away", "421 4.7.0 too many connections", "`connections`"),
        ("blocked", "554 5.7.1 you are listed", "lets this machine in"),
        ("expired", "certificate has expired", "certificate"),
        ("future", "certificate is not yet valid", "certificate"),
        ("wrong-name", "certificate is not valid for '127.0.0.1'", "certificate"),
        ("untrusted", "unable to get local issuer certificate", "`ca_file`"),
        ("implicit-untrusted", "unable to get local issuer certificate", "`ca_file`"),
        ("no-starttls", "STARTTLS", "`security`"),
        ("plain-for-tls", "TLS failed", "`security`"),
        ("login", "refused the login of me: 535 5.7.8", "`password_file`"),
        ("login-later", "454 4.7.0", "`password_file`"),
        ("no-auth", "AUTH", "`password_file`"),
        ("login-wanted", "530 5.7.0 Authentication required", "`username`"),
        ("full-at-mail", "452 4.3.1", "free disk space"),
        ("full-at-rcpt", "452 4.3.1", "free disk space"),
        ("full-at-dot", "452 4.3.1", "free disk space"),
        ("no-such-host", "cannot be resolved", "`host`"),
    ],
)
def test_trouble_with_the_relay_is_named_within_seconds_and_costs_nobody_anything(
    name: str, fault: str, remedy: str, troubles: dict[str, Any]
) -> None:
    seen = troubles[name]
    # While it lasts: every waiting job says what is wrong and what to do.
    assert seen["told"] is not None
    assert seen["told"] < WITHIN
    assert any(fault in error and remedy in error.partition("; to do: ")[2] for error in seen["errors"]), seen["errors"]
    assert all(error.startswith(f"relay {name}: ") and error.isprintable() for error in seen["errors"])
    assert seen["wait"]["status"]["reason"] == "relay"
    assert seen["wait"]["status"]["next_at"] is not None
    assert seen["wait"]["status"]["counts"]["queued"] == 3
    assert "; to do: " in seen["wait"]["text"]
    assert seen["accepted before"] == 0
    # Repaired: everybody gets the message once, and it was the first attempt.
    assert dict(seen["taken"]) == {f"{local}@{name}.example": 1 for local in ("ada", "bob", "cid")}
    assert [(row["state"], row["attempts"]) for row in seen["rows"]] == [("sent", "1")] * 3
    assert [attempt["result"] for attempt in seen["attempts"]] == ["sent"] * 3
    assert seen["status"]["counts"]["sent"] == seen["status"]["total"] == 3
    assert seen["status"]["relay_error"] is None
    if name != "plain-for-tls":  # a TLS greeting is no SMTP
        assert seen["violations"] == []
    # The log and the agent's own state say it too.
    names = [event["event"] for event in seen["events"] if event.get("relay") == name]
    assert "relay.down" in names
    if name != "no-such-host":  # that one was replaced by the new configuration
        assert "relay.up" in names
    assert seen["down"] is not None
    assert "; to do: " in seen["down"]["error"]


def test_password_of_a_refused_login_is_nowhere_in_the_reports(troubles: dict[str, Any]) -> None:
    assert "secret" not in str(troubles["login"]["errors"])
    assert "-secret" not in str(troubles["login"]["events"])


def test_tls_below_what_is_safe_is_refused(ca: Authority, tmp_path: Path) -> None:
    context = ca.valid.context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    relay = Relay(tls=context)
    with relay, Agent(tmp_path, relay.port, relay={"security": "starttls", "ca_file": str(ca.pem)}) as agent:
        agent.start().drop("old")
        status = agent.wait_state("old", "waiting")
        assert "TLS" in status["relay_error"]
        assert "`security`" in status["relay_error"]
        assert relay.accepted == []


# --- a relay that breaks everything -----------------------------------------------------------------------------------


def test_a_relay_that_breaks_every_transaction_rests_instead_of_spending_everybodys_attempts(tmp_path: Path) -> None:
    relay = Relay(rules=[Rule("DATA", Hang())])
    options = {"connections": 1, "recipients_per_message": 1, "timeouts": {"command": "1s"}}
    with relay, Agent(tmp_path, relay.port, relay=options, config={"retry": {"every": "2s", "for": "1h"}}) as agent:
        to = [f"user{number}@one.example" for number in range(30)]
        agent.start().drop("broken", to)
        status = wait_for(lambda: (found := agent.status("broken")) and found["relay_error"] and found, 10)
        assert "ends or stalls the connection in the middle of a message" in status["relay_error"]
        assert status["counts"]["queued"] >= 30 - 4
        assert status["counts"]["failed"] == 0
        relay.rules.clear()
        agent.wait_state("broken", "finished")
        assert Counter(relay.recipients) == Counter(to)


def test_a_restart_while_the_relay_is_down_loses_nothing(agent: Agent, relay: Relay) -> None:
    relay.stop()
    agent.start().drop("patient", ["ada@one.example"])
    agent.wait_state("patient", "waiting")
    assert agent.stop() == 0
    relay.start()
    agent.start()
    agent.wait_state("patient", "finished")
    assert relay.recipients == ["ada@one.example"]


def test_jobs_that_come_while_the_relay_is_down_say_so_at_once(agent: Agent, relay: Relay) -> None:
    relay.stop()
    agent.start().drop("first")
    agent.wait_state("first", "waiting")
    for number in range(2):
        begun = time.monotonic()
        agent.drop(f"later-{number}", [f"user{number}@one.example"])
        status = agent.wait_state(f"later-{number}", "waiting")
        assert status["reason"] == "relay"
        assert "cannot connect" in status["relay_error"]
        assert time.monotonic() - begun < WITHIN
    relay.start()
    for name in ("first", *(f"later-{number}" for number in range(2))):
        agent.wait_state(name, "finished")
    assert len(relay.recipients) == 3
