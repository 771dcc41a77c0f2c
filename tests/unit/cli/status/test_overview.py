"""The table of `spoold status`."""

from io import StringIO

import pytest
from rich.console import Console

from spoold.cli.status.overview import overview
from spoold.cli.status.view import Agent


@pytest.mark.parametrize(("state", "to_send"), [("waiting", "3"), ("cancelled", "0")])
def test_uncertain_recipients_are_to_be_sent_to_only_while_the_job_lives(state: str, to_send: str) -> None:
    job = {"job": "sale", "state": state, "total": 7, "counts": {"sent": 4, "uncertain": 3}}
    agent = Agent.model_validate({"running": True, "agent": {"state": "running"}, "jobs": [job]})
    written = StringIO()
    Console(file=written, width=200).print(overview(agent, "/spool", 0.0, width=None, rows=None, ascii_only=True))
    header, row = [line for line in written.getvalue().splitlines() if line.startswith(("Job ", "sale "))]
    column = header.index("To send")
    assert row[column : column + len("To send")].strip() == to_send
