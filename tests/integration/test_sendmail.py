"""`spoold sendmail` and its real callers: git send-email, cron's form, PHP's mail(), and what is refused with which code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.agent import Agent, wait_for
from tests.servers.ledger import Accepted
from tests.servers.process import find_program, unavailable
from tests.servers.relay import Relay

MESSAGE = b"From: Ada <ada@example.com>\nTo: bob@one.example\nSubject: Hi\n\nHello\n.\nafter the dot\n"


def sendmail(agent: Agent, *arguments: str, message: bytes = MESSAGE) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        [sys.executable, "-m", "spoold", "--config", str(agent.config), "sendmail", *arguments],
        input=message, capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert b"Traceback" not in done.stderr
    return done


@pytest.fixture
def program(agent: Agent, tmp_path: Path) -> Path:
    """A link named `sendmail` to the program, as an administrator makes one in /usr/sbin."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "spoold"
    script.write_text(f"#!{sys.executable}\nfrom spoold.cli.main import entry\nentry()\n")
    script.chmod(0o755)
    (tmp_path / "bin" / "sendmail").symlink_to("spoold")
    return tmp_path / "bin" / "sendmail"


def _jobs(agent: Agent) -> list[str]:
    return sorted(path.name for path in (agent.spool / "new").iterdir())


def _sent(relay: Relay, count: int = 1) -> list[Accepted]:
    wait_for(lambda: len(relay.accepted) >= count, what=f"{count} messages")
    return list(relay.accepted)


def _without_added(mail: Accepted) -> bytes:
    """The bytes of a message without the fields that intake adds where they are missing."""
    lines = mail.data.split(b"\r\n")
    while lines[0].startswith((b"Date: ", b"Message-ID: ")):
        lines.pop(0)
    return b"\r\n".join(lines)


# --- the command --------------------------------------------------------------------------------------------------


def test_exit_0_means_that_the_whole_job_is_in_new(agent: Agent) -> None:
    done = sendmail(agent, "-i", "-v", "--", "bob@one.example", "Carol <carol@two.example>, bob@one.example")
    assert (done.returncode, done.stderr) == (0, b"")
    (name,) = _jobs(agent)
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
    found = {mail.recipients[0]: _without_added(mail) for mail in _sent(relay, 3)}
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
    (mail,) = _sent(relay)
    assert sorted(mail.recipients) == [f"{who}@one.example" for who in ("bob", "c", "e", "f", "g", "h")]
    assert b"Bcc" not in mail.data
    assert b"Reply-To" in mail.data


def test_recipients_of_a_message_that_was_sent_on_are_the_resent_ones(agent: Agent) -> None:
    assert (
        sendmail(agent, "-t", message=b"Resent-To: new@one.example\nResent-Bcc: x@one.example\n" + MESSAGE).returncode
        == 0
    )
    (name,) = _jobs(agent)
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
    (name,) = _jobs(agent)
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
    found = {mail.recipients[0][0]: _without_added(mail) for mail in _sent(relay, 4)}
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
    assert len(_jobs(agent)) == 1


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
    assert _jobs(agent) == []
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
    assert _jobs(agent) == []
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
    (name,) = _jobs(agent)
    job = agent.spool / "new" / name
    assert (job.stat().st_mode & 0o7777, job.stat().st_gid) == (0o2770, 12345)
    assert (job / "message.eml").stat().st_mode & 0o777 == 0o660
    agent.start()
    agent.wait_state(name, "finished")
    assert _jobs(agent) == []
    assert len(relay.accepted) == 1


# --- its callers ----------------------------------------------------------------------------------------------------


