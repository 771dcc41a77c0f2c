"""What a job may do at a moment: precedence of what holds it back, never early, never a standstill."""

from dataclasses import replace
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoold.core.schedule.planner import JobSnapshot, Schedule, may_send, moment, standing, wakes_at
from spoold.core.schedule.window import is_open, parse_windows
from spoold.core.state import JobState, Standing
from tests.unit.core.schedule.week import HOUR, NOW, opening

READY = JobSnapshot(unfinished=5, open=0, ready=True, next_due=NOW)


CLOSED = opening("Tue 13:00-14:00")


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (READY, Standing(JobState.SENDING)),
        (replace(READY, unfinished=0), Standing(JobState.FINISHED)),
        (replace(READY, unfinished=0, cancelled=True), Standing(JobState.CANCELLED)),
        (replace(READY, cancelled=True, held=True), Standing(JobState.CANCELLED)),
        (replace(READY, cancelled=True, open=1), Standing(JobState.SENDING, "cancelling: the open messages end first")),
        (replace(READY, held=True, open=1), Standing(JobState.SENDING, "holding: the open messages end first")),
        (replace(READY, held=True, send_after=NOW + HOUR), Standing(JobState.HELD)),
        (replace(READY, send_after=NOW + HOUR), Standing(JobState.SCHEDULED, None, NOW + HOUR)),
        (replace(READY, send_after=NOW), Standing(JobState.SENDING)),
        (
            replace(READY, send_after=NOW + 4 * HOUR, schedule=CLOSED),
            Standing(JobState.SCHEDULED, None, NOW + 169 * HOUR),
        ),
        (replace(READY, schedule=CLOSED), Standing(JobState.WAITING, "window", NOW + HOUR)),
        (replace(READY, schedule=CLOSED, disk_full=True), Standing(JobState.WAITING, "window", NOW + HOUR)),
        (replace(READY, disk_full=True), Standing(JobState.WAITING, "disk")),
        (replace(READY, relay_up=False, relay_retry_at=NOW + 4), Standing(JobState.WAITING, "relay", NOW + 4)),
        (replace(READY, ready=False, next_due=NOW + HOUR), Standing(JobState.WAITING, "retry", NOW + HOUR)),
        (
            replace(READY, ready=False, next_due=NOW + HOUR, relay_up=False, relay_retry_at=NOW + 4),
            Standing(JobState.WAITING, "retry", NOW + HOUR),
        ),
        (replace(READY, ready=False, next_due=None, uncertain=5), Standing(JobState.HELD, "uncertain")),
        (replace(READY, ready=False, next_due=None, uncertain=4), Standing(JobState.SENDING)),
        (replace(READY, open=2, schedule=CLOSED), Standing(JobState.SENDING)),
    ],
)
def test_what_holds_a_job_back_most_decides(job: JobSnapshot, expected: Standing) -> None:
    assert standing(job, NOW) == expected


moments = st.floats(NOW - 400 * HOUR, NOW + 9000 * HOUR).map(lambda at: round(at, 3))
windows = st.sampled_from(
    [
        Schedule(),
        opening("Mon-Fri 18:00-08:00", "Sat,Sun 00:00-24:00", zone="Europe/Vienna"),
        opening("22:00-06:00", zone="America/New_York"),
        opening("Sun 01:30-03:30", zone="Australia/Lord_Howe"),
        Schedule(
            (
                (parse_windows(["08:00-20:00"]), ZoneInfo("Europe/Vienna")),
                (parse_windows(["Mon-Sat 12:00-24:00"]), ZoneInfo("America/New_York")),
            )
        ),
    ]
)
jobs = st.builds(
    JobSnapshot,
    unfinished=st.integers(0, 3),
    open=st.integers(0, 1),
    ready=st.booleans(),
    next_due=st.none() | moments,
    held=st.booleans(),
    cancelled=st.booleans(),
    send_after=st.none() | moments,
    expires_at=st.none() | moments,
    schedule=windows,
    relay_up=st.booleans(),
    relay_retry_at=st.none(),
    disk_full=st.booleans(),
)


@given(jobs, moments)
def test_nothing_is_sent_early_or_outside_a_window(job: JobSnapshot, now: float) -> None:
    if may_send(job, now):
        assert job.send_after is None or now >= job.send_after
        assert all(is_open(spans, zone, moment(now)) for spans, zone in job.schedule.parts)
        assert not job.held
        assert not job.cancelled
        assert standing(job, now).state is JobState.SENDING


@given(jobs, moments)
def test_next_moment_lies_ahead_and_the_agent_wakes_for_it(job: JobSnapshot, now: float) -> None:
    found = standing(job, now)
    if found.next_at is not None and found.reason != "retry":
        assert found.next_at > now
        wake = wakes_at(job, now)
        assert wake is not None
        assert now < wake <= found.next_at


@given(jobs, moments)
def test_nothing_changes_by_the_clock_before_the_wake(job: JobSnapshot, now: float) -> None:
    wake = wakes_at(job, now)
    until = now + 48 * HOUR if wake is None else wake
    for share in (0.25, 0.5, 0.999):
        between = now + (until - now) * share
        if now < between < until:
            assert replace(standing(job, between), next_at=None) == replace(standing(job, now), next_at=None)


@given(jobs, moments)
def test_job_that_waits_by_itself_knows_until_when(job: JobSnapshot, now: float) -> None:
    found = standing(job, now)
    if found.state is JobState.SCHEDULED or (found.state is JobState.WAITING and found.reason in ("window", "retry")):
        assert found.next_at is not None


@given(jobs, moments)
def test_a_job_woken_again_and_again_gets_to_send_once_nothing_but_time_is_in_its_way(
    job: JobSnapshot, now: float
) -> None:
    job = replace(job, unfinished=1, open=0, ready=True, held=False, cancelled=False)
    job = replace(job, relay_up=True, disk_full=False, next_due=None)
    for _ in range(2000):
        if may_send(job, now):
            return
        wake = wakes_at(job, now)
        assert wake is not None
        assert wake > now
        now = wake
    raise AssertionError("it never got to send")
