"""`notify`: one summary mail for each job that ends, whatever is killed when, and none about a summary mail."""

import csv
import io
import re
import signal
import time
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

import pytest

from tests.servers.agent import MESSAGE, Agent, wait_for
from tests.servers.audit import connect
from tests.servers.ledger import Accepted
from tests.servers.relay import Relay
from tests.servers.script import Reply, Rule

TO = "ops@admin.example"
NOTIFY = {"notify": TO}


def _notices(relay: Relay) -> list[Accepted]:
    return [mail for mail in relay.accepted if TO in mail.recipients]


def _parsed(mail: Accepted) -> EmailMessage:
    found = message_from_bytes(mail.data, policy=SMTP)
    assert isinstance(found, EmailMessage)
    assert found.defects == []
    return found


def _text(message: EmailMessage) -> str:
    body = message.get_body(("plain",))
    assert body is not None
    return str(body.get_content()).replace("\r\n", "\n")


def _rows(message: EmailMessage) -> list[dict[str, str]]:
    (attachment,) = message.iter_attachments()
    assert (attachment.get_content_type(), attachment.get_filename()) == ("text/csv", "failures.csv")
    content = attachment.get_payload(decode=True)
    assert isinstance(content, bytes)
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def _wait_told(agent: Agent, relay: Relay, count: int) -> list[Accepted]:
    """Wait until so many summaries have gone out and nothing is left to be told."""

    def look() -> bool:
        with connect(agent) as database:
            left = database.execute(
                "SELECT (SELECT count(*) FROM ended) + (SELECT count(*) FROM job WHERE state NOT IN"
                " ('finished', 'cancelled', 'rejected'))"
            ).fetchone()[0]
        database.close()
        return left == 0 and len(_notices(relay)) >= count

    wait_for(look, what=f"{count} summaries")
    return _notices(relay)


def test_end_of_a_job_is_told_with_reasons_and_failures(agent: Agent, relay: Relay) -> None:
    relay.rules = [Rule("RCPT", Reply("550 5.1.1 unknown user"), match="bad")]
    agent.configure(relay.port, config=NOTIFY)
    agent.start()
    good, bad = [f"a{n}@one.example" for n in range(7)], [f"bad{n}@two.example" for n in range(3)]
    agent.drop("sale", [*good, *bad, "no address"], manifest={"description": "Großer Verkauf"})
    counts = agent.wait_state("sale", "finished")["counts"]
    (mail,) = _wait_told(agent, relay, 1)
    assert (mail.mail_from, mail.recipients) == ("", (TO,))
    assert mail.data.isascii()
    message = _parsed(mail)
    assert message["Subject"] == "spoold: sale: finished, 7 of 11 sent, 4 failed"
    assert message["Auto-Submitted"] == "auto-generated"
    assert (message["To"], message["From"]) == (TO, f"spoold <{TO}>")
    assert message["Message-ID"].endswith("@admin.example>")
    assert message["Date"].datetime.utcoffset() is not None
    text = _text(message)
    for part in ("Großer Verkauf", "Duration:", "  sent               7\n", "  failed             4\n",
                 "        3  failed: 550 5.1.1 unknown user\n", "Sender:      <news@example.com>"):  # fmt: skip
        assert part in text
    rows = _rows(message)
    assert rows == [row for row in agent.recipients("sale") if row["state"] != "sent"]
    assert len(rows) == counts["failed"] == 4

    # A job of the agent's own, which shows what became of the summary, and of which nothing is told.
    name = wait_for(lambda: next((path.name for path in (agent.spool / "done").glob("notice-sale-*")), None))
    status = agent.status(name)
    assert status is not None
    assert (status["state"], status["description"], status["sender"]) == ("finished", "how sale ended", "")
    assert relay.violations == []


