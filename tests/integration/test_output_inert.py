"""Names, addresses and replies that mean to deceive whoever looks at a report, the log or the attached list."""

import email
import email.policy
import os
import signal
from pathlib import Path

import pytest

from tests.servers.agent import MESSAGE, Agent, wait_for
from tests.servers.relay import Relay, Reply, Rule

TURNED = "messages/\u202egnp.eml"
LIST = f'address,message\n"=HYPERLINK(""http://evil"",""see"")",\n=1+1@example.org,\n+a@example.org,\nx@example.org,{TURNED}\n'


def drop(agent: Agent, name: str) -> None:
    agent.drop(name, LIST, files={TURNED: MESSAGE}, manifest={"allow_duplicate": True})
    agent.wait_state(name, "finished")


@pytest.mark.parametrize("form", ["json", "console"])
def test_nothing_that_is_written_turns_or_calculates(agent: Agent, relay: Relay, form: str) -> None:
    agent.configure(relay.port, config={"log": {"format": form, "level": "debug"}})
    relay.rules.append(Rule("RCPT", Reply("550 5.1.1 \u202eno such user"), match="x@"))
    agent.start(wait=False)
    wait_for(agent.state, what="the agent's start")
    drop(agent, "j")
    cells = [row["address"] for row in agent.recipients("j")]
    assert cells == ['\'=HYPERLINK("http://evil","see")', "'=1+1@example.org", "'+a@example.org", "x@example.org"]
    assert agent.recipients("j")[3]["message"] == "messages/\\u202egnp.eml"
    assert {attempt["message"] for attempt in agent.attempts("j")} == {"message.eml", TURNED}
    for command in (("status", "j"), ("status", "j", "--json"), ("status", "--json"), ("check", "--deep")):
        done = agent.command(*command)
        assert "\u202e" not in done.stdout + done.stderr, command
    agent.stop()
    folder = agent.find("j")
    assert folder is not None
    written = [
        *(folder / "report").iterdir(),
        *(path for path in agent.spool.iterdir() if path.is_file()),
        agent.log_file,
    ]
    assert [path.name for path in written if "\u202e" in path.read_text()] == []


def test_attached_list_has_no_formulas_either(agent: Agent, relay: Relay) -> None:
    agent.configure(relay.port, config={"notify": "boss@example.com"})
    agent.start()
    drop(agent, "j")
    mail = wait_for(
        lambda: [mail for mail in relay.accepted if "boss@example.com" in mail.recipients], what="the mail"
    )[0]
    message = email.message_from_bytes(mail.data, policy=email.policy.default)
    [attached] = message.iter_attachments()
    assert "\"'=HYPERLINK(" in attached.get_content()


def test_formulas_are_kept_where_that_is_asked_for_and_the_check_takes_both(
    agent: Agent, relay: Relay, tmp_path: Path
) -> None:
    agent.start()
    drop(agent, "escaped")
    agent.configure(relay.port, config={"report": {"csv_formulas": "keep"}})
    os.kill(agent.pid, signal.SIGHUP)
    wait_for(lambda: agent.events("agent.reloaded"), what="the reload")
    drop(agent, "kept")
    assert [row["address"] for row in agent.recipients("kept")][1:3] == ["=1+1@example.org", "+a@example.org"]
    agent.stop()
    done = agent.command("check", "--deep")
    assert "database, folders, messages and reports agree" in done.stdout
    path = agent.find("escaped")
    assert path is not None
    table = path / "report" / "recipients.csv"
    table.write_bytes(table.read_bytes().replace(b"'+a@", b"'+b@"))
    assert "report/recipients.csv:4 differs from the database" in agent.command("check", "--deep").stderr
