"""Real mail through real programs: dropped by `rsync -a` over sshd, taken by the agent, relayed by Postfix, read from the
mailbox on disk. What may differ from the file is computed here in its own, slow and plain way (CONTRACT §2).
"""

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.servers.agent import MESSAGE, Agent
from tests.servers.postfix import Postfix
from tests.servers.relay import EXTENSIONS, Relay
from tests.servers.sshd import Sshd

CORPUS = Path(__file__).parent.parent / "corpus" / "messages"
#: Made for what the corpus lacks; the second value is the reason of a refusal, in words, None if it is sent.
OWN: dict[str, tuple[bytes, str | None]] = {
    "bcc.eml": (b"From: a@x.example\nBCC: secret@x.example,\n\tother@x.example\nSubject: y\nbcc : z@x.example\n\nBcc: stays\n", None),
    "mbox.eml": (b"From news@example.com Mon Jan  1 00:00:00 2024\nFrom: a@x.example\nSubject: y\n\nFrom here on\n", None),
    "dots.eml": (b"From: a@x.example\nSubject: dots\n\n.\n..\n.a\n...\n\n.\n", None),
    "crlf.eml": (b"From: a@x.example\r\nSubject: y\r\n\r\nx\r\n", None),
    "mixed.eml": (b"From: a@x.example\r\nSubject: y\n\r\nx\ny\r\n", None),
    "no-newline.eml": (b"From: a@x.example\nSubject: y\n\nthe last line has no end", None),
    "only-header.eml": (b"From: a@x.example\nSubject: y\n", None),
    "no-header.eml": (b"just some text\nwithout any header\n", None),
    "dated.eml": (b"Date: Mon, 1 Jan 2024 00:00:00 +0000\nMESSAGE-ID: <1@x.example>\nSubject: y\n\nx\n", None),
    "eight-bit.eml": ("Subject: J\u00fcrgen\n\nGr\u00fc\u00dfe\n".encode(), None),
    "latin-1.eml": (b"Subject: y\nContent-Type: text/plain; charset=iso-8859-1\n\nGr\xfc\xdfe\n", None),
    "long-998.eml": (b"Subject: y\n\n" + b"x" * 998 + b"\n", None),
    "long-999.eml": (b"Subject: y\n\n" + b"x" * 999 + b"\n", "messages/long-999.eml:3: .*998"),
    "nul.eml": (b"Subject: y\n\nx\n\0\n", "messages/nul.eml:4: .*NUL"),
    "bare-cr.eml": (b"Subject: y\n\nx\ry\n", "messages/bare-cr.eml:3: .*CR"),
    "header-65k.eml": (b"".join(b"X-%05d: %s\n" % (n, b"y" * 90) for n in range(700)) + b"\nx\n", "64 KiB"),
    "empty.eml": (b"", "empty"),
}  # fmt: skip
DATE = re.compile(rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}\r\n\Z")
MESSAGE_ID = re.compile(rb"Message-ID: <[^<>@\s]+@example\.com>\r\n\Z")


def messages() -> dict[str, bytes]:
    """Every message, by name."""
    corpus = {path.name: path.read_bytes() for path in CORPUS.glob("*.eml")}
    assert len(corpus) == 63
    assert not corpus.keys() & OWN.keys()
    return corpus | {name: data for name, (data, _) in OWN.items()}


def refusal(name: str, raw: bytes) -> str | None:
    """Why a message cannot be sent, as a regular expression; None if it can be."""
    if name in OWN:
        return OWN[name][1]
    for number, line in enumerate(raw.split(b"\n"), 1):
        text = line.removesuffix(b"\r")
        if b"\0" in text or b"\r" in text or len(text) > 998:
            return f"messages/{re.escape(name)}:{number}: "
    return None


def reference(raw: bytes) -> tuple[set[str], list[bytes]]:
    """The fields that are missing, and the lines that go out, without line ends; neither has what is added."""
    lines = [line.removesuffix(b"\r") for line in raw.split(b"\n")]
    if lines[-1] == b"":
        lines.pop()
    if lines[0].startswith(b"From ") and not re.match(rb"From\s*:", lines[0]):
        lines.pop(0)
    has_header = lines[0] == b"" or re.match(rb"[!-9;-~]+[ \t]*:", lines[0]) is not None
    end = lines.index(b"") if b"" in lines else len(lines)
    header = lines[:end] if has_header else []
    body = lines[end:] if has_header else [b"", *lines]
    kept: list[bytes] = []
    names = set()
    dropping = False
    for line in header:
        if line[:1] not in (b" ", b"\t"):
            name = line.partition(b":")[0].strip().lower().decode("latin-1")
            names.add(name)
            dropping = name == "bcc"
        if not dropping:
            kept.append(line)
    return {"date", "message-id"} - names, kept + body


