"""Looking through a complete job once: what intake does before it accepts, and all that `spoold validate` does.

Job errors and recipient errors are kept apart (CONTRACT §2): the former reject the job, the latter fail one recipient.
Recipients go to a sink chunk by chunk; memory stays flat.
"""

import contextlib
import errno
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime
from typing import Protocol

from spoold.core.completeness import IntakePolicy, recipients_file
from spoold.core.manifest import Manifest, check_path
from spoold.core.message.wire import MessageError, MessageFacts, scan
from spoold.core.problem import printable
from spoold.core.recipient.address import AddressError, parse_address
from spoold.core.recipient.list import RecipientsError, Row, read_csv, read_txt
from spoold.intake.time_limit import BOUNDLESS, OvertimeError, TimeLimit
from spoold.storage.entry import Entry, Kind, NotRegularError, no_file
from spoold.storage.files import Files
from spoold.storage.record import NewRecipient
from spoold.storage.tree import Tree

#: Rows a commit: few, so that a commit with a chunk in it is hardly longer for the others who wait for it.
_CHUNK = 1000
_LISTED = 100

#: A message that cannot be sent: (status, diagnostic, category).
Failure = tuple[str, str, str]


class Sink(Protocol):
    """Where the examination puts what it finds."""

    def add_message(self, path: str, facts: MessageFacts | None) -> int:
        """Keep a message; returns its id."""

    def add_recipients(self, recipients: list[NewRecipient]) -> None:
        """Keep one chunk."""


