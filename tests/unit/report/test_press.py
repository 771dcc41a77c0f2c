"""The press: pages from the newest word, seldom, and never an older one in the place of a newer."""

import functools
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from spoold.core.state import RecipientState
from spoold.report.press import Press
from spoold.report.status import Status
from spoold.storage.database import Database
from spoold.storage.files import Files
from spoold.storage.ledger import Ledger
from spoold.storage.record import JobRow
from spoold.storage.schema import SCHEMA
from spoold.storage.spooldir import Spool
from spoold.storage.store import Store
from tests.servers.agent import wait_for
from tests.unit.storage.admitting import NOW, admit

COUNTS = dict.fromkeys(RecipientState, 0) | {RecipientState.QUEUED: 3}


class Place:
    """A spool with one job in active/, and a press for it."""

    def __init__(self, root: Path, files: Files | None = None) -> None:
        Spool.create(root)
        self.spool = Spool(root, files or Files())
        self.database = Database(self.spool.database)
        self.database.start(SCHEMA)
        self.job_id = admit(self.database, "job", [f"to{n}@one.example" for n in range(3)])
        self.path = root / "active/job/report/index.html"
        self.path.parent.mkdir(parents=True)
        self.press = Press(self.spool, Ledger(self.database), lambda seconds: None)

    def status(self, words: str, sent: int = 0, attempts: int = 0) -> Status:
        row = Store(self.database).job(self.job_id)
        assert isinstance(row, JobRow)
        counts = COUNTS | {RecipientState.QUEUED: 3 - sent, RecipientState.SENT: sent}
        return Status(row, words, "a@example.com", counts, ZoneInfo("UTC"), NOW, None, None, None, attempts)

    def lead(self) -> str | None:
        """The description in the page, None without a page."""
        if not self.path.exists():
            return None
        found = re.search(r'<p class="lead">(.*)</p>', self.path.read_text())
        return found[1] if found else None

    def print_now(self, words: str) -> None:
        files = self.spool.files
        with self.spool.job("active", "job") as root, files.directory(root, ("report",)) as report:
            self.press.print_now(self.status(words), functools.partial(files.replace, report))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Place]]:
    made: list[Place] = []

    def build(files: Files | None = None) -> Place:
        made.append(Place(tmp_path / "spool", files))
        return made[-1]

    yield build
    for place in made:
        place.press.cease()
        place.database.close()
        place.spool.close()


def test_first_offer_is_printed_at_once_and_the_next_one_later(make: Callable[..., Place]) -> None:
    place = make()
    place.press.start()
    place.press.offer(place.status("first"))
    wait_for(lambda: place.lead() == "first")
    place.press.offer(place.status("second", 1))
    place.press.offer(place.status("third", 2))
    assert place.lead() == "first"
    place.press.finish()
    assert place.lead() == "third", "the end waits for nothing"


def test_offer_that_says_nothing_new_is_not_printed(make: Callable[..., Place]) -> None:
    place = make()
    place.print_now("words")
    before = place.path.stat().st_ino
    place.press.offer(place.status("words"))
    place.press.start()
    place.press.finish()
    assert place.path.stat().st_ino == before


def test_retry_that_changes_no_count_is_printed_all_the_same(make: Callable[..., Place]) -> None:
    place = make()
    place.print_now("words")
    before = place.path.stat().st_ino
    place.press.offer(place.status("words", attempts=1))
    place.press.start()
    place.press.finish()
    assert place.path.stat().st_ino != before


def test_page_printed_by_the_mover_is_not_replaced_by_what_was_offered_before(make: Callable[..., Place]) -> None:
    place = make()
    place.press.offer(place.status("older"))
    place.print_now("newer")
    place.press.start()
    place.press.finish()
    assert place.lead() == "newer"


def test_mover_waits_for_a_page_that_is_being_written(make: Callable[..., Place]) -> None:
    entered, go = threading.Event(), threading.Event()

    class Slow(Files):
        def replace(self, parent: int, name: str, chunks: Iterable[bytes], *, durable: bool = False) -> int:
            if threading.current_thread().name == "press":
                entered.set()
                assert go.wait(10)
            return super().replace(parent, name, chunks, durable=durable)

    place = make(Slow())
    place.press.start()
    place.press.offer(place.status("older"))
    assert entered.wait(10)
    mover = threading.Thread(target=place.print_now, args=("newer",))
    mover.start()
    go.set()
    mover.join()
    assert place.lead() == "newer"


def test_job_that_has_left_is_no_error(make: Callable[..., Place], capsys: pytest.CaptureFixture[str]) -> None:
    place = make()
    place.press.offer(place.status("gone"))
    place.path.parent.rmdir()
    place.path.parent.parent.rmdir()
    place.press.start()
    place.press.finish()
    assert capsys.readouterr() == ("", "")


def test_page_shows_where_the_job_stands(make: Callable[..., Place]) -> None:
    place = make()
    place.print_now("words")
    page = place.path.read_text()
    assert "to2@one.example" in page
    assert "0 of 3 recipients done" in page
    assert 'class="badge sending"' in page
