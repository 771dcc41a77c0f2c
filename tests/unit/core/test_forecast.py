"""The foreseen course of a job agrees with a simulated run under the same limits."""

import math
from collections import deque
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spoold.core.forecast import Load, Pause, forecast
from spoold.core.planner import JobSnapshot, Schedule, may_send, wakes_at
from spoold.core.rate import Rate, advance, permit_at
from spoold.core.schedule import parse_windows

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC).timestamp()


def job(recipients: int, **keys: object) -> JobSnapshot:
    return JobSnapshot(unfinished=recipients, open=0, ready=True, next_due=NOW, **keys)  # type: ignore[arg-type]


def simulate(
    snapshot: JobSnapshot, rate: Rate, lanes: dict[str, tuple[int, Rate]], free: int, now: float
) -> tuple[float, float]:
    """(start, end) of a run, recipient by recipient: limited domains in their lanes, the others meanwhile."""
    waiting = {name: count for name, (count, _) in lanes.items()}
    tats: dict[str, float | None] = {}
    sent: deque[float] = deque()
    while free or any(waiting.values()):
        if not may_send(snapshot, now):
            wake = wakes_at(snapshot, now)
            assert wake is not None
            now = wake
            continue
        permits = {name: permit_at(tats.get(name), lanes[name][1], now) for name, count in waiting.items() if count}
        at = permit_at(tats.get(""), rate, now)
        ready = [name for name, allowed in permits.items() if allowed <= now]
        if at > now or (not ready and not free):
            ahead = [at] if at > now else list(permits.values())
            change = snapshot.schedule.changes(now)
            now = min([max(at, min(ahead)), *([change] if change is not None else [])])
            continue
        tats[""] = advance(tats.get(""), rate, now)
        if ready:
            waiting[ready[0]] -= 1
            tats[ready[0]] = advance(tats.get(ready[0]), lanes[ready[0]][1], now)
        else:
            free -= 1
        sent.append(now)
    return sent[0], sent[-1]


SCHEDULES = {
    "always": Schedule(),
    "vienna": Schedule(((parse_windows(["Mon-Fri 18:00-08:00", "Sat,Sun 00:00-24:00"]), ZoneInfo("Europe/Vienna")),)),
    "new york": Schedule(((parse_windows(["01:00-03:30"]), ZoneInfo("America/New_York")),)),
    "lord howe": Schedule(((parse_windows(["22:00-02:00", "10:00-10:30"]), ZoneInfo("Australia/Lord_Howe")),)),
}
#: Just before both clock changes of these zones, and some day.
STARTS = [datetime(2026, 3, 7, 20, tzinfo=UTC), datetime(2026, 3, 28, 18, tzinfo=UTC), datetime(2026, 4, 4, 3, tzinfo=UTC),
          datetime(2026, 10, 3, 3, tzinfo=UTC), datetime(2026, 10, 24, 12, tzinfo=UTC), datetime(2026, 10, 31, 20, tzinfo=UTC),
          datetime(2026, 11, 24, 12, tzinfo=UTC)]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(SCHEDULES)),
    st.sampled_from(STARTS),
    st.integers(1, 400),
    st.sampled_from([Rate(60, 3600), Rate(1200, 3600), Rate(10, 1), Rate(100, 900)]),
    st.none() | st.floats(-3600, 200000),
    st.lists(st.tuples(st.integers(1, 60), st.sampled_from([Rate(10, 3600), Rate(60, 60)])), max_size=2),
)
def test_forecast_agrees_with_a_simulated_run(
    name: str, start: datetime, free: int, rate: Rate, after: float | None, limited: list[tuple[int, Rate]]
) -> None:
    now = start.timestamp()
    lanes = {f"d{number}.example": lane for number, lane in enumerate(limited)}
    total = free + sum(count for count, _ in limited)
    snapshot = JobSnapshot(
        unfinished=total, open=0, ready=True, next_due=now, schedule=SCHEDULES[name],
        send_after=None if after is None else round(now + after),
    )  # fmt: skip
    begun, ended = simulate(snapshot, rate, lanes, free, now)
    load = Load(float(total), rate.speed, lanes=tuple((float(count), lane.speed) for count, lane in limited))
    course = forecast(snapshot, load, now)
    assert course.start == pytest.approx(begun, abs=0.01)
    assert course.end is not None
    # Each opening of a window may cost one interval more or less than the fluid says.
    slowest = max([rate.interval, *(lane.interval for _, lane in limited)])
    closed = sum(pause.end - pause.begin for pause in course.pauses if pause.end is not None and pause.begin > begun)
    slack = max(2 * slowest * (1 + len(course.pauses)), 0.01 * (ended - begun))
    if abs(course.end - ended) > slack:
        # Only where the last one falls just before or behind a closing does a whole pause lie between.
        assert closed >= 0
        longest = max((pause.end - pause.begin for pause in course.pauses if pause.end is not None), default=0.0)
        openings = [SCHEDULES[name].opens(min(course.end, ended) + slack)]
        assert openings[0] is not None
        assert abs(course.end - ended) <= slack + max(longest, openings[0] - min(course.end, ended))