@dataclass(slots=True)
class Findings:
    """What the examination found; `errors` reject the job, at most `_LISTED` of a kind are listed."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    recipients: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    messages: int = 0


class Examination:
    """One job's. `entries` are the files below `root` by name; `date` and `token` go into fields that are missing."""

    def __init__(
        self,
        files: Files,
        root: int,
        entries: Mapping[str, Entry],
        manifest: Manifest,
        policy: IntakePolicy,
        sink: Sink,
        time_limit: TimeLimit = BOUNDLESS,
        *,
        date: datetime,
        token: str,
    ) -> None:
        self._tree = Tree(files, root)
        self._entries = entries
        self._manifest = manifest
        self._policy = policy
        self._sink = sink
        self._time_limit = time_limit
        self._date = format_datetime(date)
        self._token = token
        self._domain = manifest.sender.rpartition("@")[2] or "spoold.invalid"
        self._messages: dict[str, tuple[int | None, Failure | None]] = {}
        self._shared_failed = False
        self._source = recipients_file(manifest, entries.keys())
        self.findings = Findings()

    def run(self, progress: Callable[[int], None] = lambda _: None) -> Findings:
        """Look through everything. `progress` is told the number of recipients so far, once a chunk."""
        try:
            with self._tree:
                self._run(progress)
        except OvertimeError as error:
            self.findings.errors.append(str(error))
        return self.findings

    def _run(self, progress: Callable[[int], None]) -> None:
        findings = self.findings
        findings.warnings.extend(self._manifest.notes)
        if self._is_crowd():
            findings.errors.append(self._crowd())
            return
        rows = self._rows()
        try:
            while chunk := list(itertools.islice(rows, _CHUNK)):
                findings.recipients += len(chunk)
                if findings.recipients > self._policy.max_recipients:
                    findings.errors.append(self._crowd())
                    return
                self._time_limit.check()
                self._sink.add_recipients([self._recipient(row) for row in chunk])
                progress(findings.recipients)
        except RecipientsError as error:
            findings.errors.append(str(error))
            return
        if not findings.recipients and not findings.errors:
            findings.errors.append(f"{self._source or 'job.yaml'}: no recipients; expected at least one")
        if self._manifest.strict and findings.failed:
            findings.errors.extend(findings.failures)
            if findings.failed > len(findings.failures):
                findings.errors.append(f"… and {findings.failed - len(findings.failures)} more bad recipients")
        self._warn()

    # --- recipients ---------------------------------------------------------------------------------------------------

    def _crowd(self) -> str:
        return f"more than {self._policy.max_recipients} recipients (intake.max_recipients); split the job"

    def _is_crowd(self) -> bool:
        """Whether a file has more recipients than a job may: told by counting, before any of them is written down."""
        source, limit = self._source, self._policy.max_recipients
        entry = self._entries.get(source) if source else None
        # No row is shorter than an octet and its line's end.
        if source is None or entry is None or entry.kind is not Kind.FILE or entry.size < 2 * limit:
            return False
        # What is wrong with the list is told when it is read for good.
        with contextlib.suppress(RecipientsError, NotRegularError, OSError):
            if sum(chunk.count(b"\n") for chunk in self._chunks(source)) >= limit:
                rows = _reader(source)(self._chunks(source), source)
                return next(itertools.islice(rows, limit, None), None) is not None
        return False

    def _rows(self) -> Iterator[Row]:
        source = self._source
        if source is None:
            self.findings.errors.append(
                "no recipients: expected recipients.csv, recipients.txt, or `recipients` in job.yaml"
            )
            return
        inlines = self._manifest.recipients
        if isinstance(inlines, tuple):
            for inline in inlines:
                yield Row(inline.line, inline.address, inline.message, None)
            return
        entry = self._entries.get(source)
        if entry is not None and entry.kind is not Kind.FILE:
            self.findings.errors.append(no_file(printable(source), entry.kind))
            return
        try:
            yield from _reader(source)(self._chunks(source), source)
        except NotRegularError as error:
            self.findings.errors.append(no_file(printable(source), error.kind))
        except OSError as error:
            self.findings.errors.append(f"{printable(source)}: {_why(error)}")

    def _chunks(self, name: str) -> Iterator[bytes]:
        return self._time_limit.over(self._tree.chunks(name))

    def _recipient(self, row: Row) -> NewRecipient:
        line, text, own, extra = row
        try:
            address = parse_address(text)
        except AddressError as error:
            failure = ("5.1.3", printable(str(error), 400), "bad-mailbox")
            self._fail(line, failure)
            return NewRecipient(line, printable(text, 300), "", False, None, extra, failure)
        message_id, unsendable = self._messages.get(own or self._manifest.message) or self._message(own)
        if unsendable is not None and own:
            self._fail(line, unsendable)
        elif unsendable is not None and not self._shared_failed:
            # That the shared message cannot be sent is the job's error, told once.
            self._shared_failed = True
            self.findings.errors.append(unsendable[1])
        return NewRecipient(line, address.envelope, address.domain, address.smtputf8, message_id, extra, unsendable)

    def _fail(self, line: int, failure: Failure) -> None:
        findings = self.findings
        findings.failed += 1
        if len(findings.failures) < _LISTED:
            findings.failures.append(f"{self._source or 'job.yaml'}:{line}: {failure[1]}")

    # --- messages ---------------------------------------------------------------------------------------------------

    def _message(self, own: str | None) -> tuple[int | None, Failure | None]:
        path = own or self._manifest.message
        facts, reason = self._scan(path)
        # A name that cannot be a file is kept for the report, escaped.
        message_id = self._sink.add_message(path if reason is None else printable(path), facts)
        failure = None if reason is None else ("5.6.0", reason, "content-related")
        self.findings.messages += reason is None
        self._messages[path] = (message_id, failure)
        return message_id, failure

    def _scan(self, path: str) -> tuple[MessageFacts | None, str | None]:
        """The facts of the message file `path`, or why it cannot be sent."""
        try:
            check_path(path)
        except ValueError as error:
            return None, str(error)
        entry = self._entries.get(path)
        if entry is None:
            return None, f"{path}: the message is missing"
        if entry.kind is not Kind.FILE:
            return None, no_file(path, entry.kind)
        if entry.size > self._policy.max_message:
            return (
                None,
                f"{path}: has {entry.size} bytes, more than intake.max_message ({self._policy.max_message})",
            )
        message_id = f"<{self._token}.{len(self._messages) + 1}@{self._domain}>"
        try:
            return scan(self._chunks(path), name=path, date=self._date, message_id=message_id), None
        except MessageError as error:
            return None, str(error.problem)
        except NotRegularError as error:
            return None, no_file(path, error.kind)
        except OSError as error:
            return None, f"{path}: {_why(error)}"

    def _warn(self) -> None:
        findings = self.findings
        unused = [
            name
            for name in self._entries
            if name.endswith(".eml") and self._entries[name].kind is Kind.FILE and name not in self._messages
        ]
        if unused and not findings.errors:
            findings.warnings.append(
                f"{len(unused)} message file(s) belong to no recipient, such as {printable(min(unused))}"
            )
        special = [name for name, entry in self._entries.items() if entry.kind not in (Kind.FILE, Kind.DIRECTORY)]
        for name in sorted(special)[:10]:
            if name not in self._messages:
                findings.warnings.append(f"{printable(name)} is {self._entries[name].kind.value}; it was left out")


def _reader(source: str) -> Callable[[Iterable[bytes], str], Iterator[Row]]:
    return read_txt if source.lower().endswith(".txt") else read_csv


def _why(error: OSError) -> str:
    """What an error says of the upload; raised again where it says something of this machine, at this moment."""
    if isinstance(error, FileNotFoundError):
        return "is missing"
    if isinstance(error, PermissionError):
        return "cannot be read (permission denied); copy with `rsync --chmod=D2770,F0660`"
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG):
        return f"cannot be read: {error.strerror}"
    raise error
