"""When something may be sent, how fast, and when again.

Owns: weekly windows, rates, retries, what a job may do now, and the forecast.
Comes in: notations, a snapshot of a job, `now` in POSIX seconds.
Goes out: moments, permits and standings.
"""
