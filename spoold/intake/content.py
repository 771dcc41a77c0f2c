"""What is found in a job while it is examined, on its way into the database."""

import time
from collections.abc import Mapping

from spoold.core.message.wire import MessageFacts
from spoold.storage.admission import Admission, rows_of
from spoold.storage.record import NewMessage, NewRecipient

#: Recipients a second that are taken at most while other jobs are being sent: a million in less than half a minute.
_PACE = 50_000
#: So many lines of repeated recipients are told at most.
LISTED = 20


class Content:
    """What the examination finds in a job: one chunk of it is kept, more goes into the database, as job `job_id`."""

    def __init__(self, admission: Admission, upload: str, hashes: Mapping[str, bytes], due_at: float) -> None:
        self._admission = admission
        self._upload = upload
        self._hashes = hashes
        self.due_at = due_at
        self.job_id: int | None = None
        self.messages: list[NewMessage] = []
        """Those that are not in the database."""
        self.recipients: list[NewRecipient] = []
        """The same."""
        self._written = 0
        self._numbered = 0
        self._begun = time.monotonic()
        self._commits = admission.commits

    def add_message(self, path: str, facts: MessageFacts | None) -> int:
        self._numbered += 1
        self.messages.append(NewMessage(self._numbered, path, self._hashes.get(path), facts))
        return self._numbered

    def add_recipients(self, recipients: list[NewRecipient]) -> None:
        if self.job_id is None and not self.recipients:
            self.recipients = recipients
        else:
            self.add_rows(len(recipients), rows_of(recipients))

    def add_rows(self, count: int, rows: bytes) -> None:
        """The same of recipients that were written down already; these are never kept."""
        if self.job_id is None:
            self.job_id = self._admission.begin(self._upload, self.due_at)
        if self.recipients:
            kept, self.recipients = self.recipients, []
            self.add_rows(len(kept), rows_of(kept))
        self._admission.add(self.job_id, self.messages, self._written + 1, rows, self.due_at)
        self._written += count
        self.messages = []
        self._give_way(count)

    def _give_way(self, added: int) -> None:
        """Leave the machine to the others, if there are any that commit something."""
        now = time.monotonic()
        if self._admission.commits > self._commits + 1:
            time.sleep(max(self._begun + added / _PACE - now, 0.0))
        self._begun, self._commits = time.monotonic(), self._admission.commits

    def drop(self) -> None:
        """Nothing of this is to be sent."""
        self.messages, self.recipients = [], []
        if self.job_id is not None:
            self._admission.empty(self.job_id)

    def drop_duplicates(self) -> tuple[int, list[int]]:
        """Leave each address once for each message; gives how many were too many, and some of their lines."""
        if self.job_id is not None:
            return self._admission.drop_duplicates(self.job_id, LISTED)
        seen: set[tuple[str, int | None]] = set()
        kept: list[NewRecipient] = []
        lines: list[int] = []
        for recipient in self.recipients:
            key = (recipient.address, recipient.message)
            if recipient.failure is None and key in seen:
                lines.append(recipient.line)
                continue
            if recipient.failure is None:
                seen.add(key)
            kept.append(recipient)
        self.recipients = kept
        return len(lines), lines[:LISTED]
