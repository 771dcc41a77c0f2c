"""Jobs are sent.

Owns: which job may send when and how fast, whose turn it is, the connections of each relay, and the record of every outcome.
Comes in: live jobs with their terms, relays, rates, what people ordered.
Goes out: transactions to `smtp`, intents and outcomes to `storage`; to the agent, which jobs' reports are out of date.
"""
