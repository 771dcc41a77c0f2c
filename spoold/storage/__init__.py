"""What survives.

Owns: every file operation (the one seam for faults), the spool's folders and its lock, the database and all that is in it.
Comes in: values of `core`.
Goes out: rows as values; a write is durable when its future resolves.
"""
