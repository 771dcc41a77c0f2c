"""What an upload may look like: the forms of the recipient list, folder names, and things that users plant."""

import json
import os
import re
from pathlib import Path

import pytest

from tests.servers.agent import MESSAGE, Agent, wait_for
from tests.servers.relay import Relay
from tests.servers.upload import assert_whole, content, waits, write

BOM = b"\xef\xbb\xbf"


def _sent_to(relay: Relay, domain: str) -> list[str]:
    return sorted(to for to in relay.recipients if to.endswith(f"@{domain}"))


def test_every_form_of_the_list_is_read(agent: Agent, relay: Relay) -> None:
    agent.start()
    lists: dict[str, tuple[str, bytes, list[str]]] = {
        "plain": ("recipients.csv", b"address\nada@plain.example\n\nbob@plain.example\n", ["2", "4"]),
        "bom-crlf": (
            "recipients.csv",
            BOM + b"address\r\nada@bom-crlf.example\r\nbob@bom-crlf.example\r\n",
            ["2", "3"],
        ),
        "quoted": (
            "recipients.csv",
            b'"name","Address","town"\n"A ""the"" B\nC","ada@quoted.example",Wien\nx,"bob@quoted.example"\n',
            ["2", "4"],
        ),
        "extra": ("recipients.csv", b"id,address,name\n1,ada@extra.example,Ada\n2, bob@extra.example ,\n", ["2", "3"]),
        "no-newline": ("recipients.csv", b"address\nada@no-newline.example\nbob@no-newline.example", ["2", "3"]),
        "text": ("recipients.txt", BOM + b"ada@text.example\r\n\r\n  bob@text.example\r\n", ["1", "3"]),
    }
    for name, (file, data, _) in lists.items():
        folder = agent.write_job(agent.spool / "tmp" / name, "", files={file: data})
        folder.rename(agent.spool / "new" / name)
    manifest = (
        "sender: news@example.com\nrecipients:\n  - ada@inline.example\n"
        "  - {address: bob@inline.example, message: messages/bob.eml}\n"
    )
    folder = agent.write_job(agent.spool / "tmp" / "inline", "", files={"messages/bob.eml": MESSAGE + b"for Bob\n"})
    (folder / "job.yaml").write_text(manifest)
    folder.rename(agent.spool / "new" / "inline")
    for name in (*lists, "inline"):
        status = agent.wait_state(name, "finished")
        assert status["counts"]["sent"] == status["total"] == 2, name
        assert _sent_to(relay, f"{name}.example") == [f"ada@{name}.example", f"bob@{name}.example"]
        wanted = ["3", "4"] if name == "inline" else lists[name][2]
        assert [row["line"] for row in agent.recipients(name)] == wanted
        assert_whole(status)
    for mail in relay.accepted:
        assert mail.data.endswith(b"bye\r\nfor Bob\r\n" if "bob@inline.example" in mail.recipients else b"bye\r\n")
    assert relay.violations == []


def test_international_addresses_go_out_as_a_labels_and_smtputf8(agent: Agent, relay: Relay) -> None:
    agent.start()
    agent.drop("idn", ["ada@Bücher.Example", "jürgen@gruß.example", "bob@日本.example"])
    status = agent.wait_state("idn", "finished")
    assert status["counts"]["sent"] == status["total"] == 3
    wire = {"ada@xn--bcher-kva.example", "jürgen@xn--gru-7ka.example", "bob@xn--wgv71a.example"}
    assert set(relay.recipients) == wire
    assert len(relay.recipients) == 3
    for mail in relay.accepted:
        utf8 = any(not to.isascii() for to in mail.recipients)
        assert ("SMTPUTF8" in mail.mail_params) == utf8
    assert {row["address"] for row in agent.recipients("idn")} == wire
    assert relay.violations == []


def test_international_address_fails_alone_where_the_relay_cannot_take_it(agent: Agent, relay: Relay) -> None:
    relay.extensions = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES")
    agent.start()
    agent.drop("eai", ["jürgen@eai.example", "ada@bücher.example", "bob@eai.example"])
    status = agent.wait_state("eai", "finished")
    assert (status["counts"]["sent"], status["counts"]["failed"]) == (2, 1)
    assert_whole(status)
    assert sorted(relay.recipients) == ["ada@xn--bcher-kva.example", "bob@eai.example"]
    (failed,) = [row for row in agent.recipients("eai") if row["state"] == "failed"]
    assert failed["address"] == "jürgen@eai.example"
    assert failed["dsn_status"].startswith("5.6.7")
    assert relay.violations == []


