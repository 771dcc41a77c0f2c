"""Fixtures that all tests share: the servers. They are started when first asked for."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.servers.agent import Agent
from tests.servers.certificate import Authority
from tests.servers.postfix import Postfix
from tests.servers.relay import Relay
from tests.servers.sshd import Sshd

# How long an example takes says something of the machine, and nothing of what is tested.
settings.register_profile("spoold", deadline=None)
settings.load_profile("spoold")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "agent(relay=..., config=...): the configuration of the fixture `agent`")


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The certificate authority of this test run, with right and wrong server certificates."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def running_postfix(ca: Authority) -> Iterator[Postfix]:
    """The one Postfix of this test run; tests ask for `postfix`."""
    with Postfix(certificate=ca.valid, login=("postman", "secret")) as server:
        yield server


@pytest.fixture
def postfix(running_postfix: Postfix) -> Postfix:
    """A real Postfix with empty mailboxes: STARTTLS, a TLS port, and login `postman`/`secret` offered, none
    required.
    """
    running_postfix.reset()
    return running_postfix


@pytest.fixture(scope="session")
def sshd() -> Iterator[Sshd]:
    """A real sshd to upload through."""
    with Sshd() as server:
        yield server


@pytest.fixture
def relay() -> Iterator[Relay]:
    """A scripted relay without TLS, login or rules; more is set on it, or built with `Relay(...)`."""
    with Relay() as server:
        yield server


@pytest.fixture
def agent(request: pytest.FixtureRequest, tmp_path: Path, relay: Relay) -> Iterator[Agent]:
    """A real agent, not started yet, whose default relay is `relay`. The marker `agent` says how it is configured."""
    marker = request.node.get_closest_marker("agent")
    with Agent(tmp_path, relay.port, **(marker.kwargs if marker else {})) as process:
        yield process
