"""The text of metrics.prom."""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from spoold.core.state import JobState, RecipientState
from spoold.report.agent import AgentState, JobsState, RelayState
from spoold.report.metric import Now, Queue, metrics
from spoold.tally import Limit, Tally

ADMINISTRATORS = Path(__file__).parents[3] / "systemd" / "README.md"


def text(tally: Tally, spool: str = "/s", queue: Queue | None = None, relay: str = "default") -> str:
    agent = AgentState(
        "1.0", 7, "running", 50.0, 100.0, 0, [RelayState(relay, "host:25", True, 2, None, None)], [],
        JobsState(b"[]", {JobState.SENDING: 1}, {}), [],
    )  # fmt: skip
    return metrics(agent, spool, queue or Queue({}, {}), Now(3, 1), tally.figures([relay])).decode()


def values(page: str, name: str) -> dict[frozenset[tuple[str, str]], float]:
    """The samples of this name, by their labels but `spool`."""
    return {
        frozenset(sample.labels.items() - {("spool", "/s")}): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name
    }


def test_administrators_paper_lists_every_metric_with_its_labels() -> None:
    section = ADMINISTRATORS.read_text().partition("<!-- the metrics -->")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(spoold_\w+)` \| (.*?)\| ", section, re.MULTILINE)
    listed = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text(Tally())):
        name = family.name + ("_total" if family.type == "counter" else "")
        assert family.samples, name
        found[name] = {label for sample in family.samples for label in sample.labels} - {"spool", "le"}
    assert listed == found


def test_histogram_counts_a_bound_into_its_own_bucket() -> None:
    tally = Tally()
    for seconds in (0.001, 0.0011, 60.0):
        tally.committed(seconds)
    buckets = {
        dict(labels)["le"]: number
        for labels, number in values(text(tally), "spoold_database_commit_seconds_bucket").items()
    }
    assert (buckets["0.0005"], buckets["0.001"], buckets["0.0025"], buckets["5.0"], buckets["+Inf"]) == (0, 1, 2, 2, 3)
    assert values(text(tally), "spoold_database_commit_seconds_sum") == {frozenset(): 60.0021}


def test_oldest_is_measured_to_now_and_never_negative() -> None:
    queue = Queue(
        {("default", RecipientState.QUEUED): 4, ("gone", RecipientState.SENT): 1}, {"default": 40.0, "gone": 400.0}
    )
    page = text(Tally(), queue=queue)
    ages = {dict(labels)["relay"]: age for labels, age in values(page, "spoold_queue_oldest_age_seconds").items()}
    assert ages == {"default": 60.0, "gone": 0.0}
    assert values(page, "spoold_queue_recipients") == {frozenset(): 4}


def test_waits_add_up_by_what_waits() -> None:
    tally = Tally()
    tally.waits(Limit.JOB, 0.5)
    tally.waits(Limit.JOB, 1.5)
    assert values(text(tally), "spoold_rate_limit_waits_total")[frozenset({("limit", "job")})] == 2
    assert values(text(tally), "spoold_rate_limit_wait_seconds_total")[frozenset({("limit", "job")})] == 2.0


def test_labels_with_quotes_backslashes_and_line_ends_stay_values() -> None:
    hostile = 'a"} 1\nspoold_sent_total 9\\'
    page = text(Tally(), spool=hostile, relay=hostile)
    families = list(text_string_to_metric_families(page))
    assert {sample.labels["spool"] for family in families for sample in family.samples} == {hostile}
    assert sum(line.startswith("spoold_sent_total") for line in page.splitlines()) == 1


def test_intake_tells_duplicates_from_other_rejections() -> None:
    tally = Tally()
    tally.took(JobState.REJECTED, "duplicate of job", 3)
    tally.took(JobState.REJECTED, "no recipients", 0)
    tally.took(JobState.HELD, None, 5)
    tally.took(JobState.CANCELLED, "cancelled before it was taken", 2)
    results = {dict(labels)["result"]: n for labels, n in values(text(tally), "spoold_intake_total").items()}
    assert results == {"accepted": 1, "rejected": 1, "duplicate": 1, "cancelled": 1}
    assert values(text(tally), "spoold_accepted_recipients_total") == {frozenset(): 5}
