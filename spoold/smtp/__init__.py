"""One server, spoken to.

Owns: connection, TLS and login, sessions, transactions, replies as they come, how many connections a server bears and whether it is well.
Comes in: a relay's settings, an envelope, the bytes of a message.
Goes out: outcomes and faults as values. Knows nothing of storage or reports.
"""
