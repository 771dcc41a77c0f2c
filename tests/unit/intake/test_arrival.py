"""How an upload came into new/: only what its sender did counts, and only for the very folder that came."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from watchdog.events import DirCreatedEvent, DirDeletedEvent, DirMovedEvent, FileClosedEvent, FileSystemEvent

from spoold.core.completeness import IntakePolicy, Rule
from spoold.intake.claim import claim, give_back
from spoold.intake.inbox import Inbox
from spoold.intake.rest import Rest
from spoold.intake.upload import Seen, Upload
from spoold.intake.watcher import Watcher
from spoold.storage.spooldir import Spool

FILES = {
    "job.yaml": "sender: a@b.example\n",
    "recipients.csv": "address\nada@b.example\n",
    "message.eml": "Subject: x\n\nx\n",
}


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (lambda new: DirMovedEvent("", f"{new}/job"), [("job", True)]),
        (lambda new: DirCreatedEvent(f"{new}/job"), [("job", False)]),
        (lambda new: DirDeletedEvent(f"{new}/job"), [("job", False)]),
        (lambda new: DirMovedEvent(f"{new}/job", ""), [("job", False)]),
        (lambda new: DirMovedEvent(f"{new}/job", f"{new}/other"), [("job", False), ("other", False)]),
        (lambda new: FileClosedEvent(f"{new}/mail.eml"), [("mail.eml", None)]),
        (lambda new: DirMovedEvent(f"{new}/job", f"{new}/.claim-job"), []),
        (lambda new: DirMovedEvent(f"{new}/.claim-job", f"{new}/job"), []),
        (lambda new: DirMovedEvent(f"{new}/.picked-1-2-mail", f"{new}/mail"), []),
    ],
)
async def test_renames_of_the_agents_own_are_no_hints(
    spool: Spool, event: Callable[[str], FileSystemEvent], told: list[tuple[str, bool | None]]
) -> None:
    heard: list[tuple[str, bool | None]] = []
    watcher = Watcher(spool, asyncio.get_running_loop(), lambda name, how: heard.append((name, how)))
    watcher.dispatch(event(f"{spool.path.resolve()}/new"))
    await asyncio.sleep(0)
    assert heard == told


def _write(spool: Spool, name: str = "job") -> Path:
    folder = spool.path / "new" / name
    folder.mkdir()
    for file, text in FILES.items():
        (folder / file).write_text(text)
    return folder


class Looking:
    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self.now = 1000.0
        self.inbox = Inbox(
            spool.files,
            IntakePolicy(),
            ZoneInfo("UTC"),
            rest=Rest(lambda: self.now, lambda: self.now),
            monotonic=lambda: self.now,
        )

    def look(self, upload: Upload) -> Seen:
        with self._spool.job("new", upload.name) as root:
            return self.inbox.look(root, upload)


def test_upload_that_came_back_unchanged_is_what_it_was(spool: Spool) -> None:
    _write(spool)
    looking, upload = Looking(spool), Upload("job", 0, 0, renamed_in=True)
    seen = looking.look(upload)
    assert seen.verdict.rule is Rule.RENAMED
    looking.inbox.remember(seen, renamed_in=True)
    assert give_back(spool, claim(spool, "job")) == "job"
    assert looking.look(upload).verdict.rule is Rule.RENAMED
    # The same under another name.
    assert looking.look(Upload("job", 0, 0)).verdict.rule is Rule.RENAMED


def test_upload_that_came_back_with_something_else_in_it_has_to_rest(spool: Spool) -> None:
    folder = _write(spool)
    looking, upload = Looking(spool), Upload("job", 0, 0, renamed_in=True)
    looking.inbox.remember(looking.look(upload), renamed_in=True)
    (folder / "message.eml").write_text("Subject: y\n\nlonger\n")
    assert looking.look(upload).verdict.waits_for == "30 s without a change"
    looking.now += 31
    assert looking.look(upload).verdict.rule is Rule.QUIET


@pytest.mark.parametrize("word", [None, "READY"])
def test_upload_that_came_back_smaller_waits_for_what_vanished_however_long(spool: Spool, word: str | None) -> None:
    folder = _write(spool)
    (folder / "more.txt").touch()
    if word is not None:
        (folder / word).touch()
    looking, upload = Looking(spool), Upload("job", 0, 0, renamed_in=True)
    looking.inbox.remember(looking.look(upload), renamed_in=True)
    (folder / "more.txt").unlink()
    for _ in range(3):
        looking.now += 100
        verdict = looking.look(upload).verdict
        assert verdict.rule is None
        assert (verdict.waits_for or "").startswith("more.txt, which vanished while the upload was being taken")
    looking.now += 86400
    assert looking.look(upload).verdict.rule is Rule.STALE


def test_another_folder_of_the_name_is_not_renamed_in_because_the_first_was(spool: Spool) -> None:
    first = _write(spool)
    looking, upload = Looking(spool), Upload("job", 0, 0, renamed_in=True)
    assert looking.look(upload).verdict.rule is Rule.RENAMED
    first.rename(spool.path / "first")
    _write(spool)
    assert looking.look(upload).verdict.rule is None
    assert not upload.renamed_in


def test_another_upload_with_the_same_inode_owes_nothing(spool: Spool) -> None:
    folder = _write(spool)
    looking, upload = Looking(spool), Upload("job", 0, 0, renamed_in=True)
    looking.inbox.remember(looking.look(upload), renamed_in=True)
    for path in folder.iterdir():
        path.rename(spool.path / path.name)
    (folder / "job.yaml").write_text("sender: later@b.example\nrecipients: [ada@b.example]\n")
    (folder / "message.eml").write_text("Subject: x\n\nx\n")
    looking.look(upload)
    looking.now += 31
    assert looking.look(upload).verdict.rule is Rule.QUIET


def test_another_upload_with_the_same_inodes_is_taken_by_how_it_came(spool: Spool) -> None:
    # A copied upload is removed, and the next one gets its inodes, before the agent has forgotten the first.
    folder = _write(spool)
    (folder / "more.txt").touch()
    looking = Looking(spool)
    looking.inbox.remember(looking.look(Upload("job", 0, 0)), renamed_in=False)
    (folder / "more.txt").unlink()
    for path in folder.iterdir():
        path.write_text(path.read_text() + "\n")
    folder.rename(spool.path / "new" / "next")
    assert looking.look(Upload("next", 0, 0, renamed_in=True)).verdict.rule is Rule.RENAMED


def test_what_the_agent_gives_back_at_its_start_rests_anew(spool: Spool) -> None:
    folder = _write(spool)
    key = claim(spool, "job")
    long_ago = os.stat(spool.path / "new" / f".claim-{key}").st_ctime - 10
    give_back(spool, key)
    looking, upload = Looking(spool), Upload("job", 0, 0)
    looking.now = folder.stat().st_ctime + 1
    assert looking.look(upload).verdict.waits_for == "30 s without a change"
    assert long_ago < upload.changed_at
