"""report/statistics.json: counts by state, domain, bounce category and reply."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import tzinfo

import orjson

from spoold.core.moment import rfc3339
from spoold.core.problem import inert_json
from spoold.core.state import RecipientState
from spoold.storage.ledger import ReplyTally

DOMAINS = 1000
REPLIES = 200
BOUNCED = frozenset({"failed", "expired"})


def statistics_json(
    counts: Mapping[RecipientState, int],
    domains: Sequence[tuple[str, Mapping[RecipientState, int]]],
    replies: Sequence[ReplyTally],
    attempts: tuple[int, float | None, float | None],
    speed: float | None,
    zone: tzinfo,
    now: float,
) -> bytes:
    """The document. Only the first `DOMAINS` domains and `REPLIES` kinds of reply are listed."""
    categories: Counter[str] = Counter()
    for reply in replies:
        if reply.result in BOUNCED:
            categories[reply.category or "other"] += reply.count
    count, first, last = attempts
    span = last - first if first is not None and last is not None else 0.0
    document = orjson.dumps(
        {
            "total": sum(counts.values()),
            "states": {state.label: number for state, number in counts.items()},
            "domains": [
                {
                    "domain": domain,
                    "total": sum(states.values()),
                    **{state.label: n for state, n in states.items()},
                }
                for domain, states in domains
            ],
            "bounce_categories": dict(categories.most_common()),
            "replies": [
                {
                    "result": reply.result,
                    "smtp_code": reply.code,
                    "dsn_status": reply.status,
                    "bounce_category": reply.category,
                    "count": reply.count,
                    "example": reply.example,
                }
                for reply in replies
            ],
            "attempts": {
                "total": count,
                "first_at": rfc3339(first, zone),
                "last_at": rfc3339(last, zone),
            },
            "rates": {
                "recipients_per_second": None if speed is None else round(speed, 2),
                "attempts_per_second_overall": round(count / span, 2) if span > 0 else None,
            },
            "updated_at": rfc3339(now, zone),
        },
        option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
    )
    return inert_json(document)
