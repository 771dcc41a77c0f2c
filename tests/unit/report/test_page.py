"""The pages as documents: what stands in them, and that foreign text stays text. How they look and behave in a browser is
tests/integration/test_report_page.py's."""

import base64
import hashlib
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from zoneinfo import ZoneInfo

import pytest

from spoold.core.state import JobState, RecipientState, Standing
from spoold.report.agent import AgentState, RelayState, UploadState, jobs_state
from spoold.report.page import RECIPIENTS, JobView, job_page, spool_page
from spoold.report.page_row import JobLine, job_rows, percent
from spoold.report.status import Status
from spoold.report.timeline import Timeline, counted
from spoold.storage.ledger import RecipientRow, ReplyTally
from spoold.storage.record import JobRow

NOW = 1795420000.0
ZONE = ZoneInfo("Europe/Vienna")
HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style></title></textarea><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "\x00\x1b[31m\u202egpj.exe\u2028",
    "&lt;b&gt; &amp;",
)
PLAIN = "plain"


class Reader(HTMLParser):
    """The elements with their attributes, the text, and the content of style and script."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.text: list[str] = []
        self.raw: dict[str, str] = {}
        self._raw: str | None = None
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(attrs)))
        self._raw = tag if tag in ("style", "script") else None

    def handle_endtag(self, tag: str) -> None:
        self._raw = None

    def handle_data(self, data: str) -> None:
        if self._raw is not None:
            self.raw[self._raw] = self.raw.get(self._raw, "") + data
        else:
            self.text.append(data)


def job(words: str = PLAIN, state: JobState = JobState.WAITING, total: int = 3) -> JobRow:
    counts = {RecipientState.SENT: 1, RecipientState.FAILED: 1, RecipientState.DEFERRED: 1} if total else {}
    return JobRow(
        1, words, Standing(state, words, NOW + 60), NOW, b"", None, None, NOW, total, False, False, False, (words,), (words,), 0, 0, counts
    )  # fmt: skip


def row(line: int, words: str = PLAIN, state: RecipientState = RecipientState.FAILED) -> RecipientRow:
    return RecipientRow(line, words, state, 1, 550, words, words, words, words, NOW, NOW + 60, words)


def view(words: str = PLAIN, *, rows: int = 3, total: int = 3, state: JobState = JobState.WAITING) -> JobView:
    timeline = Timeline(int(NOW), 1, counted([(0, "sent", 1), (0, "failed", 1)] if total else []))
    found = job(words, state, total)
    counts = dict.fromkeys(RecipientState, 0) | found.counts
    return JobView(
        Status(found, words, words, counts, ZONE, NOW, words, 1.0, NOW + 100, 2 if total else 0),
        [(words, {RecipientState.SENT: 1, RecipientState.FAILED: 2})] if total else [],
        [ReplyTally("failed", 550, words, words, words, 2)] if total else [],
        timeline,
        [row(line, words) for line in range(1, rows + 1)],
    )


def page_of_job(shown: JobView) -> str:
    return b"".join(job_page(shown)).decode()


def page_of_spool(words: str = PLAIN, live: Sequence[JobRow] = (), done: Sequence[JobRow] = ()) -> str:
    agent = AgentState(
        words, 1, "running", NOW, NOW, 3,
        [RelayState(words, words, False, 1, words, NOW)], [UploadState(words, words, NOW)],
        jobs_state(live, done, ZONE), [words],
    )  # fmt: skip
    lines = [job_rows([JobLine(each, each.state.folder) for each in jobs], ZONE) for jobs in (live, done)]
    return b"".join(spool_page(agent, lines[0], lines[1], False, ZONE)).decode()


def structure(document: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(tag, tuple(name for name, _ in attributes)) for tag, attributes in Reader(document).elements]


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_text_adds_no_element_and_no_attribute(words: str) -> None:
    assert structure(page_of_job(view(words))) == structure(page_of_job(view()))
    jobs, hostile = [job()], [job(words)]
    assert structure(page_of_spool(words, hostile, hostile)) == structure(page_of_spool(PLAIN, jobs, jobs))


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_text_is_shown_as_it_is_with_controls_escaped(words: str) -> None:
    for document in (page_of_job(view(words)), page_of_spool(words, [job(words)])):
        text = "".join(Reader(document).text)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u2028\u202a-\u202e\u2066-\u2069]", document)
        assert "49" not in re.findall(r"\b49\b", text), "a template in a template"
        if words.isprintable():
            assert text.count(words) >= 4


def test_links_lead_to_files_of_the_report_alone() -> None:
    for words in HOSTILE:
        for document in (page_of_job(view(words)), page_of_spool(words, [job(words)], [job(words, JobState.FINISHED)])):
            for _, attributes in Reader(document).elements:
                values = dict(attributes)
                assert not any(name.startswith("on") or name in ("src", "style", "action") for name in values)
                assert re.fullmatch(
                    r"#content|(recipients\.csv|attempts\.jsonl|statistics\.json|status\.json|status\.txt|metrics\.prom)"
                    r"|\.\./\.\./\.\./index\.html|(active|deferred|done)/[A-Za-z0-9._~%-]+/report/index\.html",
                    values.get("href") or "#content",
                )


def test_policy_allows_the_one_script_and_the_one_style_by_hash_and_nothing_else() -> None:
    for document in (page_of_job(view()), page_of_spool()):
        found = Reader(document)
        [policy] = [
            dict(attributes)["content"] for tag, attributes in found.elements if ("http-equiv", "Content-Security-Policy") in attributes
        ]  # fmt: skip
        directives = dict(part.strip().split(" ", 1) for part in (policy or "").split(";"))
        hashes = {
            name: "'sha256-" + base64.b64encode(hashlib.sha256(found.raw[name].encode()).digest()).decode() + "'"
            for name in ("style", "script")
        }
        assert directives == {
            "default-src": "'none'", "style-src": hashes["style"], "script-src": hashes["script"],
            "base-uri": "'none'", "form-action": "'none'",
        }  # fmt: skip
        assert document.index("http-equiv") < document.index("<style")


def test_rows_beyond_the_limit_are_left_to_the_list() -> None:
    document = page_of_job(view(rows=5, total=RECIPIENTS + 1))
    assert f"The first {RECIPIENTS:,} of {RECIPIENTS + 1:,}" in document
    assert "The first" not in page_of_job(view())


def test_empty_job_says_so_and_shows_no_charts() -> None:
    document = page_of_job(view(rows=0, total=0, state=JobState.REJECTED))
    assert "This job has no recipients." in document
    assert [tag for tag, _ in structure(document)].count("table") == 0
    assert "nothing was sent" in document


def test_nobody_is_left_to_be_sent_to_where_a_job_has_ended() -> None:
    waiting, cancelled = (page_of_job(view(state=state)) for state in (JobState.WAITING, JobState.CANCELLED))
    assert ">Left</th>" in waiting
    assert ">Left</th>" not in cancelled
    assert ">Other</th>" in cancelled


def test_times_are_in_the_zone_of_the_job() -> None:
    document = page_of_job(view())
    assert "2026-11-23 08:46:40" in document
    assert "Times are Europe/Vienna" in document


@pytest.mark.parametrize(("share", "shown"), [(0, "0.0%"), (0.99999, "99.9%"), (1, "100.0%"), (0.29, "29.0%")])
def test_hundred_percent_is_said_of_nothing_less(share: float, shown: str) -> None:
    assert percent(share) == shown
