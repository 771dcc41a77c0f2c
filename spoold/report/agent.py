"""SPOOL/status.json: the agent's own state, for people's tools."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo

import orjson

from spoold.core.moment import rfc3339
from spoold.core.problem import inert_json
from spoold.core.state import JobState, RecipientState
from spoold.storage.record import JobRow


@dataclass(frozen=True, slots=True)
class RelayState:
    """One relay now: `fault` says what is wrong and what to do; `retry_at` in POSIX seconds."""

    name: str
    address: str
    up: bool
    connections: int
    fault: str | None
    retry_at: float | None


@dataclass(frozen=True, slots=True)
class UploadState:
    """One folder in new/; `since` in POSIX seconds."""

    name: str
    waits_for: str
    since: float


@dataclass(frozen=True, slots=True)
class JobsState:
    """All jobs at one moment, written down once for as long as the database stays as it is.

    `document` is their list as JSON; `states` counts live jobs, `recipients` the recipients of these.
    """

    document: bytes
    states: Mapping[JobState, int]
    recipients: Mapping[RecipientState, int]


def jobs_state(live: Sequence[JobRow], done: Sequence[JobRow], zone: tzinfo) -> JobsState:
    """The state of these jobs: all live ones, and the last that ended."""
    recipients: Counter[RecipientState] = Counter()
    for job in live:
        recipients.update(job.counts)
    document = orjson.dumps([_job(job, zone) for job in (*live, *done)], option=orjson.OPT_INDENT_2)
    return JobsState(document, Counter(job.state for job in live), recipients)


@dataclass(frozen=True, slots=True)
class AgentState:
    """What the agent says of itself. `state` is running, stopping or stopped; `sent` counts since the start."""

    version: str
    pid: int
    state: str
    started_at: float
    now: float
    sent: int
    relays: Sequence[RelayState]
    uploads: Sequence[UploadState]
    jobs: JobsState
    warnings: Sequence[str]


def agent_json(agent: AgentState, zone: tzinfo) -> bytes:
    """The document: agent, relays, uploads that wait, jobs (live ones, and the last that ended)."""
    document = orjson.dumps(
        {
            "agent": {
                "version": agent.version,
                "pid": agent.pid,
                "state": agent.state,
                "started_at": rfc3339(agent.started_at, zone),
                "sent": agent.sent,
            },
            "updated_at": rfc3339(agent.now, zone),
            "warnings": list(agent.warnings),
            "relays": [
                {
                    "relay": relay.name,
                    "address": relay.address,
                    "up": relay.up,
                    "connections": relay.connections,
                    "error": relay.fault,
                    "retry_at": rfc3339(relay.retry_at, zone),
                }
                for relay in agent.relays
            ],
            "uploads": [
                {"upload": upload.name, "waits_for": upload.waits_for, "since": rfc3339(upload.since, zone)}
                for upload in agent.uploads
            ],
            "jobs": orjson.Fragment(agent.jobs.document),
        },
        option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
    )
    return inert_json(document)


def _job(job: JobRow, zone: tzinfo) -> dict[str, object]:
    return {
        "job": job.name,
        "state": job.state.value,
        "folder": job.state.folder,
        "reason": job.standing.reason,
        "since": rfc3339(job.since, zone),
        "next_at": rfc3339(job.standing.next_at, zone),
        "total": job.total,
        "counts": {state.label: job.counts.get(state, 0) for state in RecipientState},
    }
