"""A password is in nothing that the agent writes or says, whatever goes wrong with the login."""

import base64
import json
import os
import re
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.servers.agent import Agent, wait_for
from tests.servers.certificate import Authority
from tests.servers.relay import Event, Garbage, Relay, Reply, Rule

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
