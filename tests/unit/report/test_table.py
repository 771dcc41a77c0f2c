"""recipients.csv is what the csv module would write, and what it reads again."""

import csv
import io
from datetime import UTC

from hypothesis import given
from hypothesis import strategies as st

from spoold.core.state import RecipientState
from spoold.report.table import COLUMNS, recipients_csv
from spoold.storage.ledger import RecipientRow

WORDS = st.none() | st.text(st.sampled_from("ab ,\";\r\n'\t0é\udc80"), max_size=8)
MOMENTS = st.none() | st.sampled_from([1_790_000_000.0, 1_790_000_000.25])
ROWS = st.builds(
    RecipientRow,
    line=st.integers(1, 10**7),
    address=WORDS.map(lambda text: text or "a@b.example"),
    state=st.sampled_from(RecipientState),
    attempts=st.integers(0, 9),
    code=st.none() | st.sampled_from([0, 250, 550]),
    status=WORDS, diagnostic=WORDS, remote_mta=WORDS, category=WORDS,
    last_attempt_at=MOMENTS, due_at=MOMENTS, message=WORDS,
)  # fmt: skip


@given(st.lists(ROWS, max_size=20))
def test_every_row_is_read_as_it_was_and_is_written_as_the_csv_module_does(rows: list[RecipientRow]) -> None:
    data = b"".join(recipients_csv(rows, UTC))
    heading, *found = csv.reader(io.StringIO(data.decode(), newline=""))
    assert tuple(heading) == COLUMNS
    again = io.StringIO()
    csv.writer(again).writerows([heading, *found])
    assert again.getvalue().encode() == data
    assert len(found) == len(rows)
    for cells, row in zip(found, rows, strict=True):
        words = (row.address, row.status, row.diagnostic, row.remote_mta, row.category, row.message)
        shown = [(word or "").encode(errors="backslashreplace").decode() for word in words]
        assert [cells[1], cells[5], cells[7], cells[8], cells[9], cells[12]] == shown
        assert (cells[0], cells[2], cells[3]) == (str(row.line), row.state.label, str(row.attempts))
        assert cells[6] == (str(row.code) if row.code else "")
        assert bool(cells[10]) == (row.last_attempt_at is not None)
        waits = row.state in (RecipientState.DEFERRED, RecipientState.UNCERTAIN)
        assert bool(cells[11]) == (waits and row.due_at is not None)
