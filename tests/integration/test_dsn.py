"""`spoold dsn`: files that bounce readers understand, held against the fields of RFC 3464 §2."""

import re
from email import message_from_bytes
from email.message import EmailMessage, Message
from email.policy import SMTP
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import cast

import pytest

from tests.servers.agent import MESSAGE, Agent
from tests.servers.relay import Relay
from tests.servers.script import Reply, Rule

#: RFC 3464 §2.2 and §2.3: what each field must look like.
PER_MESSAGE = {"Reporting-MTA": r"dns; [A-Za-z0-9.-]+", "Arrival-Date": r"\w{3}, .*"}
PER_RECIPIENT = {
    "Final-Recipient": r"(rfc822|utf-8); [!-~]+@[!-~]+|X-Invalid; .+",
    "Action": r"failed|delayed",
    "Status": r"[45]\.\d{1,3}\.\d{1,3}",
    "Remote-MTA": r"dns; \S+",
    "Diagnostic-Code": r"(smtp; [45]\d\d .+|X-Spoold; .+)",
    "Last-Attempt-Date": r"\w{3}, .*",
    "Will-Retry-Until": r"\w{3}, .*",
}
NEEDED = {"Reporting-MTA", "Final-Recipient", "Action", "Status"}


def _fields(block: Message, known: dict[str, str]) -> dict[str, str]:
    """The fields of one group, unfolded and checked."""
    found = {name: re.sub(r"\r?\n[ \t]+", " ", str(value)) for name, value in block.items()}
    assert len(found) == len(block.keys())
    for name, value in found.items():
        assert name in known or name.startswith("X-"), name
        assert value.isascii()
        assert re.fullmatch(known.get(name, ".*"), value), (name, value)
        if name.endswith(("-Date", "-Until")):
            parsedate_to_datetime(value)
    assert NEEDED & known.keys() <= found.keys()
    return found


def _read(path: Path) -> tuple[EmailMessage, dict[str, str], EmailMessage | None]:
    """A file's message, the recipient's fields, and the part with the original's header."""
    data = path.read_bytes()
    ours, _, _ = data.partition(b"Content-Type: text/rfc822-headers")
    assert [line for line in ours.split(b"\r\n") if len(line) > 78] == []
    assert data.count(b"\n") == data.count(b"\r\n")
    whole = message_from_bytes(data, policy=SMTP)
    assert isinstance(whole, EmailMessage)
    for part in whole.walk():
        assert part.defects == []
    assert whole.get_content_type() == "multipart/report"
    assert whole.get_param("report-type") == "delivery-status"
    assert whole["MIME-Version"] == "1.0"
    assert whole["Auto-Submitted"] == "auto-replied"
    assert whole["Message-ID"].count("@") == 1
    assert whole["Date"].datetime is not None
    text, status, *rest = whole.iter_parts()
    assert text.get_content_type() == "text/plain"
    assert status.get_content_type() == "message/delivery-status"
    about, fields = cast("list[EmailMessage]", status.get_payload())
    _fields(about, PER_MESSAGE)
    assert len(rest) <= 1
    original = rest[0] if rest else None
    if original is not None:
        assert original.get_content_type() == "text/rfc822-headers"
    return whole, _fields(fields, PER_RECIPIENT), original  # type: ignore[return-value]


def _files(agent: Agent, name: str) -> dict[str, Path]:
    """The files by the address that they are about."""
    folder = agent.find(name)
    assert folder is not None
    found = {}
    for path in sorted((folder / "report" / "dsn").iterdir()):
        found[_read(path)[1]["Final-Recipient"].partition("; ")[2]] = path
    return found


LONG = "5.7.1 " + "your message was refused by a policy that takes many words " * 5
RULES = [
    Rule("RCPT", Reply("550 5.1.1 no such user"), match="unknown"),
    Rule("RCPT", Reply("452 4.2.2 mailbox full"), match="full"),
    Rule("RCPT", Reply(f"554 {LONG}"), match="policy"),
]


