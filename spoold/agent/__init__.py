"""The running whole.

Owns: the start, the joining and the end of the parts; configuration, orders of people, recovery, purge, notices, the service manager.
Comes in: a spool, a configuration, signals, control files.
Goes out: an agent that runs until it is told to stop, and says why when it cannot.
"""
