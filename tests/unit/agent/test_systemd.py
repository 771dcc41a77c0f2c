"""The service manager's side is a real AF_UNIX datagram socket."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from spoold.agent.systemd import STATUS_LIMIT, ServiceManager


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "n"))
        sock.settimeout(5)
        yield sock


@pytest.fixture
def service_manager(manager: socket.socket) -> ServiceManager:
    return ServiceManager({"NOTIFY_SOCKET": manager.getsockname()})


def lines(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def test_ready_carries_the_status_in_the_same_datagram(service_manager: ServiceManager, manager: socket.socket) -> None:
    assert service_manager.ready("3 jobs, relay default is up")
    assert lines(manager) == ["READY=1", "STATUS=3 jobs, relay default is up"]


def test_every_message_is_the_word_of_sd_notify(service_manager: ServiceManager, manager: socket.socket) -> None:
    service_manager.status("sending 12 of 40")
    service_manager.watchdog()
    service_manager.stopping("2 transactions are open")
    service_manager.extend(90.5)
    received = [lines(manager) for _ in range(4)]
    assert received == [
        ["STATUS=sending 12 of 40"],
        ["WATCHDOG=1"],
        ["STOPPING=1", "STATUS=2 transactions are open"],
        ["EXTEND_TIMEOUT_USEC=90500000"],
    ]


def test_reloading_carries_the_monotonic_time_in_microseconds(
    service_manager: ServiceManager, manager: socket.socket
) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    service_manager.reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    word, stamp = lines(manager)
    assert word == "RELOADING=1"
    assert before <= int(stamp.removeprefix("MONOTONIC_USEC=")) <= after


def test_a_line_end_in_a_status_cannot_forge_a_second_message(
    service_manager: ServiceManager, manager: socket.socket
) -> None:
    service_manager.status("job a\nREADY=1\r\nMAINPID=1\x1b[2J\0")
    [line] = lines(manager)
    assert line.startswith("STATUS=job a")
    assert not any(ord(char) < 0x20 for char in line)


def test_a_status_with_bytes_that_are_no_utf_8_is_sent_all_the_same(
    service_manager: ServiceManager, manager: socket.socket
) -> None:
    assert service_manager.status("job caf\udce9 zu Fuß")
    [line] = lines(manager)
    assert line.startswith("STATUS=job caf")
    assert line.endswith(" zu Fuß")


def test_an_endless_status_is_cut_to_what_systemd_reads(
    service_manager: ServiceManager, manager: socket.socket
) -> None:
    service_manager.stopping("\x07ü" * 100_000)
    received = manager.recv(100_000)
    assert len(received) < 4096
    assert len(received.decode()) <= len("STOPPING=1\nSTATUS=") + STATUS_LIMIT + 10


def test_an_abstract_socket_is_reached_by_its_at_sign() -> None:
    name = f"spoold-test-{os.getpid()}-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(b"\0" + name.encode())
        sock.settimeout(5)
        assert ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).watchdog()
        assert sock.recv(4096) == b"WATCHDOG=1"


@pytest.mark.parametrize("name", [None, "", "/", "@", "relative", "vsock:2:1234"])
def test_without_a_socket_it_can_reach_every_call_does_nothing(name: str | None) -> None:
    service_manager = ServiceManager({} if name is None else {"NOTIFY_SOCKET": name})
    assert not service_manager.ready("up")
    assert not service_manager.watchdog()
    assert not service_manager.stopping("")
    assert service_manager.watchdog_interval is None


def test_a_socket_that_is_gone_raises_nothing(tmp_path: Path) -> None:
    assert not ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("up")
    assert not ServiceManager({"NOTIFY_SOCKET": "/" + "x" * 500}).ready("up")
    assert not ServiceManager({"NOTIFY_SOCKET": "/\0"}).ready("up")


def test_a_manager_that_reads_nothing_does_not_hold_the_agent_up(
    service_manager: ServiceManager, manager: socket.socket
) -> None:
    began = time.monotonic()
    sent = 0
    while sent < 100_000 and service_manager.watchdog():
        sent += 1
    assert sent < 100_000, "the socket's queue never filled"
    assert time.monotonic() - began < 10
    manager.recv(4096)
    assert service_manager.watchdog()


def test_the_environment_of_the_process_is_the_default(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    service_manager = ServiceManager()
    assert service_manager.watchdog()
    assert service_manager.watchdog_interval == 30


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "1500000"}, 0.75),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "me"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
        ({"WATCHDOG_USEC": "1m"}, None),
        ({}, None),
    ],
)
def test_watchdog_interval_is_half_the_manager_s_and_only_for_this_process(
    environ: dict[str, str], interval: float | None
) -> None:
    assert ServiceManager(environ).watchdog_interval == interval
