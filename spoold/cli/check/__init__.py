"""`spoold check`: is all well?

Owns: the findings about configuration, spool, machine, agent and relays, and the comparison of the database with what lies in the spool.
Comes in: a configuration.
Goes out: findings with a level and a remedy.
"""
