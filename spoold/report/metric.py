"""SPOOL/metrics.prom: the agent's figures in Prometheus' text format, for node_exporter's textfile collector.

Every sample has the label `spool`, since one node_exporter may collect the files of several agents. The other labels
have few values, all known beforehand: relays of the configuration, states and results. Nothing here counts: plain
numbers come in, and become metrics when the file is written.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from spoold.core.state import JobState, RecipientState
from spoold.report.agent import AgentState
from spoold.storage.record import JobRow
from spoold.tally import RESULTS, Figures, Histogram

#: The states of a recipient at rest: one in an open transaction counts as what it was before.
_STATES = tuple(state for state in RecipientState if state is not RecipientState.SENDING)

#: (the values of the labels but `spool`, the sample's value).
_Sample = tuple[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class Queue:
    """What waits: recipients of live jobs by relay and state, and since when, by relay (POSIX seconds), the job that could
    have been sent for longest; jobs that are held or wait for `send_after` are no such jobs."""

    recipients: Mapping[tuple[str, RecipientState], int]
    oldest: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Now:
    """What is under way: recipients in open transactions, and jobs that a rate makes wait."""

    open: int
    throttled: int


def queue_of(live: Iterable[JobRow], ways: Mapping[int, tuple[str, float]]) -> Queue:
    """The queue of these jobs; `ways` has for each job's id its relay, and from when on it could be sent."""
    recipients: dict[tuple[str, RecipientState], int] = {}
    oldest: dict[str, float] = {}
    for job in live:
        if job.id not in ways:
            continue
        relay, since = ways[job.id]
        for state, count in job.counts.items():
            recipients[relay, state] = recipients.get((relay, state), 0) + count
        if job.state not in (JobState.HELD, JobState.SCHEDULED):
            oldest[relay] = min(since, oldest.get(relay, since))
    return Queue(recipients, oldest)


