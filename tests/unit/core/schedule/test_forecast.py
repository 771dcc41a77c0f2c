"""The foreseen course of a job agrees with a simulated run under the same limits."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import cycle
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spoold.core.schedule.forecast import Forecast, Lane, Load, Pause, forecast
from spoold.core.schedule.planner import JobSnapshot, Schedule, may_send, wakes_at
from spoold.core.schedule.rate import Rate
from spoold.delivery.limiter import Limiter, Limits
from tests.unit.core.schedule.week import HOUR, NOW, opening


def job(recipients: int, **keys: object) -> JobSnapshot:
    return JobSnapshot(unfinished=recipients, open=0, ready=True, next_due=NOW, **keys)  # type: ignore[arg-type]


def simulate(
    snapshot: JobSnapshot, rate: Rate, limiter: Limiter, unsent: Mapping[str, int], now: float
) -> tuple[list[float], int]:
    """When each one goes, and how many expire, recipient by recipient: limited domains as they may, the others meanwhile."""
    left = dict(unsent)
    sent: list[float] = []
    went: dict[str, float] = {}
    limits = limiter.of_job(1, rate)
    while any(left.values()):
        if snapshot.expires_at is not None and now >= snapshot.expires_at:
            break
        if not may_send(snapshot, now):
            wake = wakes_at(snapshot, now)
            assert wake is not None
            now = wake
            continue
        permits = {name: limiter.permit(limiter.of_domain(1, {}, name), now) for name, count in left.items() if count}
        # Of those that may, the one that could have gone for longest.
        name = min(permits, key=lambda name: (permits[name], name == "free.example", went.get(name, 0.0)))
        at = max(limiter.permit(limits, now), permits[name])
        if at > now:
            change = wakes_at(snapshot, now)
            now = at if change is None else min(at, change)
            continue
        limiter.advance(limits, now)
        limiter.advance(limiter.of_domain(1, {}, name), now)
        left[name] -= 1
        went[name] = now
        sent.append(now)
    return sent, sum(left.values())


SCHEDULES = {
    "always": Schedule(),
    "vienna": opening("Mon-Fri 18:00-08:00", "Sat,Sun 00:00-24:00", zone="Europe/Vienna"),
    "new york": opening("01:00-03:30", zone="America/New_York"),
    "lord howe": opening("22:00-02:00", "10:00-10:30", zone="Australia/Lord_Howe"),
    "an hour a day": opening("02:00-03:00", zone="Europe/Vienna"),
    "two zones": Schedule(
        opening("08:00-20:00", zone="Europe/Vienna").parts
        + opening("Mon-Sat 12:00-24:00", zone="America/New_York").parts
    ),
}
#: Just before both clock changes of these zones, and some day.
STARTS = [
    datetime(2026, 3, 7, 20, tzinfo=UTC),
    datetime(2026, 3, 28, 18, tzinfo=UTC),
    datetime(2026, 4, 4, 3, tzinfo=UTC),
    datetime(2026, 10, 3, 3, tzinfo=UTC),
    datetime(2026, 10, 24, 12, tzinfo=UTC),
    datetime(2026, 10, 31, 20, tzinfo=UTC),
    datetime(2026, 11, 24, 12, tzinfo=UTC),
]
RATES = [Rate(60, 3600), Rate(1200, 3600), Rate(10, 1), Rate(100, 900), Rate(10, 86400)]


@example("always", STARTS[0], 0, Rate(60, 3600), None, None, [(19, Rate(60, 60)), (4, Rate(10, 3600))], 0.0)
@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(SCHEDULES)),
    st.sampled_from(STARTS),
    st.integers(0, 300),
    st.sampled_from(RATES),
    st.none() | st.integers(-3600, 200_000),
    st.none() | st.integers(1, 400_000),
    st.lists(st.tuples(st.integers(1, 60), st.sampled_from([Rate(10, 3600), Rate(60, 60)])), max_size=2),
    st.floats(0, 1),
)
def test_forecast_agrees_with_a_simulated_run(
    name: str,
    start: datetime,
    free: int,
    rate: Rate,
    after: int | None,
    expires: int | None,
    limited: list[tuple[int, Rate]],
    elapsed: float,
) -> None:
    """`elapsed` is the share of its interval that went by since the job's last message."""
    now = start.timestamp()
    unsent = {f"d{number}.example": count for number, (count, _) in enumerate(limited)}
    unsent["free.example"] = free + (not limited)
    limits = Limits(domains={f"d{number}.example": domain for number, (_, domain) in enumerate(limited)})
    snapshot = JobSnapshot(
        unfinished=sum(unsent.values()),
        open=0,
        ready=True,
        next_due=now,
        schedule=SCHEDULES[name],
        send_after=None if after is None else now + after,
        expires_at=None if expires is None else now + expires,
    )
    limiter = Limiter(limits, {"job 1": now + (1 - elapsed) * rate.interval})

    def foresee(more: int) -> Forecast:
        counts = {domain: max(count + more, 0) for domain, count in unsent.items()}
        load = Load(
            float(max(sum(unsent.values()) + more, 0)),
            rate.speed,
            lanes=limiter.lanes(1, {}, counts, now),
            permit_at=limiter.permit(limiter.of_job(1, rate), now),
        )
        return forecast(snapshot, load, now)

    course = foresee(0)
    # What stands just before a closing or behind it may fall to either side, at each of them.
    edge = 1 + len(course.pauses)
    fewer, more = foresee(-edge), foresee(edge)
    sent, expired = simulate(snapshot, rate, limiter, unsent, now)
    if sent and course.unsent < sum(unsent.values()):
        assert course.start == pytest.approx(sent[0], abs=0.01)
    assert abs(course.unsent - expired) <= edge
    if not expired:
        slack = max(2 * max(limit.interval for limit in (rate, *limits.domains.values())), 0.01 * (sent[-1] - sent[0]))
        assert course.end is not None
        assert fewer.end is not None
        assert more.end is not None
        assert fewer.end - slack <= sent[-1] <= more.end + slack


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.lists(st.integers(1, 400), max_size=4), st.sampled_from(RATES))
def test_sharing_agrees_with_jobs_that_take_turns(recipients: int, others: list[int], rate: Rate) -> None:
    left = [recipients, *others]
    course = forecast(
        job(recipients), Load(float(recipients), shared_speed=rate.speed, others=tuple(map(float, others))), NOW
    )
    turns = cycle(range(len(left)))
    went = 0
    while left[0]:
        turn = next(turns)
        if left[turn]:
            left[turn] -= 1
            went += 1
    assert course.end == pytest.approx(NOW + (went - 1) * rate.interval, abs=(1 + len(others)) * rate.interval)


