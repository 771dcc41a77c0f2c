"""The same sessions on uvloop, whose transports are not those of asyncio."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from spoold.core.outcome import Result
from tests.servers.certificate import Authority
from tests.unit.smtp import test_session_body as body
from tests.unit.smtp import test_session_command as command
from tests.unit.smtp import test_session_end as end
from tests.unit.smtp import test_session_loss as loss
from tests.unit.smtp.dialogue import WAYS, both_ways


def on_uvloop(test: Coroutine[Any, Any, None]) -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test)


@both_ways
@pytest.mark.parametrize(
    ("test", "arguments"),
    [
        (command.test_a_message_goes_out_with_its_parameters_and_bytes, ()),
        (command.test_one_connection_carries_many_transactions_also_after_refused_ones, ()),
        *(
            (loss.test_a_connection_lost_before_the_data_is_temporary_and_never_uncertain, ("DATA", way))
            for way in WAYS
        ),
        *(
            (loss.test_a_connection_lost_when_half_the_body_is_out_is_not_uncertain, (how,))
            for how in ("close", "reset")
        ),
        *((loss.test_a_connection_lost_after_the_dot_is_uncertain, (way,)) for way in (*WAYS, "nonsense")),
        (loss.test_a_large_message_lost_after_the_dot_is_uncertain, ()),
    ],
)
def test_on_uvloop_too(test: Callable[..., Any], arguments: tuple[object, ...], extensions: dict[str, str]) -> None:
    on_uvloop(test(extensions, *arguments))


@pytest.mark.parametrize(
    ("test", "arguments"),
    [
        *((loss.test_all_but_the_dot_is_out_and_the_connection_is_lost_is_not_uncertain, (way,)) for way in ("reset", "silence")),
        (body.test_the_answer_to_the_dot_may_take_long_after_a_large_body_that_a_slow_peer_reads, ()),
        (body.test_an_answer_in_the_middle_of_the_data_counts_and_ends_the_session, ("552 5.3.4 no", Result.FAILED, True)),
        (body.test_an_answer_in_the_middle_of_the_data_counts_and_ends_the_session, ("552 5.3.4 no", Result.FAILED, False)),
        (body.test_a_peer_that_stops_reading_is_left_after_the_timeout_and_nothing_is_uncertain, ()),
        (end.test_a_connection_closed_while_the_next_mail_is_under_way_is_no_attempt, ()),
    ],
)  # fmt: skip
def test_on_uvloop_too_where_there_is_but_one_way(test: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    on_uvloop(test(*arguments))


def test_on_uvloop_too_over_tls(ca: Authority) -> None:
    on_uvloop(loss.test_over_tls_too_the_outcome_is_uncertain_only_after_the_dot(ca))
