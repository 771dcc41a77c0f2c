"""Single .eml files in new/ that bring their envelope along: taken, stripped, sent once, and told what is wrong."""

import os
import signal
from pathlib import Path

import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.relay import Relay
from tests.servers.upload import waits

HEADER = (
    b"From: <shop@example.com>\r\nTo: <ada@one.example>\r\nSubject: Order\r\n"
    b"Date: Tue, 1 Dec 2026 09:00:00 +0100\r\nMessage-ID: <1@example.com>\r\n"
)
BODY = b"\r\nThank you.\r\nX-Receiver: <not@an.example>\r\n"
ENVELOPE = b"X-Sender: <bounces@example.com>\r\nX-Receiver: <ada@one.example>\r\nX-Receiver: <bob@two.example>\r\n"


def _rename_in(agent: Agent, name: str, content: bytes) -> None:
    (agent.spool / "tmp" / name).write_bytes(content)
    (agent.spool / "tmp" / name).rename(agent.spool / "new" / name)


def test_file_with_an_envelope_is_a_job_and_the_envelope_is_not_sent(agent: Agent, relay: Relay) -> None:
    agent.start()
    _rename_in(agent, "order.eml", ENVELOPE + HEADER + BODY)
    status = agent.wait_state("order", "finished")
    assert status["counts"]["sent"] == status["total"] == 2
    (mail,) = relay.accepted
    assert mail.mail_from == "bounces@example.com"
    assert sorted(mail.recipients) == ["ada@one.example", "bob@two.example"]
    assert mail.data == HEADER + BODY
    assert agent.names() == []
    (accepted,) = agent.events("job.accepted")
    assert accepted["rule"] == "sealed"
    assert relay.violations == []


def test_file_copied_in_is_taken_when_it_is_quiet(agent: Agent, relay: Relay) -> None:
    agent.configure(relay.port, config={"intake": {"settle": "4s"}})
    agent.start()
    target = agent.spool / "new" / "slow.eml"
    with target.open("wb", buffering=0) as file:
        file.write(ENVELOPE)
        wait_for(lambda: waits(agent).get("slow.eml") == "the rest of it: there is only an envelope")
        file.write(HEADER)
        wait_for(lambda: waits(agent).get("slow.eml") == "4 s without a change")
        file.write(BODY)
    agent.wait_state("slow", "finished")
    assert [mail.data for mail in relay.accepted] == [HEADER + BODY]


#: What stands at the beginning of a file, the sender that it means, and the recipients.
FORMS = {
    "exchange": (
        b"X-Sender: <bounces@example.com> BODY=8bitmime RET=HDRS\r\n"
        b"X-Receiver: <ada@one.example> NOTIFY=NEVER ORcpt=rfc822;\r\n ada@one.example\r\nX-Receiver: <bob@two.example>\r\n"
        b"X-CreatedBy: MSExchange15\r\nX-HeloDomain: mail.example.com\r\nX-ExtendedProps: BQBjAAoA\r\n AAAA\r\n"
        b"X-EndOfInjectedXHeaders: 1234\r\n",
        "bounces@example.com",
        ["ada@one.example", "bob@two.example"],
    ),
    "powermta": (
        b"x-sender: bounces@example.com\nx-receiver: ada@one.example\nx-receiver: bob@two.example\nx-virtual-mta: news\n",
        "bounces@example.com",
        ["ada@one.example", "bob@two.example"],
    ),
    "null sender": (b"X-RECEIVER: ada@one.example\r\nX-Sender: <>\r\n", "", ["ada@one.example"]),
    "quoted": (
        b'X-Sender: <"a b"@example.com>\nX-Receiver: "b c"@one.example\n',
        '"a b"@example.com',
        ['"b c"@one.example'],
    ),
}


def test_every_form_of_envelope_that_other_servers_take_is_understood(agent: Agent, relay: Relay) -> None:
    for number, (envelope, _, _) in enumerate(FORMS.values()):
        (agent.spool / "new" / f"form-{number}.eml").write_bytes(envelope + HEADER + BODY)
    agent.start()
    for number in range(len(FORMS)):
        agent.wait_state(f"form-{number}", "finished")
    found = sorted((mail.mail_from, sorted(mail.recipients)) for mail in relay.accepted)
    assert found == sorted((sender, receivers) for _, sender, receivers in FORMS.values())
    assert {mail.data for mail in relay.accepted} == {HEADER + BODY}


def test_wrong_envelopes_are_rejected_with_file_and_line(agent: Agent, relay: Relay) -> None:
    wrong = {
        "nobody": (b"X-Sender: <a@example.com>\n", "nobody.eml: no X-Receiver; expected one for each recipient"),
        "unsent": (b"X-Receiver: <a@example.com>\n", "unsent.eml: no X-Sender; expected one before the header"),
        "twice": (
            b"X-Receiver: <b@c>\nX-Sender: <a@b>\nX-Sender: <b@c>\n",
            "twice.eml:3: a second X-Sender; expected one",
        ),
        "bad": (
            b"X-Sender: a\x1b[31m@b c\nX-Receiver: <b@c>\n",
            "bad.eml:1: X-Sender: 'a\\x1b[31m@b' is not an address",
        ),
    }
    for name, (envelope, _) in wrong.items():
        (agent.spool / "new" / f"{name}.eml").write_bytes(envelope + HEADER + BODY)
    agent.start()
    for name, (_, text) in wrong.items():
        status = agent.wait_state(name, "rejected")
        assert status["errors"][0].startswith(text)
        assert (agent.spool / "done" / name / "message.eml").read_bytes() == HEADER + BODY
    assert relay.accepted == []
    assert agent.names() == []


