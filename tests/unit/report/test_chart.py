"""Charts: what stands where, in percent."""

from zoneinfo import ZoneInfo

import pytest

from spoold.core.state import RecipientState
from spoold.report.chart import TimeChart, stacked, time_chart
from spoold.report.timeline import Timeline, counted, fitting_width

VIENNA = ZoneInfo("Europe/Vienna")
#: 2026-11-23 00:00 in Vienna.
MIDNIGHT = 1795388400
HOUR = 3600


def chart(*tallies: tuple[float, str, int], zone: ZoneInfo = VIENNA) -> TimeChart:
    found = time_chart(timeline(MIDNIGHT, *tallies), zone)
    assert found is not None
    return found


def timeline(origin: int, *tallies: tuple[float, str, int]) -> Timeline:
    seconds = [(int(at - origin), result, count) for at, result, count in tallies]
    width = fitting_width(min(seconds)[0], max(seconds)[0])
    return Timeline(origin, width, counted((second // width, result, count) for second, result, count in seconds))


def test_no_attempt_makes_no_chart() -> None:
    assert time_chart(Timeline(MIDNIGHT, 1, {}), VIENNA) is None


def test_results_are_stacked_from_the_ground_up_and_reach_as_high_as_their_number() -> None:
    found = chart((MIDNIGHT, "sent", 50), (MIDNIGHT, "failed", 25), (MIDNIGHT, "deferred", 25))
    [column] = found.columns
    assert [(part.kind, part.y, part.height) for part in column.segments] == [
        ("sent", 50.0, 50.0), ("deferred", 25.0, 25.0), ("failed", 0.0, 25.0),
    ]  # fmt: skip
    assert column.title == "2026-11-23 00:00:00: 50 sent, 25 deferred, 25 failed"
    assert [(level.at, level.label) for level in found.levels] == [(0.0, "100"), (50.0, "50")]
    assert found.series == ("sent", "deferred", "failed")
    assert [(row.start, row.counts) for row in found.rows] == [("2026-11-23 00:00:00", (50, 25, 25))]


def test_one_among_many_thousands_can_still_be_seen() -> None:
    found = chart((MIDNIGHT, "sent", 100_000), (MIDNIGHT + 1, "failed", 1))
    assert all(part.height > 0.5 for column in found.columns for part in column.segments)


def test_nothing_leaves_the_drawing() -> None:
    found = chart(*((MIDNIGHT + 7 * n, "sent" if n % 3 else "failed", 1 + n % 11) for n in range(500)))
    for column in found.columns:
        for part in column.segments:
            assert 0 <= part.x <= part.x + part.width <= 100.01
            assert 0 <= part.y <= 100
    assert all(4 <= tick.at <= 96 for tick in found.ticks)
    assert len(found.rows) == len(found.columns) <= 120


@pytest.mark.parametrize(
    ("span", "labels"),
    [
        (10, ["00:00:05", "00:00:10", "00:00:15", "00:00:20"]),
        (20 * 60, ["00:05", "00:10", "00:15"]),
        (10 * HOUR, ["03:00", "06:00", "09:00"]),
        (117 * HOUR, ["24 Nov", "25 Nov", "26 Nov", "27 Nov"]),
    ],
)
def test_labels_are_round_local_times(span: int, labels: list[str]) -> None:
    found = chart(*((MIDNIGHT + span * n / 50, "sent", 1) for n in range(51)))
    assert [tick.label for tick in found.ticks] == labels


def test_labels_stay_round_when_the_clock_is_set_back() -> None:
    start = 1792792800  # 2026-10-24 00:00, the day before
    found = time_chart(timeline(start, *((start + 4 * 86400 * n / 100, "sent", 1) for n in range(100))), VIENNA)
    assert found is not None
    assert [tick.label for tick in found.ticks] == ["25 Oct", "26 Oct", "27 Oct"]


def test_bar_of_states_is_filled_but_for_what_is_queued() -> None:
    segments = stacked({RecipientState.QUEUED: 5, RecipientState.DEFERRED: 2, RecipientState.SENT: 3})
    assert [(part.kind, part.x, part.width) for part in segments] == [("sent", 0, 30), ("deferred", 30, 20)]
    assert stacked({}) == ()