def test_repeated_addresses_are_sent_once_for_each_message(agent: Agent, relay: Relay) -> None:
    agent.start()
    rows = (
        "address,message\nada@twice.example,\nbob@twice.example,\nada@twice.example,\nADA@twice.example,\n"
        "ada@TWICE.example,\nbob@twice.example,own.eml\nbob@twice.example,own.eml\n"
    )
    agent.drop("twice", rows, files={"own.eml": MESSAGE + b"own\n"})
    status = agent.wait_state("twice", "finished")
    # The local part's case is the receiving host's business (RFC 5321 section 2.4).
    shared = ["ADA@twice.example", "ada@twice.example", "bob@twice.example"]
    sent = [(to, mail.data.endswith(b"own\r\n")) for mail in relay.accepted for to in mail.recipients]
    assert sorted(sent) == sorted([(to, False) for to in shared] + [("bob@twice.example", True)])
    assert status["counts"]["sent"] == status["total"] == 4
    assert status["warnings"] == [
        "3 recipient(s) stand twice with the same message and are sent it once; the repeats are in line 4, 6, 8"
    ]
    assert relay.violations == []


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_message_without_header_or_body_goes_out_with_what_it_needs(agent: Agent, relay: Relay, own: bool) -> None:
    agent.start()
    messages = {
        "no-header": (b"Hello,\n.dot\nno colon here\n", b"\r\nHello,\r\n.dot\r\nno colon here\r\n"),
        "only-header": (b"Subject: all of it", b"Subject: all of it\r\n"),
        "only-body": (b"\nbody", b"\r\nbody\r\n"),
        "mbox": (b"From ada Mon Jan  1 00:00:00 2024\nSubject: x\n\nFrom here\n", b"Subject: x\r\n\r\nFrom here\r\n"),
        "bcc": (
            b"bCc: eve@example.com,\n\tmallory@example.com\nSubject: x\n\nBcc: y\n",
            b"Subject: x\r\n\r\nBcc: y\r\n",
        ),
    }
    for name, (data, _) in messages.items():
        if own:
            rows = f"address,message\nada@{name}.example,own.eml\nbob@{name}.example,\n"
            agent.drop(name, rows, files={"own.eml": data})
        else:
            agent.drop(name, [f"ada@{name}.example", f"bob@{name}.example"], message=data)
    for name, (_, wire) in messages.items():
        status = agent.wait_state(name, "finished")
        assert status["counts"]["sent"] == status["total"] == 2
        (mail,) = [mail for mail in relay.accepted if f"ada@{name}.example" in mail.recipients]
        added = re.match(rb"Date: [^\r\n]+\r\nMessage-ID: <[^\r\n]+>\r\n", mail.data)
        assert added is not None, mail.data
        assert mail.data[added.end() :] == wire
        assert len(mail.recipients) == (1 if own else 2)
    assert relay.violations == []


BAD_NAMES = {
    "two words": "two_words",
    "-option": "option",
    "ümlaut": "_mlaut",
    "a\nb": "a_b",
    "a\x1b[31mb": "a__31mb",
    os.fsdecode(b"latin-\xe4"): "latin-_",
    "x" * 101: "x" * 90,
    "y" * 255: "y" * 90,
    "ß" * 127: "_" * 90,
}


def test_bad_folder_names_are_rejected_under_a_clean_one(agent: Agent, relay: Relay) -> None:
    agent.start()
    agent.drop("c" * 100, ["ada@long.example"])
    for number, name in enumerate(BAD_NAMES):
        write(agent.spool / "tmp" / str(number), content(f"ada@bad{number}.example"))
        (agent.spool / "tmp" / str(number)).rename(agent.spool / "new" / name)
    agent.drop("a.b_c@d+e-f", ["ada@beside.example"])
    for clean in BAD_NAMES.values():
        status = agent.wait_state(clean, "rejected")
        (error,) = status["errors"]
        assert error.startswith("the folder's name '")
        assert error.endswith(
            "' cannot be a job's: expected letters, digits and . _ @ + -, at most 100, not beginning with . or -"
        )
        assert error.isprintable()
    agent.wait_state("a.b_c@d+e-f", "finished")
    agent.wait_state("c" * 100, "finished")
    assert sorted(relay.recipients) == ["ada@beside.example", "ada@long.example"]
    assert b"\x1b" not in agent.log_file.read_bytes()
    assert agent.events("agent.task_failed") == []