def test_git_send_email_of_a_patch_series_arrives_as_git_wrote_it(
    agent: Agent, relay: Relay, program: Path, tmp_path: Path
) -> None:
    git = find_program("git")
    where = subprocess.run([git, "--exec-path"], capture_output=True, text=True, check=True).stdout.strip()
    if not Path(where, "git-send-email").exists():
        unavailable("git send-email is not installed (Debian: git-email, libmailtools-perl)")
    repository = tmp_path / "repository"
    environ = {
        **os.environ, "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1", "SPOOLD_CONFIG": str(agent.config),
        "GIT_AUTHOR_NAME": "Ada Löve", "GIT_AUTHOR_EMAIL": "ada@example.com",
        "GIT_COMMITTER_NAME": "Ada Löve", "GIT_COMMITTER_EMAIL": "ada@example.com",
    }  # fmt: skip

    def run(*arguments: str, where: Path = repository) -> None:
        done = subprocess.run([git, *arguments], cwd=where, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    repository.mkdir()
    run("init", "-q")
    for number, text in enumerate(("first\n", "second\n.\nwith a dot\n", "third ü\n"), 1):
        (repository / "file").write_text(text)
        run("add", "file")
        run("commit", "-qm", f"area: Change {number}")
    run("format-patch", "-q", "--cover-letter", "--root", "-o", "out")
    cover = repository / "out" / "0000-cover-letter.patch"
    cover.write_text(cover.read_text().replace("*** SUBJECT HERE ***", "Three changes"))
    agent.start()
    run(
        "send-email", f"--sendmail-cmd={program}", "--to=list@one.example", "--cc=bob@two.example", "--envelope-sender=ada@example.com",
        "--from=Ada Löve <ada@example.com>", "--suppress-cc=all", "--confirm=never", "--quiet", "--8bit-encoding=UTF-8", "out",
    )  # fmt: skip
    mails = _sent(relay, 4)
    assert {(mail.mail_from, *sorted(mail.recipients)) for mail in mails} == {
        ("ada@example.com", "bob@two.example", "list@one.example")
    }
    bodies = {mail.data.split(b"\r\n\r\n", 1)[1].rstrip() for mail in mails}
    for path in (repository / "out").iterdir():
        assert path.read_bytes().split(b"\n\n", 1)[1].replace(b"\n", b"\r\n").rstrip() in bodies
    # The proof of the bytes: git makes the same commits of them.
    again = tmp_path / "again"
    again.mkdir()
    run("init", "-q", where=again)
    patches = sorted(mail.data.replace(b"\r\n", b"\n") for mail in mails if b"[PATCH 0/3]" not in mail.data)
    for number in (1, 2, 3):
        (patch,) = [patch for patch in patches if b"[PATCH %d/3]" % number in patch]
        (again / f"{number}.patch").write_bytes(patch)
    run("am", "-q", "1.patch", "2.patch", "3.patch", where=again)
    assert (again / "file").read_text() == "third ü\n"
    assert relay.violations == []


def test_mail_of_cron_arrives(agent: Agent, relay: Relay, program: Path) -> None:
    """What Debian's cron writes to `sendmail -i -FCronDaemon -B8BITMIME -oem root`, twice the very same."""
    text = (
        "From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@host> backup\nMIME-Version: 1.0\n"
        "Content-Type: text/plain; charset=UTF-8\nContent-Transfer-Encoding: 8bit\nX-Cron-Env: <SHELL=/bin/sh>\n"
        "X-Cron-Env: <LOGNAME=root>\n\nsaved: größer\n.\n"
    ).encode()
    agent.start()
    for _ in range(2):
        done = subprocess.run(
            ["/bin/sh", "-c", f"{program} -i -FCronDaemon -B8BITMIME -oem root@one.example"],
            input=text, env={**os.environ, "SPOOLD_CONFIG": str(agent.config)}, capture_output=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    for mail in _sent(relay, 2):
        assert mail.recipients == ("root@one.example",)
        assert mail.mail_from.startswith("root@")
        assert "BODY=8BITMIME" in mail.mail_params
        assert _without_added(mail) == text.replace(b"\n", b"\r\n")
    assert relay.violations == []


def test_mail_of_php_arrives_byte_by_byte(agent: Agent, relay: Relay, program: Path, tmp_path: Path) -> None:
    php = find_program("php")
    script = tmp_path / "mail.php"
    script.write_text(
        "<?php\n"
        "$ok = mail('Ada <ada@one.example>', 'Order 42', \"Dear Ada,\\r\\n.\\r\\nthanks – bye\\r\\n\",\n"
        "    ['From' => 'shop@example.com', 'Bcc' => 'copy@one.example', 'MIME-Version' => '1.0',\n"
        "     'Content-Type' => 'text/plain; charset=utf-8'], '-fbounces@example.com');\n"
        "exit($ok ? 0 : 3);\n"
    )
    agent.start()
    command = [php, "-n", "-d", f"sendmail_path={program} -t -i", str(script)]
    done = subprocess.run(
        command, env={**os.environ, "SPOOLD_CONFIG": str(agent.config)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (mail,) = _sent(relay)
    assert mail.mail_from == "bounces@example.com"
    assert sorted(mail.recipients) == ["ada@one.example", "copy@one.example"]
    header, _, body = _without_added(mail).partition(b"\r\n\r\n")
    assert (
        body == "Dear Ada,\r\n.\r\nthanks – bye\r\n".encode()
        or body == "Dear Ada,\r\n.\r\nthanks – bye\r\n\r\n".encode()
    )
    assert header.split(b"\r\n") == [
        b"To: Ada <ada@one.example>",
        b"Subject: Order 42",
        b"From: shop@example.com",
        b"MIME-Version: 1.0",
        b"Content-Type: text/plain; charset=utf-8",
    ]
    # PHP is told when nothing was accepted.
    shutil.rmtree(agent.spool / "tmp")
    done = subprocess.run(
        command, env={**os.environ, "SPOOLD_CONFIG": str(agent.config)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert relay.violations == []