def test_pauses_are_those_of_the_windows() -> None:
    vienna = ZoneInfo("Europe/Vienna")
    schedule = Schedule(((parse_windows(["22:00-06:00"]), vienna),))
    now = datetime(2026, 11, 24, 12, tzinfo=vienna).timestamp()
    course = forecast(job(15000, schedule=schedule), Load(15000.0, Rate(1200, 3600).speed), now)

    def at(day: int, hour: int) -> float:
        return datetime(2026, 11, day, hour, tzinfo=vienna).timestamp()

    assert course.start == at(24, 22)
    assert list(course.pauses) == [
        Pause(now, at(24, 22), "window"),
        Pause(at(25, 6), at(25, 22), "window"),
    ]
    assert course.end == pytest.approx(at(25, 22) + (15000 - 8 * 1200) * 3.0, abs=6)


def test_jobs_share_what_binds_them_all_evenly() -> None:
    alone = forecast(job(100), Load(100.0, shared_speed=10.0), NOW)
    assert alone.end == pytest.approx(NOW + 9.9)
    beside = forecast(job(100), Load(100.0, shared_speed=10.0, others=(1000.0, 20.0)), NOW)
    assert beside.end == pytest.approx(NOW + 21.9), "as many of the large job as of this one, and the small one"


def test_expiry_leaves_what_could_not_be_sent_by_then() -> None:
    course = forecast(job(100, expires_at=NOW + 50), Load(100.0, speed=1.0), NOW)
    assert (course.end, course.unsent) == (NOW + 50, 50)


@pytest.mark.parametrize(
    ("keys", "reason"), [({"held": True}, "held"), ({"disk_full": True}, "disk"), ({"relay_up": False}, "relay")]
)
def test_what_only_somebody_else_can_end_has_no_end(keys: dict[str, object], reason: str) -> None:
    course = forecast(job(1, **keys), Load(1.0, 1.0), NOW)
    assert (course.start, course.end) == (None, None)
    assert list(course.pauses) == [Pause(NOW, None, reason)]


def test_without_any_limit_the_last_goes_when_the_first_does() -> None:
    assert forecast(job(10), Load(10.0), NOW).end == NOW
    assert math.isinf(Load(10.0).speed)


def test_retry_is_waited_for() -> None:
    waiting = JobSnapshot(unfinished=2, open=0, ready=False, next_due=NOW + 600)
    course = forecast(waiting, Load(2.0, 1.0), NOW)
    assert course.start == NOW + 600
    assert course.end == NOW + 601
    assert course.pauses[0].reason == "retry"
    assert timedelta(seconds=course.pauses[0].end - NOW) == timedelta(minutes=10)  # type: ignore[operator]
