"""The timeline: bounded, as fine as it can be, and exact in its sums."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, tzinfo
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from spoold.report.timeline import BUCKETS, Series, Timeline
from spoold.storage.database import Database
from spoold.storage.ledger import Ledger

DAY = 86400
MONDAY = 1_795_392_000  # 2026-11-23 00:00 UTC


def timeline(database: Database, attempts: Iterable[tuple[int, str]], zone: tzinfo = UTC) -> Timeline:
    """What job 1 would have, with one attempt for each `(second, result)`."""
    tally = [(1, second, result, count) for (second, result), count in Counter(attempts).items()]
    database.write(lambda connection: connection.execute("DELETE FROM time_tally").rowcount)
    database.write(
        lambda connection: connection.executemany("INSERT INTO time_tally VALUES (?, ?, ?, ?)", tally).rowcount
    )
    return Timeline.of(Ledger(database), 1, zone)


def test_seconds_are_told_apart_while_there_is_room(database: Database) -> None:
    found = timeline(database, [(MONDAY + 5, "sent"), (MONDAY + 5, "sent"), (MONDAY + 8, "sent")])
    assert [(bucket.start - MONDAY, bucket.total) for bucket in found.buckets()] == [(5, 2), (6, 0), (7, 0), (8, 1)]
    assert timeline(database, [(MONDAY, "sent"), (MONDAY + BUCKETS - 1, "sent")]).width == 1
    assert timeline(database, [(MONDAY, "sent"), (MONDAY + BUCKETS, "sent")]).width == 2


def test_days_of_retries_become_whole_hours_of_the_local_day(database: Database) -> None:
    zone = ZoneInfo("Asia/Kolkata")  # half an hour off
    midnight = MONDAY - 19800
    found = timeline(database, [(midnight + 600 * n + 60, "deferred") for n in range(5 * DAY // 600)], zone)
    buckets = list(found.buckets())
    assert (found.origin, found.width, len(buckets)) == (midnight, 3600, 120)
    assert {bucket.counts for bucket in buckets} == {(0, 6, 0, 0)}


def test_giving_up_counts_as_failed_and_each_result_has_its_series(database: Database) -> None:
    results = ["sent", "failed", "expired", "deferred", "uncertain"]
    attempts = [(MONDAY, result) for times, result in enumerate(results, 1) for _ in range(times)]
    [bucket] = timeline(database, attempts).buckets()
    assert dict(zip(Series, bucket.counts, strict=True)) == {
        Series.SENT: 1, Series.DEFERRED: 4, Series.FAILED: 5, Series.UNCERTAIN: 5,
    }  # fmt: skip


def test_nothing_yet_has_no_intervals(database: Database) -> None:
    assert list(timeline(database, []).buckets()) == []


@given(
    attempts=st.lists(
        st.tuples(st.integers(MONDAY, MONDAY + 400 * DAY), st.sampled_from(["sent", "failed", "deferred"])),
        min_size=1,
        max_size=60,
    )
)
def test_whatever_comes_it_is_bounded_and_loses_nothing(database: Database, attempts: list[tuple[int, str]]) -> None:
    found = timeline(database, attempts)
    buckets = list(found.buckets())
    assert len(buckets) <= BUCKETS
    assert sum(bucket.total for bucket in buckets) == len(attempts)
    for bucket in buckets:
        inside = [at for at, _ in attempts if bucket.start <= at < bucket.start + found.width]
        assert len(inside) == bucket.total