def test_rate_slower_than_its_window_sends_one_an_opening() -> None:
    schedule = opening("10:00-11:00", zone="UTC")
    course = forecast(job(10, schedule=schedule), Load(10.0, Rate(10, 86400).speed), NOW)
    assert course.start == NOW + 22 * HOUR
    assert course.end == NOW + 22 * HOUR + 9 * 24 * HOUR


@pytest.mark.parametrize(
    "load",
    [
        Load(1.0, speed=1 / HOUR, permit_at=NOW + 1200),
        Load(1.0, lanes=(Lane(1.0, 1 / HOUR, NOW + 1200),)),
        Load(1.0, shared_speed=1 / HOUR, permit_at=NOW + 1200),
    ],
)
def test_last_one_goes_when_its_rate_permits_it_not_now(load: Load) -> None:
    course = forecast(job(1), load, NOW)
    assert (course.start, course.end) == (NOW + 1200, NOW + 1200)


def test_throttled_domain_lets_the_others_start() -> None:
    course = forecast(job(3), Load(3.0, lanes=(Lane(1.0, 1 / HOUR, NOW + 1200),)), NOW)
    assert (course.start, course.end) == (NOW, NOW + 1200)


def test_pauses_are_those_of_the_windows() -> None:
    vienna = ZoneInfo("Europe/Vienna")
    schedule = opening("22:00-06:00", zone="Europe/Vienna")
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


def test_retry_is_waited_for() -> None:
    waiting = JobSnapshot(unfinished=2, open=0, ready=False, next_due=NOW + 600)
    course = forecast(waiting, Load(2.0, 1.0), NOW)
    assert course.start == NOW + 600
    assert course.end == NOW + 601
    assert course.pauses[0].reason == "retry"
    assert timedelta(seconds=course.pauses[0].end - NOW) == timedelta(minutes=10)  # type: ignore[operator]