def as_postfix_reads(lines: list[bytes], first: bool) -> list[bytes]:
    """What Postfix makes of a header that is out of the ordinary; `first`: nothing was added before it.

    smtpd(8) takes a first line that begins with `From ` for an mbox's, even `From  : John`, and gives it another name;
    cleanup(8) takes blanks before a field's colon away, and ends the header, by an empty line, before a line that is no
    field.
    """
    if first and lines[0].startswith(b"From "):
        lines = [b"X-Mailbox-Line: " + lines[0], *lines[1:]]
    found: list[bytes] = []
    for number, line in enumerate(lines):
        if line == b"":
            return found + lines[number:]
        if not re.match(rb"[!-9;-~]+[ \t]*:|[ \t]", line):
            return [*found, b"", *lines[number:]]
        found.append(re.sub(rb"\A([!-9;-~]+)[ \t]+:", rb"\1:", line))
    return found


def check(name: str, raw: bytes, got: bytes, *, postfix: bool) -> bytes:
    """Compare what arrived, with LF line ends, with the reference; returns the fields that were added."""
    missing, lines = reference(raw)
    if postfix:
        lines = as_postfix_reads(lines, first=not missing)
    added, rest = b"", got
    for field, form in (("date", DATE), ("message-id", MESSAGE_ID)):
        if field in missing:
            line, _, rest = rest.partition(b"\n")
            assert form.match(line + b"\r\n"), (name, line)
            added += line + b"\n"
    assert rest == b"".join(line + b"\n" for line in lines), name
    return added


@pytest.mark.timeout(120)
def test_every_message_of_the_corpus_arrives_byte_for_byte_or_is_refused_with_its_reason(
    tmp_path: Path, postfix: Postfix, sshd: Sshd
) -> None:
    corpus = messages()
    refused = {name for name, raw in corpus.items() if refusal(name, raw)}
    assert {"nul.eml", "bare-cr.eml", "long-999.eml", "header-65k.eml", "empty.eml"} <= refused
    assert len(corpus) - len(refused) > 60
    address = {name: f"user{number}@one.example" for number, name in enumerate(sorted(corpus))}
    rows = "address,message,name\n" + "".join(f"{address[name]},messages/{name},{name}\n" for name in sorted(corpus))
    with Agent(tmp_path, postfix.port, relay={"connections": 5}) as agent:
        agent.start()
        job = agent.write_job(
            tmp_path / "corpus",
            rows,
            message=None,
            files={f"messages/{name}": raw for name, raw in corpus.items()},
            manifest={"expect": {"recipients": len(corpus)}},
        )
        uploaded = sshd.rsync(job, f"{agent.spool}/new/")
        assert uploaded.returncode == 0, uploaded.stderr
        status = agent.wait_state("corpus", "finished", timeout=40)
        assert status["counts"]["sent"] == len(corpus) - len(refused)
        assert status["counts"]["failed"] == len(refused)
        delivered = postfix.wait_for(len(corpus) - len(refused), timeout=30)
        report = {row["address"]: row for row in agent.recipients("corpus")}
    arrived = {mail.recipient: mail for mail in postfix.settle()}
    assert len(arrived) == len(delivered)
    ids = Counter[bytes]()
    for name, raw in corpus.items():
        row = report[address[name]]
        if name in refused:
            assert address[name] not in arrived, name
            assert (row["state"], row["attempts"], row["dsn_status"], row["bounce_category"]) == (
                "failed",
                "0",
                "5.6.0",
                "content-related",
            )
            assert re.search(refusal(name, raw) or "", row["diagnostic"]), row
            continue
        assert (row["state"], row["dsn_action"], row["dsn_status"], row["smtp_code"]) == (
            "sent",
            "relayed",
            "2.0.0",
            "250",
        ), row
        assert arrived[address[name]].sender == "news@example.com"
        added = check(name, raw, arrived[address[name]].data, postfix=True)
        if b"Message-ID: " in added:
            ids[added.partition(b"Message-ID: ")[2]] += 1
    assert len(ids) > 10
    assert set(ids.values()) == {1}, "two messages got the same Message-ID"


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelining", "one by one"])
def test_on_the_wire_too_every_message_of_the_corpus_is_the_file_byte_for_byte(
    tmp_path: Path, pipelining: bool
) -> None:
    corpus = {name: raw for name, raw in messages().items() if refusal(name, raw) is None}
    rows = "message,address\n" + "".join(f"messages/{name},{name}@one.example\n" for name in sorted(corpus))
    extensions = EXTENSIONS if pipelining else tuple(line for line in EXTENSIONS if line != "PIPELINING")
    with Relay(extensions=extensions) as relay, Agent(tmp_path, relay.port) as agent:
        agent.start().drop(
            "corpus", rows, message=None, files={f"messages/{name}": raw for name, raw in corpus.items()}
        )
        assert agent.wait_state("corpus", "finished", timeout=40)["counts"]["sent"] == len(corpus)
        assert relay.violations == []
        taken = {mail.recipients[0].removesuffix("@one.example"): mail for mail in relay.accepted}
        assert len(taken) == len(relay.accepted) == len(corpus)
        for name, mail in taken.items():
            assert mail.data.count(b"\n") == mail.data.count(b"\r\n") == mail.data.count(b"\r")
            check(name, corpus[name], mail.data.replace(b"\r\n", b"\n"), postfix=False)
            # RFC 1870: the size declared is the size sent, without the stuffed dots; RFC 6152: 8-bit is declared.
            assert f"SIZE={len(mail.data)}" in mail.mail_params, name
            assert ("BODY=8BITMIME" in mail.mail_params) == (not mail.data.isascii()), name


