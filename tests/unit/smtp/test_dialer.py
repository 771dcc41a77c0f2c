"""A relay whose name has several addresses is reached by whichever of them works, in time, on both event loops."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from spoold.core.fault import Fault, FaultKind
from spoold.smtp.connection import connect
from spoold.smtp.dialer import SHUNNED, Memory
from spoold.smtp.relay import Relay as Settings
from spoold.smtp.relay import Security, Timeouts
from spoold.smtp.resolver import Endpoint, endpoints
from spoold.smtp.session import Session
from tests.servers.certificate import Authority
from tests.servers.relay import Hang, Relay, Reply, Rule

NAME = "relay.test"
Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(work)

    return run


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What the system answers for a name: its addresses, in this order."""
    known: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *rest: Any, **more: Any) -> Any:
        if host not in known:
            return real(host, port, *rest, **more)
        return [answer for ip in known[host] for answer in real(ip, port, *rest, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


def settings(port: int, *, connect: float = 5.0, **others: Any) -> Settings:
    return Settings("r", NAME, port, **{"security": Security.NONE, "timeouts": Timeouts(connect=connect), **others})


async def visit(relay: Settings, memory: Memory | None = None) -> tuple[str | Fault, float]:
    """Whom a session leads to, or what is in its way; and how many seconds it took to know."""
    begun = time.monotonic()
    found = await connect(relay, memory)
    took = time.monotonic() - begun
    if isinstance(found, Fault):
        return found, took
    peer = found.transport_info("peername")
    await found.close()
    assert isinstance(found, Session)
    assert isinstance(peer, tuple)
    return str(peer[0]), took


@contextlib.contextmanager
def silent(ip: str, port: int) -> Iterator[None]:
    """An address that swallows packets: its listener's queue is full, so the kernel answers no SYN."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ip, port))
        listener.listen(0)
        while True:
            filler = stack.enter_context(socket.socket(listener.family))
            filler.settimeout(0.2)
            try:
                filler.connect((ip, port))
            except TimeoutError:
                break
        yield


@pytest.mark.parametrize("first", ["127.0.0.2", "::1"])
def test_silent_address_does_not_keep_from_the_next(
    run: Run, relay: Relay, names: dict[str, list[str]], first: str
) -> None:
    names[NAME] = [first, "127.0.0.1"]
    with silent(first, relay.port):
        where, took = run(visit(settings(relay.port)))
    assert where == "127.0.0.1"
    assert took < 2


def test_refusing_address_does_not_keep_from_the_next(run: Run, relay: Relay, names: dict[str, list[str]]) -> None:
    names[NAME] = ["127.0.0.2", "127.0.0.3", "127.0.0.1"]
    where, took = run(visit(settings(relay.port)))
    assert where == "127.0.0.1"
    assert took < 1


@pytest.mark.parametrize(
    "rule",
    [Rule("connect", Hang()), Rule("connect", Reply("421 4.3.2 not here")), Rule("EHLO", Reply("554 5.7.1 not here"))],
    ids=["no greeting", "turned away", "EHLO refused"],
)
def test_address_that_answers_and_lets_nobody_in_does_not_keep_from_the_next(
    run: Run, relay: Relay, names: dict[str, list[str]], rule: Rule
) -> None:
    names[NAME] = ["127.0.0.2", "127.0.0.1"]
    with Relay(host="127.0.0.2", port=relay.port, rules=[rule]) as bad:
        memory = Memory()
        where, took = run(visit(settings(relay.port, connect=2.0), memory))
        assert where == "127.0.0.1"
        assert took < 2
        # The next connection does not pay for it again.
        where, took = run(visit(settings(relay.port, connect=2.0), memory))
        assert (where, bad.connections) == ("127.0.0.1", 1)
        assert took < 0.5


def test_fault_names_all_addresses_that_were_tried_and_comes_in_time(
    run: Run, relay: Relay, names: dict[str, list[str]]
) -> None:
    relay.stop()
    names[NAME] = ["::1", "127.0.0.2", "127.0.0.3"]
    with silent("127.0.0.2", relay.port), silent("127.0.0.3", relay.port):
        fault, took = run(visit(settings(relay.port, connect=1.5)))
    assert isinstance(fault, Fault)
    assert fault.kind is FaultKind.CONNECT
    assert fault.text == (
        f"{NAME}:{relay.port}: [::1]: cannot connect: Connection refused; "
        "127.0.0.2: no answer within 1.5 s; 127.0.0.3: no answer within 1.5 s"
    )
    assert 1.2 < took < 2.5


def test_several_addresses_that_do_not_greet_share_the_time(
    run: Run, relay: Relay, names: dict[str, list[str]]
) -> None:
    relay.rules.append(Rule("connect", Hang()))
    names[NAME] = ["127.0.0.2", "127.0.0.3", "127.0.0.1"]
    hang = [Rule("connect", Hang())]
    with (
        Relay(host="127.0.0.2", port=relay.port, rules=hang) as two,
        Relay(host="127.0.0.3", port=relay.port, rules=hang) as three,
    ):
        fault, took = run(visit(settings(relay.port, connect=1.5)))
        assert [each.connections for each in (two, three, relay)] == [1, 1, 1]
    assert isinstance(fault, Fault)
    assert all(f"{ip}: no answer within 1.5 s" in fault.text for ip in names[NAME])
    assert took < 2.5


def test_login_is_tried_at_one_address_alone(run: Run, relay: Relay, names: dict[str, list[str]]) -> None:
    relay.credentials = ("me", "right")
    names[NAME] = ["127.0.0.2", "127.0.0.1"]
    with Relay(host="127.0.0.2", port=relay.port, credentials=relay.credentials):
        fault, _ = run(visit(settings(relay.port, username="me", password=lambda: "wrong")))
    assert isinstance(fault, Fault)
    assert fault.kind is FaultKind.LOGIN
    assert relay.connections == 0


def test_address_with_a_bad_certificate_does_not_keep_from_the_next(
    run: Run, ca: Authority, names: dict[str, list[str]]
) -> None:
    names["localhost"] = ["127.0.0.2", "127.0.0.1"]
    with Relay(tls=ca.valid.context()) as good:
        given = Settings(
            "r", "localhost", good.port, Security.STARTTLS, ca_file=str(ca.pem), timeouts=Timeouts(connect=5.0)
        )
        with Relay(host="127.0.0.2", port=good.port, tls=ca.expired.context()):
            assert run(visit(given))[0] == "127.0.0.1"


def test_families_take_turns(run: Run, names: dict[str, list[str]]) -> None:
    names[NAME] = ["::1", "::2", "::3", "127.0.0.1", "127.0.0.2"]
    found = run(endpoints(NAME, 25))
    assert [str(each) for each in found] == ["[::1]", "127.0.0.1", "[::2]", "127.0.0.2", "[::3]"]


def test_address_that_failed_waits_for_the_others_for_a_while() -> None:
    now = [0.0]
    memory = Memory(lambda: now[0])
    one, two = (Endpoint(socket.AF_INET, (ip, 25)) for ip in ("127.0.0.1", "127.0.0.2"))
    memory.failed(one)
    assert memory.order([one, two]) == [two, one]
    now[0] = SHUNNED
    assert memory.order([one, two]) == [one, two]
