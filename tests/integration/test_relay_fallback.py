"""While a relay is down its fallback takes over, and the report says so; once it is repaired, it serves again."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.servers.agent import wait_for
from tests.servers.fleet import Fleet
from tests.servers.relay import Delay, Relay, Rule


def test_the_fallback_takes_over_while_the_relay_is_down_and_the_report_says_so(tmp_path: Path) -> None:
    second, third = Relay(), Relay()
    relays = {"default": Relay(), "second": second, "third": third}
    settings: dict[str, dict[str, Any]] = {
        "default": {"fallback": "second"},
        "second": {"fallback": "third", "timeouts": {}},
    }
    with Fleet(tmp_path, relays, settings=settings) as fleet:
        relays["default"].stop()
        agent = fleet.agent.start()
        second.rules.append(Rule("DOT", Delay(3)))
        agent.drop("urgent", ["ada@one.example"])
        status = wait_for(lambda: (found := agent.status("urgent")) and found["relay_error"] and found, 5)
        assert status["relay_error"].startswith("relay default: ")
        assert "meanwhile relay second is used" in status["relay_error"]
        agent.wait_state("urgent", "finished")
        assert second.recipients == ["ada@one.example"]
        assert [attempt["relay"] for attempt in agent.attempts("urgent")] == ["second"]
        # The next in line, too.
        second.stop()
        agent.drop("more", ["bob@one.example"])
        agent.wait_state("more", "finished")
        assert third.recipients == ["bob@one.example"]
        assert relays["default"].recipients == []


def test_after_its_repair_the_first_relay_takes_over_again_while_the_fallback_is_quick_and_idle(
    tmp_path: Path,
) -> None:
    relays = {"default": Relay(), "second": Relay()}
    with Fleet(tmp_path, relays, settings={"default": {"fallback": "second"}}) as fleet:
        relays["default"].stop()
        agent = fleet.agent.start()
        agent.drop("before", ["ada@one.example"])
        agent.wait_state("before", "finished")
        relays["default"].start()
        for number in range(16):
            agent.drop(f"after-{number}", [f"user{number}@one.example"])
            agent.wait_state(f"after-{number}", "finished")
            if relays["default"].recipients:
                break
            time.sleep(0.4)  # its rest: two seconds, in which the fallback serves
        assert relays["default"].recipients
        assert agent.events("relay.up")
        everybody = Counter(relays["default"].recipients + relays["second"].recipients)
        assert set(everybody.values()) == {1}
