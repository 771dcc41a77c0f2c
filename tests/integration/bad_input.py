"""Uploads that are wrong in every way we could think of, each with what is said of it."""

import contextlib
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers.agent import MESSAGE

#: What must never leave the machine, nor reach a report. As an address it would even be a valid recipient.
SECRET = "topsecret@leak.example"
HEADER = b"From: <news@example.com>\nSubject: x\n"


@dataclass(frozen=True, slots=True)
class Case:
    """A job: `files` are merged over a good job's (None removes one), then `prepare` works on its folder.

    `errors` are regular expressions, one for each error of the rejected job; without any, the job is finished:
    `failed` maps each recipient that failed to (status, expression of the diagnostic), `sent` are all the others.
    """

    files: dict[str, bytes | None] = field(default_factory=dict)
    prepare: Callable[[Path], None] = lambda _: None
    errors: tuple[str, ...] = ()
    failed: dict[str, tuple[str, str]] = field(default_factory=dict)
    sent: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def _manifest(text: str | bytes, *errors: str) -> Case:
    return Case({"job.yaml": text if isinstance(text, bytes) else text.encode()}, errors=errors)


def _shared(message: bytes, error: str) -> Case:
    return Case({"message.eml": message}, errors=(error,))


def _bomb() -> str:
    lines = ["sender: news@example.com", "a0: &a0 {x: y}"]
    lines += [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}, *a{n - 1}]}}" for n in range(1, 30)]
    return "\n".join(lines) + "\n"


def _rows(count: int, broken: int) -> bytes:
    rows = ["address,name", *(f"r{n}@quotes.example,x" for n in range(2, count))]
    rows[broken - 1] = f'r{broken}@quotes.example,the "great" one'
    return ("\n".join(rows) + "\n").encode()


def _secret(folder: Path) -> Path:
    """A file outside of the job, which nobody may send."""
    path = folder.parent.parent / "secret"
    path.write_text(f"address\n{SECRET}\n")
    return path


