"""What the service manager is told: every step, that the agent lives, and what is wrong with a relay."""

import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from tests.servers.agent import Agent, wait_for
from tests.servers.relay import Delay, Relay, Rule
from tests.servers.upload import addresses


def test_service_manager_is_told_of_every_step(agent: Agent, relay: Relay, tmp_path: Path) -> None:
    # Longer than the four seconds at most between two words to the service manager, so that one falls into it.
    relay.rules.append(Rule("DOT", Delay(4.5)))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        told: list[dict[str, str]] = []

        def seen(name: str, wanted: Callable[[str], bool] = lambda _: True) -> list[dict[str, str]]:
            while True:
                try:
                    data = manager.recv(4096).decode()
                except BlockingIOError:
                    break
                told.append(dict(line.split("=", 1) for line in data.splitlines()))
            return [message for message in told if name in message and wanted(message[name])]

        watched = Agent(
            tmp_path, relay.port, environ={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}
        )
        with watched:
            watched.start()
            ready = wait_for(lambda: seen("READY"))
            assert ready[0]["READY"] == "1"
            assert ready[0]["STATUS"].startswith("0 jobs, 0 recipients to send")
            first = len(wait_for(lambda: seen("WATCHDOG")))
            begin = time.monotonic()
            wait_for(lambda: len(seen("WATCHDOG")) >= first + 4)
            assert time.monotonic() - begin < 4 * 0.6
            watched.drop("job", addresses(3))
            wait_for(lambda: seen("STATUS", lambda text: text.startswith("1 jobs, 3 recipients to send")), 6)
            process = watched.process
            assert process is not None
            process.send_signal(signal.SIGHUP)
            wait_for(lambda: len(seen("READY")) == 2)
            [reloading] = seen("RELOADING")
            assert int(reloading["MONOTONIC_USEC"]) > 0
            watched.wait_state("job", "finished")
            watched.drop("last")
            relay.wait_for(lambda _: relay.bodies == 2)
            process.send_signal(signal.SIGTERM)
            stopping = wait_for(lambda: seen("STOPPING"))
            assert "waiting for 1 open" in stopping[0]["STATUS"]
            assert watched.died() == 0
            assert seen("EXTEND_TIMEOUT_USEC")
            order = [next(iter(message)) for message in told]
            assert order.index("READY") < order.index("WATCHDOG")
            assert order.index("READY") < order.index("STOPPING")
            assert len(watched.status("last")["counts"]) == 8  # type: ignore[index]
            assert sorted(relay.recipients) == sorted([*addresses(3), "ada@one.example"])


def test_relay_that_is_down_stands_in_the_service_s_status(agent: Agent, relay: Relay, tmp_path: Path) -> None:
    relay.stop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        with Agent(tmp_path, relay.port, environ={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as watched:
            watched.start()
            watched.drop("job")
            deadline = time.monotonic() + 10
            while "relay down: default" not in manager.recv(4096).decode():
                assert time.monotonic() < deadline
