"""`spoold sendmail`: exit 0 means that the whole job is in new/, and what is refused has the code of sysexits."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.agent import Agent
from tests.servers.ledger import without_added
from tests.servers.process import find_program
from tests.servers.relay import Relay

MESSAGE = b"From: Ada <ada@example.com>\nTo: bob@one.example\nSubject: Hi\n\nHello\n.\nafter the dot\n"


def sendmail(agent: Agent, *arguments: str, message: bytes = MESSAGE) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        [sys.executable, "-m", "spoold", "--config", str(agent.config), "sendmail", *arguments],
        input=message, capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert b"Traceback" not in done.stderr
    return done


def test_exit_0_means_that_the_whole_job_is_in_new(agent: Agent) -> None:
    done = sendmail(agent, "-i", "-v", "--", "bob@one.example", "Carol <carol@two.example>, bob@one.example")
    assert (done.returncode, done.stderr) == (0, b"")
    (name,) = agent.names()
    assert done.stdout.decode() == f"{name}: in new/, the agent takes it from there\n"
    job = agent.spool / "new" / name
    assert (job / "message.eml").read_bytes() == MESSAGE
    assert (job / "recipients.csv").read_bytes() == b"address\r\nbob@one.example\r\ncarol@two.example\r\n"
    assert (job / "job.yaml").read_text().startswith("sender: ada@example.com\n")
    assert (job / "SHA256SUMS").exists()
    assert list((agent.spool / "tmp").iterdir()) == []


def test_line_with_a_dot_ends_the_message_unless_told_otherwise(agent: Agent, relay: Relay) -> None:
    assert sendmail(agent, "bob@one.example").returncode == 0
    assert sendmail(agent, "-oi", "carol@one.example").returncode == 0
    assert sendmail(agent, "dan@one.example", message=MESSAGE.replace(b"\n", b"\r\n")).returncode == 0
    agent.start()
    found = {mail.recipients[0]: without_added(mail) for mail in relay.take(3)}
    whole = MESSAGE.replace(b"\n", b"\r\n")
    short = whole[: whole.index(b".\r\n")]
    assert found == {"bob@one.example": short, "carol@one.example": whole, "dan@one.example": short}


def test_recipients_of_the_header_are_taken_and_bcc_is_not_sent(agent: Agent, relay: Relay) -> None:
    header = (
        b'From: ada@example.com\nTo: Bob <bob@one.example>, "C, D" (x) <c@one.example>\nCc: Friends: e@one.example;,\n'
        b" f@one.example\nBcc: g@one.example\nReply-To: no@one.example\n\n"
    )
    assert sendmail(agent, "-t", "-i", "h@one.example", message=header + b"text\n").returncode == 0
    agent.start()
    (mail,) = relay.take(1)
    assert sorted(mail.recipients) == [f"{who}@one.example" for who in ("bob", "c", "e", "f", "g", "h")]
    assert b"Bcc" not in mail.data
    assert b"Reply-To" in mail.data


def test_recipients_of_a_message_that_was_sent_on_are_the_resent_ones(agent: Agent) -> None:
    assert (
        sendmail(agent, "-t", message=b"Resent-To: new@one.example\nResent-Bcc: x@one.example\n" + MESSAGE).returncode
        == 0
    )
    (name,) = agent.names()
    listed = (agent.spool / "new" / name / "recipients.csv").read_bytes()
    assert listed == b"address\r\nnew@one.example\r\nx@one.example\r\n"


@pytest.mark.parametrize(
    ("arguments", "header", "sender"),
    [
        (["-f", "bounces@example.com"], b"From: ada@example.com\n", "bounces@example.com"),
        (["-fbounces@example.com"], b"", "bounces@example.com"),
        (["-r", "<bounces@example.com>"], b"", "bounces@example.com"),
        (["-f", "<>"], b"From: ada@example.com\n", '""'),
        (["-f", ""], b"From: ada@example.com\n", '""'),
        ([], b"From: Ada <ada@example.com>, eve@example.com\n", "ada@example.com"),
        ([], b"From: a@example.com, b@example.com\nSender: s@example.com\n", "s@example.com"),
    ],
)
def test_sender_is_told_or_found(agent: Agent, arguments: list[str], header: bytes, sender: str) -> None:
    assert sendmail(agent, *arguments, "bob@one.example", message=header + b"Subject: x\n\nx\n").returncode == 0
    (name,) = agent.names()
    assert (agent.spool / "new" / name / "job.yaml").read_text().splitlines()[0] == f"sender: {sender}"


def test_missing_from_is_added_and_text_without_header_is_text(agent: Agent, relay: Relay) -> None:
    arguments = ["-f", "ada@example.com"]
    assert sendmail(agent, *arguments, "-F", 'Ada "A" L', "b@one.example", message=b"Hello world\n").returncode == 0
    assert (
        sendmail(agent, *arguments, "-F", "Ädä\r\nBcc: x@y", "c@one.example", message=b"Subject: x\n\nx\n").returncode
        == 0
    )
    assert (
        sendmail(
            agent, *arguments, "d@one.example", message=b"From ada Tue Dec  1 09:00:00 2026\nSubject: x\n\nx\n"
        ).returncode
        == 0
    )
    assert sendmail(agent, *arguments, "e@one.example", message=b"").returncode == 0
    agent.start()
    found = {mail.recipients[0][0]: without_added(mail) for mail in relay.take(4)}
    assert found["b"] == b'From: "Ada \\"A\\" L" <ada@example.com>\r\n\r\nHello world\r\n'
    assert found["c"].startswith(b"From: =?utf-8?")
    assert b"\r\nBcc" not in found["c"]
    assert found["d"] == b"From: ada@example.com\r\nSubject: x\r\n\r\nx\r\n"
    assert found["e"].startswith(b"From: ada@example.com\r\n")


def test_options_of_other_mailers_are_taken_and_left_out(agent: Agent) -> None:
    done = sendmail(
        agent, "-bm", "-B", "8BITMIME", "-Nsuccess,failure", "-R", "hdrs", "-V", "id1", "-oem", "-odb", "-O", "DeliveryMode=b",
        "-Am", "-G", "-U", "-n", "-m", "-h5", "-X", "/tmp/log", "-ti", "-d0.1", "x@one.example",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert sendmail(agent, "-q30m").returncode == 0
    assert len(agent.names()) == 1


def test_queue_is_shown_by_bp(agent: Agent) -> None:
    done = sendmail(agent, "-bp")
    assert done.returncode == 0
    assert b"No jobs." in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message", "code", "text"),
    [
        ([], MESSAGE, os.EX_USAGE, "no recipients; usage: sendmail"),
        (["-Z", "a@b"], MESSAGE, os.EX_USAGE, "no option -Z"),
        (["-f"], MESSAGE, os.EX_USAGE, "-f needs a value"),
        (["-f", "not an address", "a@b"], MESSAGE, os.EX_USAGE, "-f: 'not an address@"),
        (["-bs"], b"", os.EX_USAGE, "-bs: SMTP on standard input is not spoken"),
        (["-bd"], b"", os.EX_USAGE, "-bd: there is no daemon to start"),
        (["a@b", "-f", "c@d"], MESSAGE, os.EX_USAGE, "-f: options go before the recipients"),
        (["-t"], b"From: a@b\n\nx\n", os.EX_NOUSER, "no recipients in To, Cc or Bcc"),
        (["-t"], b"To: a@b, c d@e\n\nx\n", os.EX_NOUSER, "recipient: 'c d@e' is not an address: it contains a space"),
        (["a@b"], b"Subject: x\n\n\0\n", os.EX_DATAERR, "the message:"),
        (["a@b"], b"Subject: x\n\n" + b"y" * 1000, os.EX_DATAERR, "the line is longer than 998 bytes"),
        (["a@b"], b"Subject: x\n\n" + b"y\n" * 60_000, os.EX_DATAERR, "more than 100000 bytes (intake.max_message)"),
    ],
)
def test_what_is_wrong_has_the_code_of_sysexits(
    agent: Agent, relay: Relay, arguments: list[str], message: bytes, code: int, text: str
) -> None:
    agent.configure(relay.port, config={"intake": {"max_message": "100kB"}})
    done = sendmail(agent, *arguments, message=message)
    assert done.returncode == code
    assert text in done.stderr.decode()
    assert all(line.startswith("sendmail: ") for line in done.stderr.decode().splitlines())
    assert agent.names() == []
    assert list((agent.spool / "tmp").iterdir()) == []


def test_configuration_and_spool_that_are_missing_have_codes(agent: Agent, tmp_path: Path) -> None:
    shutil.rmtree(agent.spool)
    done = sendmail(agent, "a@b")
    assert (done.returncode, b"no spool here" in done.stderr) == (os.EX_CANTCREAT, True)
    agent.config.write_text("spool: [\n")
    assert sendmail(agent, "a@b").returncode == os.EX_CONFIG
    agent.config.unlink()
    assert sendmail(agent, "a@b").returncode == os.EX_CONFIG


def test_disk_that_fails_is_told_and_leaves_nothing(agent: Agent) -> None:
    """A limit on the size of files stands for the disk."""
    command = f"ulimit -f 8; exec {sys.executable} -m spoold --config {agent.config} sendmail a@one.example"
    done = subprocess.run(
        ["/bin/sh", "-c", command], input=b"Subject: x\n\n" + b"text\n" * 20_000, capture_output=True, check=False
    )
    assert done.returncode == os.EX_IOERR
    assert done.stderr == b"sendmail: the job cannot be written now: File too large\n"
    assert agent.names() == []
    assert list((agent.spool / "tmp").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_user_who_may_only_drop_jobs_can_send(agent: Agent, relay: Relay, tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == 0 and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o755)
    (agent.spool / ".spoold").chmod(0o700)
    for name in ("tmp", "new"):
        os.chown(agent.spool / name, 0, 12345)
        (agent.spool / name).chmod(0o2770)
    command = [
        find_program("setpriv"),
        "--reuid=12346",
        "--regid=12346",
        "--groups=12345",
        sys.executable,
        "-m",
        "spoold",
    ]
    done = subprocess.run(
        [*command, "--config", str(agent.config), "sendmail", "bob@one.example"],
        input=MESSAGE, capture_output=True, timeout=30, check=False, cwd="/",
    )  # fmt: skip
    if b"No module named" in done.stderr or b"Permission denied" in done.stderr[:200]:
        pytest.skip("another user cannot read this checkout")
    assert (done.returncode, done.stderr) == (0, b"")
    (name,) = agent.names()
    job = agent.spool / "new" / name
    assert (job.stat().st_mode & 0o7777, job.stat().st_gid) == (0o2770, 12345)
    assert (job / "message.eml").stat().st_mode & 0o777 == 0o660
    agent.start()
    agent.wait_state(name, "finished")
    assert agent.names() == []
    assert len(relay.accepted) == 1