def test_rejected_cancelled_and_all_sent_jobs_are_told_of(agent: Agent, relay: Relay) -> None:
    agent.configure(relay.port, config=NOTIFY)
    agent.start()
    agent.drop("wrong", manifest={"rate": "often"})
    agent.drop("held", ["a@one.example", "b@one.example"], files={"HOLD": b""})
    agent.drop("gone", ["a@one.example"], files={"CANCEL": b""})
    agent.drop("good", ["c@one.example"])
    agent.wait_state("held", "held")
    assert agent.command("cancel", "held").returncode == 0
    wait_for(lambda: len(_notices(relay)) == 4)
    found = {str(message["Subject"]): message for message in map(_parsed, _notices(relay))}
    assert set(found) == {
        "spoold: wrong: rejected, nothing was sent",
        "spoold: held: cancelled, 0 of 2 sent, 2 cancelled",
        "spoold: gone: cancelled, 0 of 0 sent",
        "spoold: good: finished, 1 of 1 sent",
    }
    rejected = found["spoold: wrong: rejected, nothing was sent"]
    assert "Errors:\n  job.yaml:" in _text(rejected)
    assert list(rejected.iter_attachments()) == []
    assert list(found["spoold: good: finished, 1 of 1 sent"].iter_attachments()) == []
    assert {row["state"] for row in _rows(found["spoold: held: cancelled, 0 of 2 sent, 2 cancelled"])} == {"cancelled"}


def test_summary_that_is_refused_makes_no_other(agent: Agent, relay: Relay) -> None:
    relay.rules = [Rule("RCPT", Reply("550 5.1.1 no such admin"), match=TO)]
    agent.configure(relay.port, config=NOTIFY)
    agent.start()
    agent.drop("sale", ["a@one.example"])
    agent.wait_state("sale", "finished")
    notice = wait_for(lambda: next((path.name for path in (agent.spool / "done").glob("notice-*")), None))
    assert agent.wait_state(notice, "finished")["counts"]["failed"] == 1
    before = len(agent.events("upload.seen"))
    # Two more jobs end meanwhile: were anything told of the first summary, it would have been told before theirs.
    for name in ("b", "c"):
        agent.drop(name, ["b@one.example"], manifest={"allow_duplicate": True})
        wait_for(lambda name=name: list((agent.spool / "done").glob(f"notice-{name}-*")))  # type: ignore[misc]
    assert len(agent.events("upload.seen")) == before + 4
    assert not list((agent.spool / "done").glob("notice-notice-*"))


def test_reload_turns_summaries_on_and_off_and_tells_nothing_of_the_past(agent: Agent, relay: Relay) -> None:
    agent.start()
    agent.drop("first", ["a@one.example"])
    agent.wait_state("first", "finished")

    def reload(config: dict[str, str]) -> None:
        agent.configure(relay.port, config=config)
        count = len(agent.events("agent.reloaded"))
        assert agent.process is not None
        agent.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(agent.events("agent.reloaded")) > count)

    wait_for(lambda: not _ended(agent))
    reload(NOTIFY)
    agent.drop("second", ["b@one.example"])
    (mail,) = _wait_told(agent, relay, 1)
    assert "second" in _parsed(mail)["Subject"]
    reload({"notify": "other@admin.example"})
    agent.drop("third", ["c@one.example"])
    wait_for(lambda: [mail for mail in relay.accepted if mail.recipients == ("other@admin.example",)])
    reload({})
    agent.drop("fourth", ["d@one.example"])
    agent.wait_state("fourth", "finished")
    wait_for(lambda: not _ended(agent))
    assert len(relay.accepted) == 6


def _ended(agent: Agent) -> list[object]:
    with connect(agent) as database:
        found = database.execute("SELECT * FROM ended").fetchall()
    database.close()
    return found


#: Where the process is killed between a job's end and its summary's, and at which passing.
PLACES = {
    "before-move": 1,
    "after-move": 1,
    "notice-named": 1,
    "notice-written": 1,
    "claim-renamed": 2,
    "file-taken": 5,
    "before-accept": 2,
    "after-accept": 2,
    "before-intent": 2,
    "report-written": 2,
}


