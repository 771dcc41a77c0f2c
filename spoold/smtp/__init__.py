"""One relay: connection, session, health. Knows nothing of storage or reports."""