@pytest.mark.timeout(120)
def test_one_message_for_everybody_goes_out_in_few_transactions_and_refused_recipients_are_told_apart(
    tmp_path: Path, postfix: Postfix, sshd: Sshd
) -> None:
    postfix.answer("gone@one.example", "550 5.1.1 no such user")
    postfix.answer("full@one.example", "452 4.2.2 mailbox full")
    to = [f"user{number}@one.example" for number in range(150)] + ["gone@one.example", "full@one.example"]
    with Agent(tmp_path, postfix.port, relay={"connections": 1, "recipients_per_message": 40}) as agent:
        agent.start()
        job = agent.write_job(tmp_path / "shared", to)
        assert sshd.rsync(job, f"{agent.spool}/new/").returncode == 0
        status = agent.wait_state("shared", "waiting", timeout=40)
        assert (status["counts"]["sent"], status["counts"]["failed"], status["counts"]["deferred"]) == (150, 1, 1)
        rows = {row["address"]: row for row in agent.recipients("shared")}
        gone, full = rows["gone@one.example"], rows["full@one.example"]
        assert (gone["state"], gone["dsn_status"], gone["smtp_code"]) == ("failed", "5.1.1", "550")
        assert (full["state"], full["dsn_status"], full["smtp_code"]) == ("deferred", "4.2.2", "452")
        assert "no such user" in gone["diagnostic"]
        mails = postfix.wait_for(150)
        assert Counter(mail.recipient for mail in mails) == Counter(to[:150])
        wires = {mail.data for mail in mails}
        assert len(wires) == 1
        check("message.eml", MESSAGE, wires.pop(), postfix=True)
        queue_ids = {re.search(rb"ESMTP id (\S+)", mail.added)[1] for mail in mails}  # type: ignore[index]
        assert len(queue_ids) == 4
        # The mailbox has room again: RETRY sends to that one alone. (Postfix reads its answers anew for a new connection.)
        assert agent.stop() == 0
        postfix.reset()
        agent.start()
        assert agent.command("retry", "shared").returncode == 0
        agent.wait_state("shared", "finished")
        assert [mail.recipient for mail in postfix.settle()] == ["full@one.example"]


def test_postfix_own_limit_on_recipients_is_found_out(tmp_path: Path, postfix: Postfix) -> None:
    postfix.set("smtpd_recipient_limit", "10")
    to = [f"user{number}@one.example" for number in range(35)]
    with Agent(tmp_path, postfix.port, relay={"connections": 1, "recipients_per_message": 30}) as agent:
        agent.start().drop("many", to)
        agent.wait_state("many", "finished")
        assert {row["attempts"] for row in agent.recipients("many")} == {"1"}
        assert [event["recipients"] for event in agent.events("relay.limit")] == [10]
    assert Counter(mail.recipient for mail in postfix.settle()) == Counter(to)


def test_null_sender_and_addresses_beyond_ascii_reach_postfix_as_they_should(tmp_path: Path, postfix: Postfix) -> None:
    with Agent(tmp_path, postfix.port) as agent:
        agent.start()
        agent.drop("bounce", ["ada@one.example"], manifest={"sender": ""})
        agent.drop("intl", ["j\u00fcrgen@one.example", "ada@b\u00fccher.example"])
        agent.wait_state("bounce", "finished")
        agent.wait_state("intl", "finished")
    mails = {mail.recipient: mail for mail in postfix.settle()}
    assert mails["ada@one.example"].sender == ""
    assert set(mails) == {"ada@one.example", "j\u00fcrgen@one.example", "ada@xn--bcher-kva.example"}
