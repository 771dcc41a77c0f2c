"""What `spoold check` says of the spool itself: its folders, who may do what in them, its database, and its agent."""

import os
import pwd
import stat
import time
from datetime import datetime

import orjson

from spoold import __version__
from spoold.cli.check.finding import Findings
from spoold.cli.config import Config, SecretFile
from spoold.core.folder import REPORT
from spoold.core.problem import printable
from spoold.core.quantity import format_duration
from spoold.storage.database import DatabaseError
from spoold.storage.entry import Kind, Path, TreeTooLargeError
from spoold.storage.obstacle import ASIDE
from spoold.storage.snapshot import Snapshot
from spoold.storage.spooldir import FOLDERS, PRIVATE, Spool, SpoolError

_STATUS_LIMIT = 64 * 1024 * 1024
#: The agent writes its status at least every five seconds.
_SILENT = 30.0
_OTHERS = 0o007
#: Seconds without a change after which nobody can still be uploading; how much of tmp/ is looked at and named.
_LEFT = 86400.0
_ENTRIES = 100_000
_DEPTH = 100
_NAMED = 5


def check_configuration(found: Config, findings: Findings) -> None:
    """The file, and the passwords that it names."""
    findings.good("configuration", f"configuration {found.path}")
    mode = found.path.stat().st_mode
    if mode & 0o002:
        findings.bad("configuration", f"{found.path} can be written to by everybody", f"chmod o-w {found.path}")
    for relay in found.agent.relays.values():
        if isinstance(relay.password, SecretFile) and (problem := relay.password.problem()) is not None:
            findings.warn("secret", f"relay {relay.name}: {problem}", f"chmod 0600 {relay.password.path}")


def check_spool(found: Config, spool: Spool, findings: Findings) -> None:
    """Owners, modes, file system and lock."""
    path = found.spool
    states = {name: os.fstat(spool.fd(name)) for name in ("tmp", *FOLDERS, PRIVATE)}
    owner = states[PRIVATE].st_uid
    if not (_check_modes(found, spool, states, findings) and _check_user(found, spool, owner, findings)):
        return
    if len({state.st_dev for state in states.values()}) > 1:
        findings.bad(
            "spool.filesystem",
            f"spool {path}: its folders are on different file systems",
            "put them on one: jobs are renamed",
        )
    else:
        try:
            spool.check_mounts()
        except SpoolError as error:
            findings.bad("spool.filesystem", f"spool {error}")
    running = "an agent runs on it" if spool.is_locked() else "no agent runs on it now"
    findings.good("spool", f"spool {path}, {running}")


def _check_modes(found: Config, spool: Spool, states: dict[str, os.stat_result], findings: Findings) -> bool:
    """Whether nobody can do what is not theirs."""
    path, good = found.spool, True
    owner = states[PRIVATE].st_uid
    reachable = stat.S_IMODE(os.fstat(spool.root).st_mode) & 0o001
    for name, state in states.items():
        mode = stat.S_IMODE(state.st_mode)
        place = f"spool {path}: {name}/"
        if name == PRIVATE and mode & 0o077:
            findings.bad("spool.modes", f"{place} has mode {mode:04o}; expected 0700", f"chmod 0700 {path / name}")
            good = False
        elif mode & 0o002:
            findings.bad("spool.modes", f"{place} can be written to by everybody", f"chmod o-rwx {path / name}")
            good = False
        elif name not in ("tmp", "new") and mode & 0o020:
            findings.bad("spool.modes", f"{place} can be written to by its group", f"chmod g-w {path / name}")
            good = False
        elif mode & _OTHERS and reachable:
            findings.warn("spool.modes", f"{place} can be read by everybody", f"chmod o-rwx {path / name}")
        elif name in ("tmp", "new") and mode & 0o020 and not mode & stat.S_ISGID:
            text = f"{place} is for a group, but what is made in it need not be that group's"
            findings.warn("spool.modes", text, f"chmod g+s {path / name}")
        if state.st_uid != owner:
            text = f"{place} belongs to {_user(state.st_uid)}, and {PRIVATE}/ to {_user(owner)}"
            findings.bad("spool.owner", text, f"chown {_user(owner)} {path / name}")
            good = False
    return good


def _check_user(found: Config, spool: Spool, owner: int, findings: Findings) -> bool:
    """Whether this user can do the agent's work."""
    if os.geteuid() == 0 and owner != 0:
        text = f"spool {found.spool} is {_user(owner)}'s, and this check is root's, who may do everything"
        findings.warn("spool.access", text, f"runuser -u {_user(owner)} -- spoold check")
    denied = [
        name
        for name in ("tmp", *FOLDERS, PRIVATE)
        if not os.access(f"/proc/self/fd/{spool.fd(name)}", os.W_OK | os.X_OK)
    ]
    for name in denied:
        todo = f"run it, and the agent, as {_user(owner)}"
        findings.bad("spool.access", f"spool {found.spool}: {name}/ cannot be written to by this user", todo)
    return not denied