def test_one_file_for_each_recipient_that_failed_or_is_delayed(agent: Agent, relay: Relay) -> None:
    relay.rules = RULES
    agent.start()
    people = ["ada@one.example", "unknown@one.example", "full@two.example", "policy@two.example", "no address"]
    message = b"From: <news@example.com>\nBcc: <secret@example.com>\nSubject: News\n\nHello\n"
    agent.drop("sale@x", people, message=message)
    agent.wait_state("sale@x", "waiting")
    done = agent.command("dsn", "sale@x")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "sale@x: 4 delivery-status file(s) in deferred/sale@x/report/dsn/\n"
    folder = agent.spool / "deferred" / "sale@x" / "report" / "dsn"
    assert sorted(path.name for path in folder.iterdir()) == [f"000000{n}.eml" for n in (2, 3, 4, 5)]

    whole, fields, original = _read(folder / "0000002.eml")
    assert (whole["To"], whole["Subject"]) == ("news@example.com", "Mail could not be delivered")
    assert fields == {
        "Final-Recipient": "rfc822; unknown@one.example",
        "Action": "failed",
        "Status": "5.1.1",
        "Remote-MTA": fields["Remote-MTA"],
        "Diagnostic-Code": "smtp; 550 5.1.1 no such user",
        "Last-Attempt-Date": fields["Last-Attempt-Date"],
        "X-Spoold-Line": "3",
    }
    # The header is the one that was sent: with the fields that were added, without Bcc.
    assert original is not None
    (sent,) = {mail.data for mail in relay.accepted}
    assert str(original.get_payload()).replace("\r\n", "\n").strip() == sent.split(b"\r\n\r\n")[0].decode().replace(
        "\r\n", "\n"
    )
    assert "Message-ID" in str(original.get_payload())

    whole, fields, _ = _read(folder / "0000003.eml")
    assert (fields["Action"], fields["Status"], whole["Subject"]) == ("delayed", "4.2.2", "Mail is delayed")
    lifetime = parsedate_to_datetime(fields["Will-Retry-Until"]) - parsedate_to_datetime(fields["Last-Attempt-Date"])
    assert abs(lifetime.total_seconds() - 5 * 86400) < 5

    _, fields, _ = _read(folder / "0000004.eml")
    assert fields["Diagnostic-Code"].startswith("smtp; 554 5.7.1 your message was refused by a policy that takes")
    assert len(fields["Diagnostic-Code"]) > 200

    _, fields, _ = _read(folder / "0000005.eml")
    assert fields["Diagnostic-Code"].startswith("X-Spoold; ")
    assert fields["Final-Recipient"] == "X-Invalid; no address"
    assert "Last-Attempt-Date" not in fields
    assert "Remote-MTA" not in fields
    assert agent.events("agent.task_failed") == []


def test_files_of_another_time_are_replaced_and_stay_with_the_job(agent: Agent, relay: Relay) -> None:
    relay.rules = RULES
    agent.start()
    agent.drop("sale", ["full@two.example", "unknown@one.example"])
    agent.wait_state("sale", "waiting")
    assert agent.command("dsn", "sale").returncode == 0
    assert set(_files(agent, "sale")) == {"full@two.example", "unknown@one.example"}
    relay.rules = RULES[:1]
    assert agent.command("retry", "sale").returncode == 0
    agent.wait_state("sale", "finished")
    assert set(_files(agent, "sale")) == {"full@two.example", "unknown@one.example"}
    assert agent.stop() == 0
    done = agent.command("dsn", "done/sale/")
    assert done.stdout == "sale: 1 delivery-status file(s) in done/sale/report/dsn/\n"
    assert set(_files(agent, "sale")) == {"unknown@one.example"}
    assert [path.name for path in (agent.spool / "done" / "sale" / "report").iterdir() if path.name[0] == "."] == []


def test_expired_recipient_has_failed_after_its_time(agent: Agent, relay: Relay) -> None:
    relay.rules = RULES
    agent.start()
    agent.drop("sale", ["full@two.example"], manifest={"retry": {"every": "1h", "for": "1s"}})
    assert agent.wait_state("sale", "finished")["counts"]["expired"] == 1
    assert agent.command("dsn", "sale").returncode == 0
    (path,) = _files(agent, "sale").values()
    _, fields, _ = _read(path)
    assert (fields["Action"], fields["Status"]) == ("failed", "5.4.7")
    assert fields["Diagnostic-Code"] == "X-Spoold; gave up after 1 attempt; last: 452 4.2.2 mailbox full"
    assert "Will-Retry-Until" not in fields


def test_what_is_not_ascii_is_written_in_seven_bits(agent: Agent, relay: Relay) -> None:
    relay.rules = [Rule("RCPT", Reply("550 5.1.1 unbekannt: Jürgen"), match="rgen")]
    agent.start()
    message = MESSAGE.replace(b"Subject: News", "Subject: Größe".encode())
    agent.drop("sale", ["jürgen+x@bücher.example"], message=message)
    agent.wait_state("sale", "finished")
    assert agent.command("dsn", "sale").returncode == 0
    ((address, path),) = _files(agent, "sale").items()
    # RFC 6533 §3: + is not a character that stands for itself.
    assert address == r"j\x{FC}rgen\x{2B}x@xn--bcher-kva.example"
    assert path.read_bytes().isascii()
    whole, fields, original = _read(path)
    assert fields["Final-Recipient"].startswith("utf-8; ")
    body = whole.get_body(("plain",))
    assert body is not None
    assert "<jürgen+x@xn--bcher-kva.example>" in body.get_content()
    assert original is not None
    payload = original.get_payload(decode=True)
    assert isinstance(payload, bytes)
    assert "Subject: Größe".encode() in payload


@pytest.mark.parametrize(
    ("manifest", "text"),
    [
        ({"sender": ""}, "has the null sender: what it sends are reports itself, and nobody gets one of them"),
        ({"rate": "often"}, "has no recipients (rejected); its report says why"),
    ],
)
def test_job_about_which_nothing_can_be_said_is_refused(
    manifest: dict[str, str], text: str, agent: Agent, relay: Relay
) -> None:
    relay.rules = RULES
    agent.start()
    agent.drop("sale", ["unknown@one.example"], manifest=manifest)
    agent.wait_state("sale", "rejected" if "rate" in manifest else "finished")
    done = agent.command("dsn", "sale")
    assert (done.returncode, done.stderr) == (1, f"spoold: sale: {text}\n")
    missing = agent.command("dsn", "../x\x1b")
    assert (missing.returncode, missing.stderr) == (1, "spoold: x\\x1b: no such job is known here\n")
