"""What follows from an outcome: the recipient's next state, computed from stored times."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoold.core.outcome import Command, Outcome, Result, failed, lost, returned, unknown
from spoold.core.reply import Reply, read_reply
from spoold.core.schedule.retry import DEFAULT, RetryPolicy
from spoold.core.state import (
    UNCERTAIN_REST,
    JobState,
    OnUncertain,
    RecipientState,
    after_outcome,
)

HOUR, DAY, NOW = 3600.0, 86400.0, 1_900_000_000.0


class Progress(NamedTuple):
    state: RecipientState
    attempts: int
    first_attempt_at: float | None


FRESH = Progress(RecipientState.QUEUED, 0, None)
SENT = read_reply(Command.DOT, Reply(250, "2.0.0 Ok")).outcome
LATER = read_reply(Command.RCPT, Reply(450, "4.2.0 Greylisted")).outcome
UNKNOWN = unknown("the connection broke")


@pytest.mark.parametrize(
    ("outcome", "state", "due_in"),
    [
        (SENT, RecipientState.SENT, None),
        (failed("5.1.1", "no such user"), RecipientState.FAILED, None),
        (LATER, RecipientState.DEFERRED, HOUR),
        (lost(Command.DATA, "closed"), RecipientState.DEFERRED, HOUR),
        (UNKNOWN, RecipientState.UNCERTAIN, UNCERTAIN_REST),
    ],
)
def test_an_outcome_counts_as_an_attempt_and_leads_to_its_state(
    outcome: Outcome, state: RecipientState, due_in: float | None
) -> None:
    after = after_outcome(FRESH, outcome, DEFAULT, OnUncertain.RESEND, NOW)
    assert (after.state, after.attempts, after.first_attempt_at) == (state, 1, NOW)
    assert after.due_at == (None if due_in is None else NOW + due_in)
    assert after.outcome is outcome


@pytest.mark.parametrize("state", [RecipientState.QUEUED, RecipientState.DEFERRED, RecipientState.UNCERTAIN])
def test_a_claim_that_came_to_nothing_leaves_no_trace(state: RecipientState) -> None:
    before = Progress(state, 3, NOW - HOUR) if state is not RecipientState.QUEUED else FRESH
    after = after_outcome(before, returned("relay down"), DEFAULT, OnUncertain.RESEND, NOW)
    assert (after.state, after.attempts, after.first_attempt_at) == (
        before.state,
        before.attempts,
        before.first_attempt_at,
    )
    assert after.due_at == NOW


def test_by_default_a_recipient_is_tried_every_hour_for_five_days_and_then_given_up() -> None:
    progress, now, attempts = FRESH, NOW, []
    while progress.state in (RecipientState.QUEUED, RecipientState.DEFERRED):
        attempts.append(now - NOW)
        after = after_outcome(progress, LATER, DEFAULT, OnUncertain.RESEND, now)
        progress, now = Progress(after.state, after.attempts, after.first_attempt_at), after.due_at or now
    assert attempts == [hour * HOUR for hour in range(121)]
    assert after.state is RecipientState.EXPIRED
    assert after.outcome.status == "5.4.7"
    assert after.outcome.category == "message-expired"
    assert after.outcome.code == 450
    assert "gave up after 121 attempts" in after.outcome.diagnostic
    assert "4.2.0 Greylisted" in after.outcome.diagnostic


def test_a_list_of_delays_is_followed_and_its_last_one_repeats() -> None:
    policy = RetryPolicy((300.0, 1200.0, HOUR), DAY)
    progress, now, waits = FRESH, NOW, []
    for _ in range(5):
        after = after_outcome(progress, LATER, policy, OnUncertain.RESEND, now)
        assert after.due_at is not None
        waits.append(after.due_at - now)
        progress, now = Progress(after.state, after.attempts, after.first_attempt_at), after.due_at
    assert waits == [300.0, 1200.0, HOUR, HOUR, HOUR]


def test_the_time_for_trying_counts_from_the_first_attempt_not_from_the_last_restart() -> None:
    old = Progress(RecipientState.DEFERRED, 7, NOW - 5 * DAY + HOUR - 1)
    assert after_outcome(old, LATER, DEFAULT, OnUncertain.RESEND, NOW).state is RecipientState.EXPIRED
    young = Progress(RecipientState.DEFERRED, 7, NOW - 5 * DAY + HOUR + 1)
    assert after_outcome(young, LATER, DEFAULT, OnUncertain.RESEND, NOW).due_at == NOW + HOUR


def test_an_uncertain_recipient_is_held_where_the_job_says_hold() -> None:
    after = after_outcome(FRESH, UNKNOWN, DEFAULT, OnUncertain.HOLD, NOW)
    assert (after.state, after.due_at) == (RecipientState.UNCERTAIN, None)


def test_an_uncertain_recipient_rests_for_fifteen_minutes_whatever_the_retry_policy() -> None:
    for every in (1.0, HOUR, DAY):
        after = after_outcome(FRESH, UNKNOWN, RetryPolicy((every,), 5 * DAY), OnUncertain.RESEND, NOW)
        assert after.due_at == NOW + 900


def test_an_uncertain_recipient_whose_time_is_over_is_given_up_and_the_report_says_that_it_may_have_been_sent() -> None:
    old = Progress(RecipientState.UNCERTAIN, 9, NOW - 5 * DAY)
    after = after_outcome(old, UNKNOWN, DEFAULT, OnUncertain.RESEND, NOW)
    assert after.state is RecipientState.EXPIRED
    assert "may have been sent" in after.outcome.diagnostic


@given(
    st.sampled_from([SENT, LATER, UNKNOWN, failed("5.6.0", "no"), returned("nothing")]),
    st.integers(0, 200),
    st.floats(-10 * DAY, 10 * DAY),
    st.sampled_from(OnUncertain),
    st.lists(st.floats(1.0, 10 * DAY), min_size=1, max_size=4),
    st.floats(1.0, 10 * DAY),
)
def test_whatever_happens_only_what_is_open_is_due_and_never_in_the_past(
    outcome: Outcome, attempts: int, age: float, on_uncertain: OnUncertain, delays: list[float], lifetime: float
) -> None:
    before = Progress(RecipientState.DEFERRED, attempts, NOW - age) if attempts else FRESH
    after = after_outcome(before, outcome, RetryPolicy(tuple(delays), lifetime), on_uncertain, NOW)
    if after.state.final:
        assert after.due_at is None
    elif after.state is not RecipientState.UNCERTAIN or on_uncertain is OnUncertain.RESEND:
        assert after.due_at is not None
        assert NOW <= after.due_at <= NOW + max(*delays, UNCERTAIN_REST)
    assert after.attempts == attempts + (outcome.result is not Result.RETURNED)
    assert (after.state is RecipientState.SENT) == (outcome.result is Result.SENT)


def test_final_states_and_folders_are_those_of_the_contract() -> None:
    assert [state.label for state in RecipientState if state.final] == ["sent", "failed", "expired", "cancelled"]
    assert {state.value: state.folder for state in JobState} == {
        "sending": "active",
        "scheduled": "deferred",
        "waiting": "deferred",
        "held": "deferred",
        "finished": "done",
        "cancelled": "done",
        "rejected": "done",
    }
    assert [state.value for state in JobState if state.final] == ["finished", "cancelled", "rejected"]
