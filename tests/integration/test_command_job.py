"""`spoold validate` and `spoold seal`: what is said of a job folder before it is uploaded, and what its seal is worth."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from spoold.cli.main import main
from tests.servers.agent import MESSAGE, Agent, wait_for
from tests.servers.program import spoold
from tests.servers.relay import Relay
from tests.servers.upload import write

GOOD = {
    "job.yaml": b"sender: news@example.com\n",
    "message.eml": MESSAGE,
    "recipients.csv": b"address\nada@one.example\nbob@two.example\n",
}


# --- validate -----------------------------------------------------------------------------------------------------


def test_validate_of_a_good_job_is_a_line_on_standard_output(tmp_path: Path) -> None:
    job = write(tmp_path / "job", GOOD)
    before = {path.name: path.stat().st_mtime_ns for path in job.iterdir()}
    done = spoold("validate", job)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{job}: good: 2 recipient(s), 1 message(s)\n", "")
    assert {path.name: path.stat().st_mtime_ns for path in job.iterdir()} == before


MANY = b"""\
sendr: news@example.com
sender: no
expires: sometime
rate: 10/fortnight
windows: ["Mon-Fry 18:00-08:00"]
timezone: Europe/Wien
priority: urgent
strict: maybe
expect: {recipients: -1}
retry: {every: 1h, fro: 5d}
send_after: 2026-13-01
"""


def test_validate_prints_every_problem_of_the_manifest_with_line_and_column(tmp_path: Path) -> None:
    job = write(tmp_path / "job", {**GOOD, "job.yaml": MANY})
    done = spoold("validate", job)
    assert done.returncode == 1
    places = {}
    for line in done.stderr.splitlines():
        name, row, column, text = line.split(":", 3)
        assert name == "job.yaml"
        places[int(row), int(column)] = text
    assert sorted(places) == [
        (1, 1), (2, 9), (3, 10), (4, 7), (5, 11), (6, 11), (7, 11), (8, 9), (9, 22), (10, 20), (11, 13),
    ]  # fmt: skip
    assert "did you mean 'sender'?" in places[1, 1]
    assert "did you mean 'for'?" in places[10, 20]
    for wrong, right in (((7, 11), "low"), ((4, 7), "10/s"), ((11, 13), "2026-12-01T09:00:00+01:00")):
        assert right in places[wrong]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"job.yaml": None}, ["job.yaml: is missing"]),
        ({"job.yaml": b"sender: [\n"}, ["job.yaml:2:1: "]),
        ({"job.yaml": b"[" * 65536}, ["job.yaml:1:"]),
        ({"job.yaml": b"#" * 65537}, ["job.yaml:1:1: the file has 65537 bytes"]),
        ({"job.yaml": b"a: &a [x]\nsender: *a\n"}, ["job.yaml:1:4: ", "job.yaml:2:9: "]),
        ({"job.yaml": b"sender: a@b.example\nsender: a@b.example\n"}, ["job.yaml:2:1: "]),
        ({"job.yaml": b"sender: \xff\n"}, ["job.yaml:1:9: invalid byte \\xff"]),
        ({"message.eml": None}, ["message.eml: the message is missing"]),
        ({"message.eml": b"Subject: x\n\na\0b\n"}, ["message.eml:3"]),
        ({"message.eml": b"Subject: x\n\na\rb\n"}, ["message.eml:3"]),
        ({"message.eml": b"Subject: x\n\n" + b"x" * 5000 + b"\n"}, ["message.eml:3"]),
        (
            {"message.eml": None, "recipients.csv": b"address,message\na@x.example,message.eml\nb@x.example,\nc@x.example,\n"},
            ["message.eml: the message is missing", "recipients.csv:2: message.eml: the message is missing"],
        ),
        ({"recipients.csv": None}, ["no recipients: expected recipients.csv"]),
        ({"recipients.csv": b"address\n"}, ["recipients.csv: no recipients"]),
        ({"recipients.csv": b"name\nAda\n"}, ["recipients.csv:1: "]),
        ({"recipients.csv": b'address\nada@one.example\n"bob@two.example\n'}, ["recipients.csv:3: "]),
        (
            {"recipients.csv": b"address\nada@one.example\nbob\na@b@c\n\"x@y.example>\"\n" + b"x" * 300 + b"@y.example\n"},
            ["recipients.csv:3: ", "recipients.csv:4: ", "recipients.csv:5: ", "recipients.csv:6: "],
        ),
        (
            {"recipients.csv": b"address,message\nada@one.example,m/1.eml\nbob@two.example,../../etc/passwd\n"},
            ["recipients.csv:2: m/1.eml: the message is missing", "recipients.csv:3: '../../etc/passwd' cannot be a file"],
        ),
        (
            {"job.yaml": b"sender: a@b.example\nexpect: {recipients: 3, messages: 2}\n"},
            ["job.yaml: expect: 3 recipients; there are 2", "job.yaml: expect: 2 messages; there are 1"],
        ),
        (
            {"job.yaml": b"sender: a@b.example\nstrict: true\n", "recipients.csv": b"address\nada@one.example\nbob\n"},
            ["recipients.csv:3: "],
        ),
        ({"SHA256SUMS": b"0" * 64 + b"  message.eml\n"}, ["SHA256SUMS: not valid: needs the last line"]),
        (
            {"SHA256SUMS": b"0" * 64 + b"  message.eml\n" + b"0" * 64 + b"  gone\n# end 2\n"},
            [
                "SHA256SUMS: lists gone, which is missing",
                "SHA256SUMS: message.eml was changed since it was sealed",
                "SHA256SUMS: job.yaml is not in it",
                "SHA256SUMS: recipients.csv is not in it",
            ],
        ),
    ],
)  # fmt: skip
def test_validate_names_each_problem_in_a_line(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, bytes | None],
    expected: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPOOLD_CONFIG", raising=False)
    wanted = {name: content for name, content in {**GOOD, **files}.items() if content is not None}
    assert main(["validate", str(write(tmp_path / "job", wanted))]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == len(expected), lines
    for line, beginning in zip(lines, expected, strict=True):
        assert line.startswith(beginning), lines
        assert len(line) < 600
        assert line.isprintable()


def test_validate_refuses_what_is_no_plain_file_and_does_not_hang_on_it(tmp_path: Path) -> None:
    job = write(tmp_path / "job", GOOD)
    outside = write(tmp_path / "outside", {"secret.eml": MESSAGE})
    (job / "recipients.csv").write_text(
        "address,message\na@x.example,link.eml\nb@x.example,fifo.eml\nc@x.example,dir.eml\n"
        "d@x.example,hard.eml\ne@x.example,linked/secret.eml\nf@x.example,socket.eml\ng@x.example,\n"
    )
    (job / "link.eml").symlink_to(outside / "secret.eml")
    os.mkfifo(job / "fifo.eml")
    (job / "dir.eml").mkdir()
    (job / "hard.eml").hardlink_to(outside / "secret.eml")
    (job / "linked").symlink_to(outside)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(job / "socket.eml"))
        done = spoold("validate", job)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert [line.split(":")[1] for line in lines] == ["2", "3", "4", "5", "6", "7"]
    for line, kind in zip(lines, ["symbolic link", "FIFO", "directory", "hard link", "missing", "socket"], strict=True):
        assert kind in line


def test_validate_reads_the_limits_of_the_configuration_that_it_is_given(tmp_path: Path) -> None:
    job = write(tmp_path / "job", GOOD)
    config = tmp_path / "spoold.yaml"
    config.write_text("spool: .\nrelays: {default: {host: localhost}}\nintake: {max_recipients: 1, max_message: 1GB}\n")
    done = spoold("--config", config, "validate", job)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "more than 1 recipients (intake.max_recipients)" in done.stderr
    config.write_text("spool: .\n")
    assert spoold("--config", config, "validate", job).returncode == 2


def test_validate_of_a_name_that_no_job_can_have_says_which_can(tmp_path: Path) -> None:
    done = spoold("validate", write(tmp_path / "a\x1b[31m b", GOOD))
    assert done.returncode == 1
    assert done.stderr.startswith("the folder's name 'a\\x1b[31m b' cannot be a job's: expected letters")
    assert "\x1b" not in done.stderr


def test_validate_notes_what_is_odd_but_no_problem(tmp_path: Path) -> None:
    files = {**GOOD, "recipients.csv": GOOD["recipients.csv"] + b"ada@one.example\n", "other.eml": MESSAGE}
    done = spoold("validate", write(tmp_path / "job", files))
    assert (done.returncode, done.stderr) == (0, "")
    notes = [line for line in done.stdout.splitlines() if line.startswith("note: ")]
    assert len(notes) == 2
    assert "other.eml" in notes[0]
    assert "1 recipient(s) stand twice" in notes[1]


# --- seal ---------------------------------------------------------------------------------------------------------

#: Names that sha256sum escapes, that look escaped, and that end a line somewhere, but not in a seal.
ODD = [
    "a\nb",
    "a\\nb",
    "back\\slash",
    "a\rb",
    "ends in \\",
    "a\x0bb",
    "a\x85b",
    "a\u2028b",
    "ümlaut é",
    " space ",
    "# end 3",
]


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    files = {**GOOD, **{f"attic/{name}": name.encode() for name in ODD}, ".hidden": b"x", "READY": b""}
    return write(tmp_path / "job", files)


def test_seal_is_what_sha256sum_checks_whatever_the_names(odd: Path) -> None:
    done = spoold("seal", odd)
    count = len(GOOD) + len(ODD)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{odd}: sealed, {count} file(s)\n", "")
    lines = (odd / "SHA256SUMS").read_bytes().splitlines(keepends=True)
    text = (odd / "SHA256SUMS").read_bytes()
    assert text.endswith(f"\n# end {count}\n".encode())
    assert len(lines) >= count
    body = text.rpartition(b"# end")[0]
    checked = subprocess.run(["sha256sum", "--check", "--strict", "--quiet"], input=body, cwd=odd, capture_output=True)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
    # And the other way round: what sha256sum writes is the same set of lines.
    names = [os.fsencode(name) for name in GOOD] + [os.fsencode(f"attic/{name}") for name in ODD if "\r" not in name]
    written = subprocess.run(["sha256sum", *names], cwd=odd, capture_output=True, check=True).stdout
    assert set(written.split(b"\n")) <= set(body.split(b"\n"))
    assert spoold("validate", odd).returncode == 0


def test_sealing_again_replaces_the_seal_and_removes_nothing(odd: Path) -> None:
    spoold("seal", odd)
    first = (odd / "SHA256SUMS").read_bytes()
    (odd / "message.eml").write_bytes(MESSAGE + b"more\n")
    changed = spoold("validate", odd)
    assert (changed.returncode, changed.stderr) == (
        1, "SHA256SUMS: message.eml was changed since it was sealed; seal it again\n",
    )  # fmt: skip
    assert spoold("seal", odd).returncode == 0
    assert (odd / "SHA256SUMS").read_bytes() != first
    assert spoold("validate", odd).returncode == 0
    assert sorted(path.name for path in odd.iterdir()) == sorted([*GOOD, "attic", ".hidden", "READY", "SHA256SUMS"])


def test_seal_refuses_what_is_no_plain_file(tmp_path: Path) -> None:
    job = write(tmp_path / "job", GOOD)
    (job / "link").symlink_to("message.eml")
    os.mkfifo(job / "pipe")
    done = spoold("seal", job)
    assert (done.returncode, done.stdout) == (1, "")
    assert sorted(done.stderr.splitlines()) == [
        "link: is a symbolic link; a job has plain files only",
        "pipe: is a FIFO; a job has plain files only",
    ]
    assert not (job / "SHA256SUMS").exists()


def test_sealed_upload_is_taken_at_once_and_not_before_its_last_byte(agent: Agent, relay: Relay, odd: Path) -> None:
    agent.configure(relay.port, config={"intake": {"settle": "1h"}})
    agent.start()
    assert spoold("seal", odd).returncode == 0
    (odd / "READY").unlink()
    whole = agent.spool / "new" / "odd"
    # As a copy does it that keeps no order: the seal first, the message cut.
    whole.mkdir()
    shutil.copy(odd / "SHA256SUMS", whole)
    shutil.copytree(odd / "attic", whole / "attic")
    for name in ("job.yaml", "recipients.csv"):
        shutil.copy(odd / name, whole)
    (whole / "message.eml").write_bytes(MESSAGE[:-1])
    wait_for(
        lambda: [
            upload["waits_for"]
            for upload in (agent.state() or {"uploads": []})["uploads"]
            if "the rest of message.eml" in upload["waits_for"]
        ]
    )
    assert relay.connections == 0
    with (whole / "message.eml").open("ab") as file:
        file.write(MESSAGE[-1:])
    status = agent.wait_state("odd", "finished", timeout=5)
    assert status["counts"]["sent"] == 2
    assert [event["rule"] for event in agent.events("job.accepted")] == ["sealed"]
    assert sorted(relay.recipients) == ["ada@one.example", "bob@two.example"]
    assert sorted(path.name for path in (agent.spool / "done" / "odd" / "attic").iterdir()) == sorted(ODD)
    assert relay.violations == []
