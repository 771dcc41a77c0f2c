"""A database of another version: a newer one is refused and never touched, an older one is kept and brought up to date."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from spoold.storage.database import DatabaseError
from spoold.storage.schema import VERSION
from spoold.storage.upgrade import form_of, open_database
from tests.servers.agent import Agent


def stamp(path: Path, form: int) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {form}")


def content(folder: Path) -> dict[str, bytes]:
    """What the files are, but for those that say nothing."""
    files = {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith("-shm")}
    return {name: data for name, data in files.items() if data and name != "lock"}


@pytest.fixture
def database(agent: Agent) -> Path:
    """That of a spool with one finished job, whose agent has ended."""
    agent.start()
    agent.drop("sale", ["ada@one.example"])
    agent.wait_state("sale", "finished")
    assert agent.stop() == 0
    return agent.spool / ".spoold" / "spool.db"


@pytest.mark.parametrize("killed", [False, True])
def test_newer_form_is_refused_by_every_command_and_nothing_is_changed(
    agent: Agent, database: Path, killed: bool
) -> None:
    """`killed`: the newer program's log still stands beside it, and has what the header has not."""
    stamp(database, 99)
    if killed:
        with closing(sqlite3.connect(database)) as writer:
            writer.execute("PRAGMA user_version = 98")
            copies = [
                (database.with_name(name), database.with_name(name).read_bytes())
                for name in os.listdir(database.parent)
            ]
        for path, data in copies:
            path.write_bytes(data)
        assert int.from_bytes(database.read_bytes()[60:64]) == 99
    form = 98 if killed else 99
    assert form_of(database) == form
    before = content(database.parent)
    for arguments in (
        ("run", "--drain"), ("resend", "sale", "--state", "sent"), ("dsn", "sale"), ("check", "--deep", "--repair"),
        ("purge", "--older-than", "1s", "--yes"),
    ):  # fmt: skip
        done = agent.command(*arguments)
        assert done.returncode == 1, arguments
        line = next(line for line in done.stderr.splitlines() if str(form) in line)
        assert f"{database}: was written by a newer version (form {form}, expected {VERSION}); use that" in line
        assert content(database.parent) == before, arguments


@pytest.fixture
def older(agent: Agent, database: Path) -> Path:
    """The same as version 3 left it."""
    with closing(sqlite3.connect(database)) as writer:
        writer.execute("DROP TABLE time_tally")
        writer.execute("PRAGMA user_version = 3")
    return database


def copies(database: Path) -> list[str]:
    return sorted(name for name in os.listdir(database.parent) if "before" in name)


def test_older_form_is_kept_whole_and_told_once(agent: Agent, older: Path) -> None:
    agent.start()
    [told] = agent.events("agent.migrated")
    copy = older.with_name("spool.db.before-3")
    assert (told["copy"], told["form"]) == (str(copy), VERSION)
    assert copy.stat().st_mode & 0o077 == 0
    with closing(sqlite3.connect(copy)) as kept:
        assert kept.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert kept.execute("PRAGMA user_version").fetchone() == (3,)
        assert kept.execute("SELECT name FROM job").fetchall() == [("sale",)]
    assert agent.command("check", "--deep").returncode == 0
    agent.stop()
    agent.start()
    assert agent.events("agent.migrated") == []
    assert copies(older) == ["spool.db.before-3"]


def test_new_spool_needs_no_copy(agent: Agent) -> None:
    agent.start()
    assert agent.events("agent.migrated") == []
    assert copies(agent.spool / ".spoold" / "spool.db") == []


def test_who_goes_back_and_comes_again_has_the_copy_of_the_last_time(agent: Agent, older: Path) -> None:
    agent.start()
    agent.stop()
    # The older program, which refuses nothing, works on the newer database, and leaves its own number.
    with closing(sqlite3.connect(older)) as writer:
        writer.execute("UPDATE job SET name = 'changed'")
        writer.execute("PRAGMA user_version = 3")
        writer.commit()
    (agent.spool / "done" / "sale").rename(agent.spool / "done" / "changed")
    agent.start()
    assert len(agent.events("agent.migrated")) == 1
    agent.stop()
    with closing(sqlite3.connect(older.with_name("spool.db.before-3"))) as kept:
        assert kept.execute("SELECT name FROM job").fetchall() == [("changed",)]
    with closing(sqlite3.connect(older)) as now:
        assert now.execute("SELECT sum(n) FROM time_tally").fetchone() == (1,)


@pytest.mark.parametrize("moment", ["before the copy's name", "after the copy"])
def test_upgrade_can_be_repeated_after_a_kill(older: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    class KilledError(Exception):
        pass

    def killed(*_: object, **__: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        if moment == "after the copy":
            patch.setattr("spoold.storage.upgrade.Database", killed)
        else:
            patch.setattr("spoold.storage.upgrade._sync", killed)
        with pytest.raises(KilledError):
            open_database(older)
    assert form_of(older) == 3
    database, copy = open_database(older)
    database.close()
    assert copy == older.with_name("spool.db.before-3")
    assert form_of(older) == VERSION
    assert copies(older) == ["spool.db.before-3"]


def test_older_form_stays_as_it_is_where_it_cannot_be_kept(older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("spoold.storage.upgrade._sync", full)
    before = content(older.parent)
    with pytest.raises(
        DatabaseError, match=r"could not be kept: No space left on device; nothing was changed; free \d+ MB"
    ):
        open_database(older)
    assert content(older.parent) == before


def test_reading_a_form_makes_no_file(database: Path, tmp_path: Path) -> None:
    looks: list[Callable[[], object]] = [lambda: form_of(database), lambda: form_of(tmp_path / "none")]
    before = content(database.parent)
    assert [look() for look in looks] == [VERSION, None]
    assert content(database.parent) == before
    (tmp_path / "link").symlink_to(database)
    with pytest.raises(DatabaseError, match="Too many levels of symbolic links"):
        form_of(tmp_path / "link")