def check_staging(spool: Spool, findings: Findings, now: float) -> None:
    """What has been lying in tmp/ since long before `now`, POSIX seconds: broken uploads, and what a killed command
    left. It is the users', so nobody removes it for them.
    """
    left = [name for name in sorted(spool.files.names(spool.fd("tmp"))) if now - _stirred(spool, name) > _LEFT]
    if not left:
        return
    names = ", ".join(printable(name, 120) for name in left[:_NAMED])
    more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
    findings.warn(
        "spool.staging",
        f"spool {spool.path}: left in tmp/, without a change for more than a day: {names}{more}",
        "rename into new/ what is whole, remove the rest: nobody else does; a `spoold submit` that broke can be repeated",
    )


def check_aside(spool: Spool, findings: Findings) -> None:
    """What stood in the agent's way and could not be removed: it says who can write where he should not."""
    found = [f"{folder}/{name}" for folder in ("tmp", *FOLDERS) for name in _aside(spool, folder, ())]
    for folder in FOLDERS[1:]:
        for job in spool.jobs(folder):
            for below in ((job,), (job, REPORT)):
                found += [f"{folder}/{'/'.join((*below, name))}" for name in _aside(spool, folder, below)]
    if found:
        names = ", ".join(printable(name, 200) for name in found[:_NAMED])
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        text = f"spool {spool.path}: set aside, for it stood in the agent's way: {names}{more}"
        findings.warn("spool.aside", text, "see whose it is (ls -l), then remove it: nobody looks at it again")


def _aside(spool: Spool, folder: str, below: Path) -> list[str]:
    try:
        with spool.files.directory(spool.fd(folder), below) as fd:
            return sorted(name for name in spool.files.names(fd) if name.startswith(ASIDE))
    except OSError:
        return []


def _stirred(spool: Spool, name: str) -> float:
    """When anything of `tmp/NAME` changed last, POSIX seconds; a copy sets a file's own time to that of the original."""
    tmp = spool.fd("tmp")
    entry = spool.files.stat(tmp, (name,))
    if entry is None:
        return float("inf")  # it has just gone
    stirred = entry.ctime_ns
    if entry.kind is Kind.DIRECTORY:
        try:
            with spool.files.directory(tmp, (name,)) as root:
                below = spool.files.walk(root, max_entries=_ENTRIES, max_depth=_DEPTH)
        except (OSError, TreeTooLargeError):
            below = []  # another user's, or without end: the folder itself has to do
        stirred = max([stirred, *(each.ctime_ns for each in below)])
    return stirred / 1e9


def check_agent(spool: Spool, findings: Findings) -> None:
    """Whether the agent is alive and well by what it wrote last, and whether one is missing."""
    try:
        state = orjson.loads(spool.files.read_small(spool.root, ("status.json",), _STATUS_LIMIT))
        agent, age = state["agent"], time.time() - datetime.fromisoformat(state["updated_at"]).timestamp()
    except (OSError, ValueError, KeyError, TypeError):
        agent, age, state = {}, None, {}
    if not spool.is_locked():
        waiting = len(spool.jobs("new")) + len(spool.jobs("active")) + len(spool.jobs("deferred"))
        if waiting:
            findings.warn("agent", f"agent: none runs, and {waiting} jobs and uploads wait for one", "spoold run")
        return
    if age is None:
        findings.warn("agent", "agent: runs, and has written no status.json yet", "wait five seconds; then see its log")
    elif age > _SILENT:
        findings.bad(
            "agent", f"agent: runs, and wrote status.json {format_duration(age)} ago", "see its log; restart it"
        )
    elif agent.get("version") != __version__:
        text = f"agent: runs version {printable(str(agent.get('version')))}; this is {__version__}"
        findings.warn("agent", text, "restart it")
    else:
        findings.good("agent", f"agent: answers, pid {agent.get('pid')}")
    for warning in state.get("warnings", ()):
        if not str(warning).startswith("notify:"):
            findings.warn("agent", f"agent: {printable(str(warning), 500)}")


def check_database(spool: Spool, findings: Findings) -> None:
    """Whether there is a database that this version reads."""
    if not spool.database.exists():
        strays = [f"{name}/" for name in FOLDERS[1:] if spool.jobs(name)]
        if strays:
            text = f"database: there is none, and jobs stand in {', '.join(strays)}"
            findings.bad("database", text, f"put {PRIVATE}/ back as it belongs to them")
        return
    try:
        Snapshot(spool.database).close()
    except (DatabaseError, OSError) as error:
        findings.bad("database", f"database: {error}")


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
