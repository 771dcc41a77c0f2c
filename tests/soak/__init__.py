"""The soak: mixed jobs, faults of the relay and ends of the agent, decided by a seed, and an audit of what came of it all.

`plan` decides, `upload` puts jobs into the spool, `run` does what was planned and waits for rest, `verdict` audits.
"""
