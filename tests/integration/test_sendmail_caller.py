"""The real callers of sendmail: what git send-email, cron and PHP hand over arrives as they wrote it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.agent import Agent
from tests.servers.ledger import without_added
from tests.servers.process import find_program, unavailable
from tests.servers.relay import Relay


@pytest.fixture
def program(agent: Agent, tmp_path: Path) -> Path:
    """A link named `sendmail` to the program, as an administrator makes one in /usr/sbin."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "spoold"
    script.write_text(f"#!{sys.executable}\nfrom spoold.cli.main import entry\nentry()\n")
    script.chmod(0o755)
    (tmp_path / "bin" / "sendmail").symlink_to("spoold")
    return tmp_path / "bin" / "sendmail"


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
    mails = relay.take(4)
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
    for mail in relay.take(2):
        assert mail.recipients == ("root@one.example",)
        assert mail.mail_from.startswith("root@")
        assert "BODY=8BITMIME" in mail.mail_params
        assert without_added(mail) == text.replace(b"\n", b"\r\n")
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
    (mail,) = relay.take(1)
    assert mail.mail_from == "bounces@example.com"
    assert sorted(mail.recipients) == ["ada@one.example", "copy@one.example"]
    header, _, body = without_added(mail).partition(b"\r\n\r\n")
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