def test_bad_receiver_fails_alone_and_a_bad_message_rejects_the_job(agent: Agent, relay: Relay) -> None:
    agent.start()
    _rename_in(
        agent, "some.eml", b"X-Sender: <a@b>\nX-Receiver: <no one>\nX-Receiver: ada@one.example\n" + HEADER + BODY
    )
    _rename_in(agent, "nul.eml", ENVELOPE + HEADER + b"\r\n\0\r\n")
    counts = agent.wait_state("some", "finished")["counts"]
    assert (counts["sent"], counts["failed"]) == (1, 1)
    assert agent.wait_state("nul", "rejected")["errors"][0].startswith("message.eml:")
    assert relay.recipients == ["ada@one.example"]


def test_other_files_in_new_are_told_and_left_alone_and_hinder_no_drain(agent: Agent, relay: Relay) -> None:
    (agent.spool / "new" / "plain.eml").write_bytes(HEADER + BODY)
    (agent.spool / "new" / "notes.txt").write_bytes(ENVELOPE + HEADER + BODY)
    (agent.spool / "new" / "link.eml").symlink_to("/etc/hostname")
    agent.start(arguments=["--drain"], wait=False)
    assert agent.died() == 0
    problems = {event["upload"]: event["problem"] for event in agent.events("upload.problem")}
    assert set(problems) == {"plain.eml", "notes.txt", "link.eml"}
    assert all("a job is a folder" in text for text in problems.values())
    assert [name for name, text in problems.items() if "X-Receiver" in text] == ["plain.eml"]
    assert agent.names() == ["link.eml", "notes.txt", "plain.eml"]
    assert relay.accepted == []


def test_names_are_cleaned_and_do_not_collide(agent: Agent, relay: Relay) -> None:
    names = ["-Bestellung Nr. 5 (ö).eml", "x" * 240 + ".EML", "job.eml", ".-.eml.eml"]
    agent.write_job(agent.spool / "new" / "job", ["folder@one.example"], files={"HOLD": b"", "READY": b""})
    agent.start()
    agent.wait_state("job", "held")
    for number, name in enumerate(names):
        (agent.spool / "new" / name).write_bytes(ENVELOPE + HEADER + b"\r\n%d\r\n" % number)
    wait_for(lambda: len(relay.accepted) == 3, what="the messages")
    for name in ("Bestellung_Nr._5____", "x" * 90, "job.2"):
        agent.wait_state(name, "finished")
    assert agent.names() == [".-.eml.eml"]  # names that begin with a dot are never looked at


def test_same_content_under_another_name_is_sent_and_under_the_same_name_is_a_repetition(
    agent: Agent, relay: Relay
) -> None:
    agent.start()
    for name, job, state in (("a.eml", "a", "finished"), ("b.eml", "b", "finished"), ("a.eml", "a.2", "rejected")):
        _rename_in(agent, name, ENVELOPE + HEADER + BODY)
        status = agent.wait_state(job, state)
    assert status["errors"] == ["duplicate of a"]
    assert len(relay.accepted) == 2


@pytest.mark.parametrize("place", ["pickup-written", "pickup-renamed", "pickup-removed"])
def test_kill_while_a_file_is_picked_up_neither_loses_nor_repeats_it(place: str, agent: Agent, relay: Relay) -> None:
    (agent.spool / "new" / "one-a.eml").write_bytes(ENVELOPE + HEADER + b"\r\n1\r\n")
    (agent.spool / "new" / "two-b.eml").write_bytes(ENVELOPE + HEADER + b"\r\n2\r\n")
    agent.start(failpoint=place, wait=False)
    assert agent.died() == -signal.SIGKILL
    agent.start()
    for name in ("one-a", "two-b"):
        status = agent.wait_state(name, "finished")
        assert status["counts"]["sent"] == status["total"] == 2
    assert sorted(mail.data for mail in relay.accepted) == [HEADER + b"\r\n1\r\n", HEADER + b"\r\n2\r\n"]
    assert agent.names() == []
    assert relay.violations == []


def test_many_receivers_are_all_read(agent: Agent, relay: Relay) -> None:
    agent.start()
    everybody = [f"r{number}@many.example" for number in range(4000)]
    lines = b"".join(b"X-Receiver: <%b>\r\n" % to.encode() for to in everybody)
    assert len(lines) > 100_000
    _rename_in(agent, "many.eml", b"X-Sender: <a@b>\r\n" + lines + HEADER + BODY)
    assert agent.wait_state("many", "finished")["counts"]["sent"] == 4000
    assert sorted(relay.recipients) == sorted(everybody)
    assert {mail.data for mail in relay.accepted} == {HEADER + BODY}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_file_of_another_user_is_picked_up(agent: Agent, relay: Relay, tmp_path: Path) -> None:
    path = tmp_path / "theirs.eml"
    path.write_bytes(ENVELOPE + HEADER + BODY)
    os.chown(path, 12345, 12345)
    path.rename(agent.spool / "new" / "theirs.eml")
    agent.start()
    agent.wait_state("theirs", "finished")
    assert len(relay.accepted) == 1
