"""`spoold resend`: a new job for recipients of one that is done, with the same messages to the byte."""

import argparse
import hashlib
import time
from collections.abc import Iterator

from spoold.cli.command import UsageError, configuration, open_spool
from spoold.cli.parser import STATES
from spoold.core.document.reader import load
from spoold.core.document.writer import manifest_text
from spoold.core.folder import MANIFEST
from spoold.core.manifest import check_path, parse_manifest
from spoold.core.message.wire import MessageError, prepare
from spoold.core.problem import printable
from spoold.core.state import RecipientState
from spoold.job import JobError, recipients_csv
from spoold.storage.archive import Archive, Recipient
from spoold.storage.draft import Draft, NameTakenError, entrance
from spoold.storage.entry import NotRegularError
from spoold.storage.files import Files
from spoold.storage.record import JobRow
from spoold.storage.spooldir import Spool, valid_name

#: Keys of job.yaml that an edit may have changed while the job lived.
_TIMING = ("send_after", "expires", "windows", "timezone", "rate", "domain_rates", "retry", "priority")


def run(options: argparse.Namespace) -> int:
    """Says how many, and the new job's name; 1 if there is nobody in these states, or the job is not done."""
    states = _states(options.state)
    name = options.job.rstrip("/").rpartition("/")[2]
    found = configuration(options)
    spool = open_spool(found.spool)
    with Archive(spool) as archive:
        row = archive.job(name) if valid_name(name) else None
        if row is None:
            raise JobError(f"{printable(name)}: no such job is known here")
        wanted = sum(row.counts.get(state, 0) for state in states)
        words = " or ".join(state.label for state in states)
        if not row.state.final:
            left = row.total - sum(count for state, count in row.counts.items() if state.final)
            raise JobError(
                f"{name}: is not done, {left} of {row.total} recipients wait; resend when it is, or cancel it first"
            )
        if not wanted:
            raise JobError(f"{name}: none of its {row.total} recipients is {words}")
        new_name = options.name or f"{name[:93]}-resend"
        if not valid_name(new_name):
            raise UsageError(f"--name {printable(new_name)}: expected letters, digits and . _ @ + -, at most 100")
        left_out = _write(spool, archive, row, states, new_name, repeat=options.allow_duplicate)
    for line in left_out:
        print(f"note: {line}")
    print(f"{new_name}: in new/, {wanted} recipient(s) of {name} that are {words}")
    return 0


def _states(text: str) -> tuple[RecipientState, ...]:
    names = [name.strip() for name in text.split(",")]
    wrong = [name for name in names if name not in STATES]
    if wrong:
        raise UsageError(
            f"--state {printable(wrong[0])}: expected one or more of {', '.join(STATES)}, with commas between"
        )
    return tuple(dict.fromkeys(STATES[name] for name in names))


def _write(
    spool: Spool, archive: Archive, row: JobRow, states: tuple[RecipientState, ...], name: str, *, repeat: bool
) -> list[str]:
    """Write the new job; returns what of the old one's wishes was left out."""
    files = Files()
    listed = list(archive.recipients(row.id, states)) if row.total < _SMALL else None
    columns = _columns(listed if listed is not None else archive.recipients(row.id, states))
    paths = {recipient.message for recipient in listed or archive.recipients(row.id, states)} - {None}
    source, left_out = _manifest(row, states, name, repeat=repeat)
    try:
        with (
            spool.job("done", row.name) as old,
            entrance(files, str(spool.path)) as (tmp, new),
            Draft(files, tmp, name) as draft,
        ):
            for path in sorted(filter(None, paths)):
                # One that was missing then, or has a name that no file can have, fails its recipient again.
                try:
                    parts = check_path(path)
                except ValueError:
                    continue
                if archive.digest(row.id, path) is not None or files.stat(old, parts) is not None:
                    draft.add(parts, _message(files, archive, row, old, path))
            rows = listed if listed is not None else archive.recipients(row.id, states)
            draft.add(("recipients.csv",), recipients_csv(_rows(rows, columns)))
            draft.add((MANIFEST,), [source])
            draft.seal()
            draft.publish(new, name)
    except NameTakenError:
        raise JobError(f"new/{name}: an upload of this name waits there already; expected another --name") from None
    except NotRegularError as error:
        raise JobError(f"{row.name}: a message in done/ is {error} now; expected the file that was taken") from None
    except FileNotFoundError as error:
        raise JobError(f"{row.name}: {error.filename} is missing in done/; it cannot be sent again") from None
    return left_out


#: Up to so many recipients are kept in memory instead of being read three times.
_SMALL = 100_000


def _columns(recipients: "list[Recipient] | Iterator[Recipient]") -> list[str]:
    found: dict[str, None] = {}
    for recipient in recipients:
        found.update(dict.fromkeys(recipient.extra))
    return list(found)


def _rows(recipients: "list[Recipient] | Iterator[Recipient]", columns: list[str]) -> Iterator[dict[str, str]]:
    for recipient in recipients:
        row = {"address": recipient.address, "message": recipient.message or ""}
        yield row | {column: recipient.extra.get(column, "") for column in columns}


def _message(files: Files, archive: Archive, row: JobRow, old: int, path: str) -> Iterator[bytes]:
    """The message's bytes; in the form in which they were sent where fields had been added, for these stay the same.

    Raises JobError, at the latest at their end, where they are not those that were taken: nobody is sent something else.
    """
    facts, digest = archive.facts(row.id, path), archive.digest(row.id, path)
    chunks = _same(files.chunks(old, check_path(path)), digest, f"{row.name}: {path}")
    if facts is None or not facts.added:
        yield from chunks
        return
    try:
        yield from prepare(chunks, facts.added)
    except MessageError:  # as it was taken it had no such fault
        raise _changed(f"{row.name}: {path}") from None


def _same(chunks: Iterator[bytes], digest: bytes | None, what: str) -> Iterator[bytes]:
    """The chunks of what had this SHA-256, and None of what could not be sent."""
    found = hashlib.sha256()
    for chunk in chunks:
        found.update(chunk)
        yield chunk
    if digest is not None and found.digest() != digest:
        raise _changed(what)


def _changed(what: str) -> JobError:
    return JobError(
        f"{printable(what, 400)} was changed in done/ since it was taken, and nobody is sent other bytes by a resend; nothing was"
        " written; put the old file back, or send the new one as a job of its own"
    )


def _manifest(row: JobRow, states: tuple[RecipientState, ...], name: str, *, repeat: bool) -> tuple[bytes, list[str]]:
    """The old job's manifest, with what an edit changed, without what counted or timed the whole."""
    values: dict[str, object] = dict(load(row.manifest, MANIFEST).value)
    if row.timing is not None:
        edited = load(row.timing, MANIFEST).value
        values = {key: value for key, value in values.items() if key not in _TIMING}
        values |= {key: edited[key] for key in _TIMING if key in edited}
    for key in ("recipients", "expect"):
        values.pop(key, None)
    values["recipients"] = "recipients.csv"
    if repeat:
        values["allow_duplicate"] = True
    left_out = []
    timing = parse_manifest(manifest_text(values).encode()).timing
    for key, moment in (("send_after", timing.send_after), ("expires", timing.expires)):
        if moment is not None and not isinstance(moment, float) and moment.timestamp() <= time.time():
            left_out.append(f"{key}: {values.pop(key)} is over; left out")
    # The old job's name makes the content another one than its own; the same command again repeats this one.
    comment = f"resent from {row.name}: {', '.join(state.label for state in states)}"
    return manifest_text(values, comment).encode(), left_out
