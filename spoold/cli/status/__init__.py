"""`spoold status`: the agent and its jobs, for people and programs.

Owns: what is shown of the agent's files, on a terminal, in plain lines, live.
Comes in: status.json and the reports, whatever they say.
Goes out: a table, a page, or one JSON document.
"""