@pytest.mark.parametrize(("place", "nth"), PLACES.items())
def test_kill_between_end_and_summary_leads_to_exactly_one(place: str, nth: int, agent: Agent, relay: Relay) -> None:
    agent.configure(relay.port, config=NOTIFY)
    agent.drop("sale", ["a@one.example"], files={"READY": b""})
    agent.start(failpoint=f"{place}:{nth}", wait=False)
    assert agent.died() == -signal.SIGKILL
    agent.start()
    agent.drop("next", ["b@one.example"])
    told = _wait_told(agent, relay, 2)
    assert sorted(str(_parsed(mail)["Subject"]) for mail in told) == [
        "spoold: next: finished, 1 of 1 sent",
        "spoold: sale: finished, 1 of 1 sent",
    ]
    names = ["next", "notice-next", "notice-sale", "sale"]
    wait_for(
        lambda: sorted(re.sub("-[0-9a-f]{8}$", "", path.name) for path in (agent.spool / "done").iterdir()) == names
    )
    assert list((agent.spool / "tmp").iterdir()) == []
    assert list((agent.spool / "new").iterdir()) == []


def test_end_that_was_not_told_of_is_told_of_after_a_restart_once(agent: Agent, relay: Relay) -> None:
    agent.configure(relay.port, config=NOTIFY)
    agent.drop("sale", ["a@one.example"], files={"READY": b""})
    # No summary can be written.
    agent.start(failpoint="notice-named:1:ENOSPC")
    wait_for(lambda: agent.events("notice.failed"))
    assert agent.stop() == 0
    assert _notices(relay) == []
    for _ in range(2):
        agent.start()
        _wait_told(agent, relay, 1)
        assert agent.stop() == 0
    assert len(_notices(relay)) == 1


def test_draining_agent_tells_before_it_ends(agent: Agent, relay: Relay) -> None:
    agent.configure(relay.port, config=NOTIFY)
    agent.drop("sale", ["a@one.example"], files={"READY": b""})
    begun = time.monotonic()
    agent.start(wait=False, arguments=["--drain"])
    assert agent.died() == 0
    assert time.monotonic() - begun < 15
    assert len(_notices(relay)) == 1


def test_many_failures_are_attached_as_far_as_there_is_room(agent: Agent, relay: Relay) -> None:
    agent.configure(relay.port, config={**NOTIFY, "intake": {"settle": "1s", "max_message": "60kB"}})
    agent.start()
    agent.drop("sale", [f"no address {n}" for n in range(1000)] + ["a@one.example"])
    (mail,) = _wait_told(agent, relay, 1)
    message = _parsed(mail)
    rows = _rows(message)
    assert 50 < len(rows) < 1000
    assert rows == agent.recipients("sale")[: len(rows)]
    assert f"The first {len(rows)} of 1000 recipients who were not sent to are in failures.csv; all" in _text(message)
    assert len(mail.data) < 60_000


def test_unusual_address_is_written_to(tmp_path: Path) -> None:
    for number, address in enumerate(("jürgen@bücher.example", '"a b"@one.example', "ops@[127.0.0.1]")):
        root = tmp_path / str(number)
        root.mkdir()
        with Relay(extensions=("PIPELINING", "8BITMIME", "SMTPUTF8")) as relay, Agent(root, relay.port) as agent:
            agent.configure(relay.port, config={"notify": address})
            agent.start()
            agent.drop("sale", ["a@one.example"], message=MESSAGE)
            (mail,) = wait_for(lambda relay=relay: [m for m in relay.accepted if m.mail_from == ""])  # type: ignore[misc]
            (to,) = mail.recipients
            assert to == address.replace("bücher", "xn--bcher-kva")
            assert f"\r\nTo: {to}\r\n".encode() in mail.data
