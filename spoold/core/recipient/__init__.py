"""Whom a job is for.

Owns: the form of recipient lists, and the one check that every address passes.
Comes in: chunks of a list, text.
Goes out: rows with their line numbers, addresses, and what is wrong with each.
"""
