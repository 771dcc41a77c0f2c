"""The timeline: bounded, added to and never counted anew, and exact in its sums."""

from hypothesis import given
from hypothesis import strategies as st

from spoold.report.timeline import BUCKETS, Series, Timeline

DAY = 86400


def add(timeline: Timeline, at: float, result: str, number: int, count: int = 1) -> None:
    timeline.add([(int((at - timeline.origin) // timeline.width), result, count)], number)


def test_seconds_are_told_apart_while_there_is_room() -> None:
    timeline = Timeline(1000.0)
    for number, at in enumerate((1000.0, 1000.9, 1003.0), 1):
        add(timeline, at, "sent", number)
    assert [(bucket.start, bucket.total) for bucket in timeline.buckets()] == [
        (1000.0, 2), (1001.0, 0), (1002.0, 0), (1003.0, 1),
    ]  # fmt: skip
    assert timeline.last_id == 3


def test_days_of_retries_become_whole_hours_of_the_local_day() -> None:
    timeline = Timeline(0.0)
    for number in range(5 * DAY // 600):
        add(timeline, 600.0 * number + 60, "deferred", number + 1)
    buckets = list(timeline.buckets())
    assert timeline.width == 3600
    assert len(buckets) == 120
    assert {bucket.counts for bucket in buckets} == {(0, 6, 0, 0)}


def test_giving_up_counts_as_failed_and_each_result_has_its_series() -> None:
    timeline = Timeline(0.0)
    timeline.add([(0, "sent", 1), (0, "failed", 2), (0, "expired", 3), (0, "deferred", 4), (0, "uncertain", 5)], 15)
    [bucket] = timeline.buckets()
    assert dict(zip(Series, bucket.counts, strict=True)) == {
        Series.SENT: 1, Series.DEFERRED: 4, Series.FAILED: 5, Series.UNCERTAIN: 5,
    }  # fmt: skip


def test_nothing_yet_has_no_intervals() -> None:
    assert list(Timeline(0.0).buckets()) == []


@given(
    st.lists(st.tuples(st.floats(-40 * DAY, 400 * DAY), st.sampled_from(["sent", "failed", "deferred"])), max_size=60)
)
def test_whatever_comes_it_stays_bounded_and_loses_nothing(attempts: list[tuple[float, str]]) -> None:
    timeline = Timeline(0.0)
    for number, (at, result) in enumerate(attempts, 1):
        add(timeline, at, result, number)
        assert len(list(timeline.buckets())) <= BUCKETS
    buckets = list(timeline.buckets())
    assert sum(bucket.total for bucket in buckets) == len(attempts)
    for bucket in buckets:
        inside = [at for at, _ in attempts if bucket.start <= at < bucket.start + timeline.width]
        assert len(inside) == bucket.total
