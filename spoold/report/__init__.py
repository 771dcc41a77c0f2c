"""The database becomes files that people and programs read.

Owns: the texts, tables, pages and metrics, and who writes them when (projector, reporter, press, bulletin).
Comes in: rows and tallies of the database, and what the running agent knows of relays and uploads.
Goes out: report/ in each job's folder, status.json, metrics.prom and index.html in the spool; jobs move to the folder where they belong.
"""
