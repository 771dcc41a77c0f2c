"""No cell is a formula to a spreadsheet, and nothing stands in the long lists that cannot be seen."""

import csv
import io
import json
import unicodedata
from datetime import UTC

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoold.core.problem import inert, inert_json, printable
from spoold.core.state import RecipientState
from spoold.report.table import attempts_jsonl, recipients_csv
from spoold.storage.database import Database
from spoold.storage.ledger import Ledger
from tests.unit.report.test_table import Row, fill

FORMULAS = tuple("=+-@＝＋－＠")
FOREIGN = ("address", "diagnostic", "remote_mta", "message")
#: As a name or a reply may begin.
WORDS = st.none() | st.text(st.sampled_from("=+-@＝－aZ09<;\"', é"), max_size=6)
HIDDEN = "\u202a\u202e\u2066\u2069\u200b\u200d\u200e\u200f\ufeff\u00ad\u2028\u2029\U000e0041\u3164\u115f\u034f\u0085\u061c\u2800"


def row(**texts: str | None) -> Row:
    plain = {"address": "a@b.example", "diagnostic": "ok", "remote_mta": "mx.example", "message": "m.eml"}
    found = {**plain, **texts}
    return Row(
        1, found["address"] or "", RecipientState.FAILED, None, 1, 1_790_000_000.25, 550, "5.1.1", found["diagnostic"],
        found["remote_mta"], "other", found["message"],
    )  # fmt: skip


def cells(database: Database, *, formulas: bool = False) -> list[dict[str, str]]:
    written = b"".join(recipients_csv(Ledger(database), 1, UTC, formulas=formulas)).decode()
    return list(csv.DictReader(io.StringIO(written, newline=""), strict=True))


@given(st.lists(st.builds(row, address=WORDS, diagnostic=WORDS, remote_mta=WORDS, message=WORDS), max_size=8))
def test_no_cell_is_a_formula_and_all_others_are_what_they_were(database: Database, rows: list[Row]) -> None:
    fill(database, rows)
    for wanted, found, kept in zip(rows, cells(database), cells(database, formulas=True), strict=True):
        for name in FOREIGN:
            text = getattr(wanted, name) or ""
            assert found[name] == ("'" + text if text.startswith(FORMULAS) else text)
            assert kept[name] == text


@pytest.mark.parametrize("column", FOREIGN)
@pytest.mark.parametrize("begin", FORMULAS)
def test_one_formula_among_plain_rows_is_found(database: Database, column: str, begin: str) -> None:
    rows = [row() for _ in range(30)]
    fill(database, [*rows, row(**{column: f"{begin}1+1@b.example"}), *rows])
    assert [found[column] for found in cells(database)].count(f"'{begin}1+1@b.example") == 1


@pytest.mark.parametrize("char", HIDDEN)
def test_what_cannot_be_seen_is_an_escape_in_the_lists(database: Database, char: str) -> None:
    text = f"messages/{char}gnp.eml"
    fill(database, [row(message=text), row(message=f'quoted", {text}')])
    table = b"".join(recipients_csv(Ledger(database), 1, UTC))
    lines = b"".join(data for data, _ in attempts_jsonl(Ledger(database), 1, 0, UTC))
    assert char not in table.decode()
    assert char not in lines.decode()
    assert f"messages/{printable(char)}gnp.eml".encode() in table
    assert [json.loads(line)["message"] for line in lines.splitlines()] == [text, f'quoted", {text}']


def test_what_can_be_seen_stays_as_it_is(database: Database) -> None:
    text = "messages/Grüße an Łódź – 東京 ❤️.eml"
    fill(database, [row(message=text)])
    assert [found["message"] for found in cells(database)] == [text]
    assert printable(text) == text


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_a_whole_file_is_escaped_as_a_line_is(text: str) -> None:
    lines = inert(text)
    assert [printable(char, 20) for char in lines if char > "\x7f"] == [char for char in lines if char > "\x7f"]
    document = json.dumps(text, ensure_ascii=False)
    shown = inert_json(document.encode()).decode()
    assert json.loads(shown) == text
    assert not [char for char in shown if char > "\x7f" and unicodedata.category(char) in ("Cf", "Zl", "Zp", "Cc")]
