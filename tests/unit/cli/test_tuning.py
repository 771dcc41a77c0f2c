"""What the agent sets in libraries by ctypes is set only where it takes, and told where it does not."""

import ctypes
import subprocess
import sys

import pytest

from spoold.cli import run
from spoold.storage import kernel
from tests.servers.inprocess import Log, capture


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    return capture(monkeypatch)


class Library:
    """One that answers what a test wants."""

    def __init__(self, **answers: object) -> None:
        self.called: list[str] = []
        for name, answer in answers.items():
            setattr(self, name, self._function(name, answer))

    def _function(self, name: str, answer: object) -> object:
        class Function:
            restype: object = None

            def __call__(_, *__: object) -> object:  # noqa: N805 - self is the library
                self.called.append(name)
                return answer

        return Function()


def test_sqlite_of_another_build_is_left_alone(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Library(
        sqlite3_sourceid=b"2020-01-01 another one", sqlite3_shutdown=0, sqlite3_config=0, sqlite3_initialize=0
    )
    monkeypatch.setattr(ctypes, "CDLL", lambda *_: other)
    run._count_no_allocations()
    assert other.called == ["sqlite3_sourceid"]
    [told] = log.of("agent.untuned")
    assert told["reason"] == "the library that is found is not the one that Python uses"


def test_module_without_a_library_of_its_own_is_told(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def built_in() -> str:
        raise AttributeError("module '_sqlite3' has no attribute '__file__'")

    monkeypatch.setattr(run, "_sqlite_module", built_in)
    run._count_no_allocations()
    [told] = log.of("agent.untuned")
    assert told["reason"].startswith("its library cannot be called: ")


@pytest.mark.parametrize("library", [Library(), Library(mallopt=0)], ids=["missing", "refuses"])
def test_heap_that_cannot_be_shared_is_told(log: Log, monkeypatch: pytest.MonkeyPatch, library: Library) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_: library)
    run._share_heap()
    assert [told["setting"] for told in log.of("agent.untuned")] == ["one heap"]


def test_settings_take_here() -> None:
    program = """
import spoold.event, spoold.cli.run as run
told = []
spoold.event._logger = type("", (), {"debug": lambda self, event, **fields: told.append(fields)})()
run._share_heap(); run._count_no_allocations()
print(told)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_library_without_the_calls_for_speed_is_used_without_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    for name in ("_syscall", "_preadv2", "_syncfs", "_sync_file_range"):
        monkeypatch.setattr(kernel, name, None)
    assert kernel.read_cached(0, "anything", kernel.ReadBuffer(10)) is None
    with open(f"{tmp_path}/file", "wb") as file:
        kernel.write_out(file.fileno())
        kernel.sync_filesystem(file.fileno())