def metrics(agent: AgentState, spool: str, queue: Queue, now: Now, figures: Figures) -> bytes:
    """The file. `spool` is the value of that label."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector([*_agent(agent), *_queue(agent, queue, now), *_counted(agent, figures)], spool))
    return generate_latest(registry)


@dataclass(frozen=True, slots=True)
class _Family:
    """One metric before it gets the label `spool`; samples are numbers, or histograms where `kind` says so."""

    kind: type[GaugeMetricFamily] | type[CounterMetricFamily]
    name: str
    text: str
    labels: tuple[str, ...]
    samples: Sequence[_Sample]


@dataclass(frozen=True, slots=True)
class _Buckets:
    name: str
    text: str
    labels: tuple[str, ...]
    samples: Sequence[tuple[tuple[str, ...], Histogram]]


class _Collector(Collector):
    def __init__(self, families: Sequence[_Family | _Buckets], spool: str) -> None:
        self._families = families
        self._spool = spool

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            labels = ["spool", *family.labels]
            if isinstance(family, _Buckets):
                histograms = HistogramMetricFamily(family.name, family.text, labels=labels)
                for values, histogram in family.samples:
                    ends = [*map(floatToGoString, histogram.bounds), "+Inf"]
                    buckets = list(zip(ends, map(float, accumulate(histogram.counts)), strict=True))
                    histograms.add_metric([self._spool, *values], buckets, histogram.total)
                yield histograms
            else:
                metric = family.kind(family.name, family.text, labels=labels)
                for values, value in family.samples:
                    metric.add_metric([self._spool, *values], value)
                yield metric


def _gauge(name: str, text: str, samples: float | Sequence[_Sample], *labels: str) -> _Family:
    return _Family(GaugeMetricFamily, name, text, labels, _samples(samples))


def _counter(name: str, text: str, samples: float | Sequence[_Sample], *labels: str) -> _Family:
    return _Family(CounterMetricFamily, name, text, labels, _samples(samples))


def _samples(samples: float | Sequence[_Sample]) -> Sequence[_Sample]:
    return [((), samples)] if isinstance(samples, int | float) else samples


def _agent(agent: AgentState) -> Iterator[_Family]:
    yield _gauge("spoold_build_info", "The running version.", [((agent.version,), 1)], "version")
    yield _gauge("spoold_running", "Whether the agent runs: 0 once it has stopped in order.", agent.state != "stopped")
    yield _gauge("spoold_start_time_seconds", "When the agent started, in Unix time.", agent.started_at)
    yield _gauge("spoold_updated_time_seconds", "When this was written, in Unix time; every five seconds.", agent.now)
    up = [((relay.name,), float(relay.up)) for relay in agent.relays]
    yield _gauge("spoold_relay_up", "Whether the relay can be used.", up, "relay")
    connections = [((relay.name,), relay.connections) for relay in agent.relays]
    yield _gauge("spoold_relay_connections", "Open connections.", connections, "relay")


def _queue(agent: AgentState, queue: Queue, now: Now) -> Iterator[_Family]:
    relays = _relays(agent, (relay for relay, _ in queue.recipients))
    states = [((relay, state.label), queue.recipients.get((relay, state), 0)) for relay in relays for state in _STATES]
    yield _gauge(
        "spoold_recipients", "Recipients of live jobs by their jobs' relay and state.", states, "relay", "state"
    )
    yield _gauge(
        "spoold_open_recipients", "Recipients in open transactions, counted above as what they were.", now.open
    )
    waiting = sum(count for (_, state), count in queue.recipients.items() if not state.final)
    yield _gauge("spoold_queue_recipients", "Recipients that have no final state yet.", waiting)
    ages = [((relay,), max(agent.now - queue.oldest.get(relay, agent.now), 0.0)) for relay in relays]
    yield _gauge(
        "spoold_queue_oldest_age_seconds",
        "Since when the oldest unfinished job could be sent; 0 without one. Held and scheduled jobs do not count.",
        ages,
        "relay",
    )
    throttled = "Jobs that could be sent now, but for a rate."
    yield _gauge("spoold_throttled_jobs", throttled, now.throttled)
    jobs = [((state.value,), agent.jobs.states.get(state, 0)) for state in JobState if not state.final]
    yield _gauge("spoold_jobs", "Live jobs by state.", jobs, "state")
    yield _gauge("spoold_uploads", "Uploads that are not complete.", len(agent.uploads))


def _counted(agent: AgentState, figures: Figures) -> Iterator[_Family | _Buckets]:
    yield _counter("spoold_sent", "Recipients accepted by a relay since the start.", agent.sent)
    relays = _relays(agent, (relay for relay, _ in figures.attempts))
    attempts = [
        ((relay, state.label), figures.attempts.get((relay, state), 0)) for relay in relays for state in RESULTS
    ]
    yield _counter(
        "spoold_attempts", "Attempts to send to a recipient by relay and result.", attempts, "relay", "result"
    )
    yield _Buckets(
        "spoold_delivery_delay_seconds",
        "From when a job was accepted, or its send_after, until a relay took a recipient's message.",
        ("relay",),
        [((relay,), histogram) for relay, histogram in figures.delays.items()],
    )
    waits = figures.waits.items()
    yield _counter(
        "spoold_rate_limit_waits",
        "How often a rate made something wait: all of a relay (its own or the agent's rate), a job, a job's domain.",
        [((limit,), count) for limit, (count, _) in waits],
        "limit",
    )
    yield _counter(
        "spoold_rate_limit_wait_seconds",
        "For how long in all; what waits side by side is added up.",
        [((limit,), seconds) for limit, (_, seconds) in waits],
        "limit",
    )
    intake = [((result,), count) for result, count in figures.intake.items()]
    yield _counter("spoold_intake", "Uploads that were taken, by result.", intake, "result")
    yield _counter("spoold_accepted_recipients", "Recipients of the jobs that were accepted.", figures.accepted)
    yield _Buckets(
        "spoold_database_commit_seconds",
        "What a group commit takes, its statements and its sync.",
        (),
        [((), figures.commits)],
    )
    yield _counter("spoold_report_cpu_seconds", "CPU that writing the jobs' reports took.", figures.reports)
    yield _counter("spoold_log_lines_dropped", "Lines of the log that could not be written.", figures.unlogged)


def _relays(agent: AgentState, others: Iterable[str]) -> list[str]:
    """The relays of the configuration, and those that are gone from it and have figures all the same."""
    return sorted({*(relay.name for relay in agent.relays), *others})
