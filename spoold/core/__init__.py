"""Values and decisions, pure: no file, socket, clock, random number or log line in here.

Owns: what manifests, lists, messages, schedules, replies and states mean.
Comes in: bytes, values and `now`.
Goes out: values, decisions, and what is wrong with the input, each with its place.
"""