def test_files_straight_in_new_are_told_with_the_cure(agent: Agent, relay: Relay) -> None:
    agent.start()
    write(agent.spool / "new", content("ada@loose.example"))
    (agent.spool / "new" / "link").symlink_to("/etc")
    agent.drop("beside", ["ada@beside.example"])
    agent.wait_state("beside", "finished")
    loose = ("job.yaml", "message.eml", "recipients.csv", "link")
    told = wait_for(lambda: {name: text for name, text in waits(agent).items() if "none" in text and name in loose})
    cure = "a job is a folder, and this is none; `rsync -a job host:new/` (without a / behind job) makes one"
    envelope = "; or a file NAME.eml that begins with X-Sender and X-Receiver lines"
    assert told == {**dict.fromkeys(loose, cure), "message.eml": cure + envelope}
    problems = [event["upload"] for event in agent.events("upload.problem")]
    assert sorted(problems) == sorted(loose), "one line each, not one a second"
    assert relay.recipients == ["ada@beside.example"]


def test_hidden_folders_in_new_are_never_looked_at(agent: Agent, relay: Relay) -> None:
    agent.start()
    new = agent.spool / "new"
    for name in (".hidden", ".claim-other", ".taken-other", ".take-other"):
        write(new / name, content(f"ada@{name.lstrip('.')}.example"))
    agent.drop("beside", ["ada@beside.example"])
    agent.wait_state("beside", "finished")
    assert relay.recipients == ["ada@beside.example"]
    assert sorted(path.name for path in new.iterdir()) == [".claim-other", ".hidden", ".take-other", ".taken-other"]
    assert waits(agent) == {}


def test_planted_claim_hinders_nobody_and_never_gets_into_the_job_of_that_name(agent: Agent, relay: Relay) -> None:
    agent.start()
    new = agent.spool / "new"
    write(new / ".claim-job", {"recipients.csv": b"address\nevil@planted.example\n", "more.eml": b"x"})
    agent.drop("job", ["ada@job.example"])
    agent.drop("beside", ["ada@beside.example"])
    agent.wait_state("beside", "finished")
    agent.wait_state("job", "finished")
    assert sorted(path.name for path in (new / ".claim-job").iterdir()) == ["more.eml", "recipients.csv"]
    assert sorted(relay.recipients) == ["ada@beside.example", "ada@job.example"]
    assert not (agent.spool / "done" / "job" / "more.eml").exists()


@pytest.mark.parametrize("kind", ["files", "symlink", "file"])
def test_planted_report_is_replaced_by_the_agents(agent: Agent, relay: Relay, tmp_path: Path, kind: str) -> None:
    agent.start()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "status.txt").write_text("mine")
    name = f"planted-{kind}"
    folder = agent.write_job(agent.spool / "tmp" / name, [f"ada@{name}.example"])
    if kind == "files":
        write(folder, {"report/status.json": b'{"state": "finished"}', "report/evil.txt": b"x"})
        (folder / "report" / "status.txt").symlink_to(outside / "status.txt")
        (folder / "report" / "recipients.csv").mkdir()
    elif kind == "symlink":
        (folder / "report").symlink_to(outside)
    else:
        (folder / "report").write_text("not a folder")
    folder.rename(agent.spool / "new" / name)
    status = agent.wait_state(name, "finished")
    assert status["counts"]["sent"] == status["total"] == 1
    report = agent.spool / "done" / name / "report"
    assert sorted(path.name for path in report.iterdir()) == [
        "attempts.jsonl", "index.html", "recipients.csv", "statistics.json", "status.json", "status.txt",
    ]  # fmt: skip
    assert not report.is_symlink()
    assert [path.name for path in outside.iterdir()] == ["status.txt"]
    assert (outside / "status.txt").read_text() == "mine"
    assert relay.recipients == [f"ada@{name}.example"]


def test_too_many_recipients_reject_the_job(tmp_path: Path, relay: Relay) -> None:
    with Agent(tmp_path, relay.port, config={"intake": {"settle": "1s", "max_recipients": 3}}) as agent:
        agent.start()
        agent.drop("four", [f"r{n}@four.example" for n in range(4)])
        agent.drop("three", [f"r{n}@three.example" for n in range(3)])
        status = agent.wait_state("four", "rejected")
        assert status["errors"] == ["more than 3 recipients (intake.max_recipients); split the job"]
        assert agent.wait_state("three", "finished")["counts"]["sent"] == 3
        assert sorted(relay.recipients) == [f"r{n}@three.example" for n in range(3)]
        assert json.loads(agent.report("four", "statistics.json") or b"")
