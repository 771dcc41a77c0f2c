"""When a temporary failure is tried again, and when to give up (RFC 5321 §4.5.4.1).

Owns the policy and the arithmetic; a recipient's attempts and times are kept by the caller.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The seconds to wait after the first, second, … attempt (the last repeats), and the seconds until
    giving up.

    `delays` is never empty; all are more than zero. The lifetime counts from the first attempt.
    """

    delays: tuple[float, ...]
    lifetime: float


#: Every hour for five days: within what RFC 5321 §4.5.4.1 asks of a client ("at least 4-5 days").
DEFAULT = RetryPolicy(delays=(3600.0,), lifetime=5 * 86400.0)


def next_attempt(policy: RetryPolicy, attempts: int, first_attempt_at: float, now: float) -> float | None:
    """When the attempt after `attempts` failed ones is due, or None to give up. Moments are POSIX seconds.

    A clock that was set back to before the first attempt makes nobody wait longer than the policy's own
    delay.
    """
    delay = policy.delays[min(max(attempts, 1), len(policy.delays)) - 1]
    due = now + delay
    return due if due <= first_attempt_at + policy.lifetime else None