def _symlink(name: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(_secret(folder))

    return prepare


def _hard_link(name: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        secret = _secret(folder).rename(folder.parent.parent / f"secret-{folder.name}")
        (folder / name).hardlink_to(secret)

    return prepare


def _fifo(name: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return prepare


def _socket(name: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        # The path of a socket must be short.
        with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(folder):
            server.bind(name)

    return prepare


def _directory(name: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()
        (folder / name / "inside.eml").write_bytes(MESSAGE)

    return prepare


SPECIALS = {
    "symlink": (_symlink, "a symbolic link"),
    "hardlink": (_hard_link, r"a hard link \(a file with a second name\)"),
    "fifo": (_fifo, "a FIFO"),
    "socket": (_socket, "a socket"),
    "directory": (_directory, "a directory"),
}


REMEDY = ", or one whose names are all in the job: copy it without cp -l or rsync -H"


def _specials() -> dict[str, Case]:
    cases = {}
    for kind, (prepare, words) in SPECIALS.items():
        for role, name in (("manifest", "job.yaml"), ("recipients", "recipients.csv"), ("shared", "message.eml")):
            # With a manifest or a list that cannot be read there is nothing more to say.
            more = REMEDY if kind == "hardlink" else ""
            cases[f"{kind}-{role}"] = Case(
                prepare=prepare(name), errors=(rf"{re.escape(name)}: is {words}; expected a plain file{more}",)
            )
        own = f"own@{kind}.example"
        cases[f"{kind}-own"] = Case(
            {"recipients.csv": f"address,message\nada@{kind}.example,\n{own},own.eml\n".encode()},
            prepare("own.eml"),
            failed={
                own: (
                    "5.6.0",
                    rf"own\.eml: is {words}; expected a plain file{REMEDY if kind == 'hardlink' else ''}",
                )
            },
            sent=(f"ada@{kind}.example",),
        )
    return cases


def _linked_folder(folder: Path) -> None:
    outside = folder.parent.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "1.eml").write_bytes(MESSAGE + SECRET.encode())
    (folder / "messages").symlink_to(outside)


def _long(local: int, label: int) -> str:
    return "l" * local + "@" + ".".join(["d" * 60] * label) + ".example"


OWN = b"address,message\nada@%b.example,\nown@%b.example,own.eml\n"


def _own(name: str, message: bytes, diagnostic: str) -> Case:
    to = f"own@{name}.example"
    return Case(
        {"recipients.csv": OWN.replace(b"%b", name.encode()), "own.eml": message},
        failed={to: ("5.6.0", diagnostic)},
        sent=(f"ada@{name}.example",),
    )


NUL = (HEADER + b"\nbody\0body\n", r":4: a NUL byte")
BARE_CR = (HEADER + b"\nbody\rbody\n", r":4: a carriage return \(CR\) that no line feed follows")
LONG_LINE = (HEADER + b"\nx\n" + b"y" * 5000 + b"\n", r":5: the line is longer than 998 bytes")
LARGE_HEADER = (HEADER + b"X-A: b\n" * 10000 + b"\nbody\n", r":9\d+: the header block is larger than 64 KiB")
EMPTY = (b"", r":1: the message is empty")

CASES: dict[str, Case] = {
    # --- the manifest: a job error ------------------------------------------------------------------------------------
    "brackets": _manifest("[" * 65536, r"job\.yaml:1:\d+: .*deep.*"),
    "too-large": _manifest("sender: news@example.com\n#" + "x" * 65536 + "\n", r"job\.yaml:1:1: the file has .*64 KiB.*"),
    "no": _manifest("sender: no\n", r"job\.yaml:1:9: 'no' is not an address: it has no '@'; expected name@domain"),
    "not-utf8": _manifest(b"sender: n\xe4ws@example.com\n", r"job\.yaml:1:10: invalid byte \\xe4: save the file as UTF-8"),
    "all-errors": _manifest(
        "sender: false\n"
        "colour: red\n"
        "message: ../../etc/passwd\n"
        "expect:\n"
        "  recipients: 0\n"
        "rate: fast\n"
        "strict: maybe\n"
        "timezone: Europe/Atlantis\n"
        "windows: ['Mon 25:00-26:00']\n",
        r"job\.yaml:1:9: expected an address such as news@example\.com.*; got false",
        r"job\.yaml:2:1: unknown key 'colour'; .*",
        r"job\.yaml:3:10: '\.\./\.\./etc/passwd' cannot be a file of the job: '\.\.' leads out of it",
        r"job\.yaml:5:15: expected a number of at least 1; got 0",
        r"job\.yaml:6:7: .*fast.*",
        r"job\.yaml:7:9: expected true or false; got 'maybe'",
        r"job\.yaml:8:11: .*Europe/Atlantis.*",
        r"job\.yaml:9:\d+: .*25:00.*",
    ),
    "no-sender": _manifest("description: x\n", r"job\.yaml:1:1: the required key 'sender' is missing"),
    "no-such-relay": _manifest(
        "sender: news@example.com\nrelay: other\n", r"job\.yaml: relay: no relay 'other' here; there are default"
    ),
    "terminal-escape": _manifest(
        'sender: news@example.com\ndescription: 3\n"\\e[31mred": 1\nwindows: ["\\e[2J"]\n',
        r"job\.yaml:2:14: expected text; got 3: put it in quotes, \"3\"",
        r"job\.yaml:3:1: unknown key '\\x1b\[31mred'; known here: .*",
        r"job\.yaml:4:11: .*\\x1b\[2J.*",
    ),
    "relay-escape": _manifest(
        'sender: news@example.com\nrelay: "\\e[31mred"\n', r"job\.yaml: relay: no relay '\\x1b\[31mred' here; there are default"
    ),
    # --- the list of recipients: a job error ----------------------------------------------------------------------------
    "quotes": Case(
        {"recipients.csv": _rows(6000, 4711)},
        errors=(r"recipients\.csv:4711: a double quote inside a field that does not begin with one; .*",),
    ),
    "open-quote": Case(
        {"recipients.csv": b'address,name\nada@open-quote.example,"x\n'},
        errors=(r"recipients\.csv:2: a double quote opens here and is not closed before the end of the file",),
    ),
    "no-recipients": Case(
        {"recipients.csv": b"address\n\n"}, errors=(r"recipients\.csv: no recipients; expected at least one",)
    ),
    "no-list": Case({"recipients.csv": None}, errors=(r"no recipients: expected recipients\.csv, recipients\.txt, or .*",)),
    "no-header": Case(
        {"recipients.csv": b"ada@no-header.example\n"},
        errors=(r"recipients\.csv:1: this is an address already; the first line must be a header .*",),
    ),
    "semicolons": Case(
        {"recipients.csv": b"address;name\nada@semicolons.example;Ada\n"},
        errors=(r"recipients\.csv:1: the columns seem to be separated by ';'; .*",),
    ),
    "latin1": Case(
        {"recipients.csv": b"address\nad\xe4@latin1.example\n"},
        errors=(r"recipients\.csv:2: byte 3 \(0xe4\) is not UTF-8; save the file as UTF-8",),
    ),
    # --- addresses: each fails alone --------------------------------------------------------------------------------
    "addresses": Case(
        {
            "recipients.csv": (
                "address,name\r\n"
                "ada@addresses.example,Ada\r\n"
                '"eve@addresses.example\r\nRCPT TO:<evil@addresses.example>",Eve\r\n'
                "gt>@addresses.example,x\r\n"
                f"{_long(40, 4)},long\r\n"
                f"{_long(65, 1)},local\r\n"
                "no-at.addresses.example,x\r\n"
                "a b@addresses.example,x\r\n"
                "bob@addresses.example;carl@addresses.example,x\r\n"
                "Ada <ada2@addresses.example>,x\r\n"
                ",only a name\r\n"
                "zoe@addresses.example,Zoë\r\n"
            ).encode()
        },
        failed={
            r"eve@addresses.example\x0d\x0aRCPT TO:<evil@addresses.example>": (
                "5.1.3",
                r".*is not an address: it contains the control character \\x0d",
            ),
            "gt>@addresses.example": ("5.1.3", ".*without a name and without < >"),
            _long(40, 4): ("5.1.3", r".*it is 292 bytes long; at most 254 are allowed"),
            _long(65, 1): ("5.1.3", r".*the part before the '@' is 65 bytes long; at most 64 are allowed"),
            "no-at.addresses.example": ("5.1.3", ".*it has no '@'; expected name@domain"),
            "a b@addresses.example": ("5.1.3", ".*it contains a space"),
            "bob@addresses.example;carl@addresses.example": ("5.1.3", ".*these are several addresses; give one"),
            "Ada <ada2@addresses.example>": ("5.1.3", ".*without a name and without < >"),
            "": ("5.1.3", ".*it is empty; expected name@domain"),
        },
        sent=("ada@addresses.example", "zoe@addresses.example"),
        warnings=(r"9 recipient\(s\) failed at once, such as recipients\.csv:3: .*",),
    ),
    "strict": Case(
        {
            "job.yaml": b"sender: news@example.com\nstrict: true\n",
            "recipients.csv": b"address\nada@strict.example\nno-at\nbob@strict.example\n>@strict.example\n",
        },
        errors=(r"recipients\.csv:3: 'no-at' is not an address: .*", r"recipients\.csv:5: '>@strict\.example' is not .*"),
    ),
    "strict-own": Case(
        {
            "job.yaml": b"sender: news@example.com\nstrict: true\n",
            "recipients.csv": b"address,message\nada@strict-own.example,\nbob@strict-own.example,none.eml\n",
        },
        errors=(r"recipients\.csv:3: none\.eml: the message is missing",),
    ),
    # --- messages ---------------------------------------------------------------------------------------------------
    "nul": _shared(NUL[0], r"message\.eml" + NUL[1] + ".*"),
    "bare-cr": _shared(BARE_CR[0], r"message\.eml" + BARE_CR[1] + ".*"),
    "long-line": _shared(LONG_LINE[0], r"message\.eml" + LONG_LINE[1] + ".*"),
    "large-header": _shared(LARGE_HEADER[0], r"message\.eml" + LARGE_HEADER[1] + ".*"),
    "empty": _shared(EMPTY[0], r"message\.eml" + EMPTY[1]),
    "too-big": _shared(HEADER + b"\n" + b"x\n" * 600_000, r"message\.eml: has 1200037 bytes, more than intake\.max_message \(1000000\)"),
    "missing": Case({"message.eml": None}, errors=(r"message\.eml: the message is missing",)),
    "nul-own": _own("nul-own", NUL[0], r"own\.eml" + NUL[1] + ".*"),
    "bare-cr-own": _own("bare-cr-own", BARE_CR[0], r"own\.eml" + BARE_CR[1] + ".*"),
    "long-line-own": _own("long-line-own", LONG_LINE[0], r"own\.eml" + LONG_LINE[1] + ".*"),
    "large-header-own": _own("large-header-own", LARGE_HEADER[0], r"own\.eml" + LARGE_HEADER[1] + ".*"),
    "empty-own": _own("empty-own", EMPTY[0], r"own\.eml" + EMPTY[1]),
    "paths-own": Case(
        {
            "recipients.csv": (
                b"address,message\nada@paths-own.example,\na@paths-own.example,../../secret\nb@paths-own.example,/etc/passwd\n"
                b"c@paths-own.example,.hidden\nd@paths-own.example,none.eml\n"
            ),
            ".hidden": MESSAGE,
        },
        _linked_folder,
        failed={
            "a@paths-own.example": ("5.6.0", r"'\.\./\.\./secret' cannot be a file of the job: '\.\.' leads out of it"),
            "b@paths-own.example": ("5.6.0", r"'/etc/passwd' cannot be .*: it must be relative to the job folder"),
            "c@paths-own.example": ("5.6.0", r"'\.hidden' cannot be .*: names that begin with '\.' are never looked at"),
            "d@paths-own.example": ("5.6.0", r"none\.eml: the message is missing"),
        },
        sent=("ada@paths-own.example",),
    ),
    "linked-folder": Case(
        {"recipients.csv": b"address,message\nada@linked-folder.example,\nown@linked-folder.example,messages/1.eml\n"},
        _linked_folder,
        failed={"own@linked-folder.example": ("5.6.0", r"messages/1\.eml: .+")},
        sent=("ada@linked-folder.example",),
        warnings=(r"1 recipient\(s\) failed at once, .*", r"messages is a symbolic link; it was left out"),
    ),
    **_specials(),
}  # fmt: skip
CASES["bomb"] = _manifest(_bomb(), *[r"job\.yaml:\d+:\d+: .+"] * 100)
