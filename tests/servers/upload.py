"""What tests do with uploads in new/: put them there piece by piece, seal them, and ask what the agent waits for."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.servers.agent import MESSAGE, Agent

#: Nobody in doubt is sent to twice, and a message that cannot be read for the moment waits for its next attempt.
PATIENT = {"on_uncertain": "hold", "retry": {"every": "1s", "for": "1d"}}


def content(to: str, *, manifest: Mapping[str, Any] | None = None, message: bytes = MESSAGE) -> dict[str, bytes]:
    """The three files of a small job for the recipient `to`."""
    return {
        "job.yaml": json.dumps({"sender": "news@example.com", **(manifest or {})}).encode() + b"\n",
        "message.eml": message,
        "recipients.csv": f"address\n{to}\n".encode(),
    }


def addresses(count: int, domain: str = "one.example") -> list[str]:
    return [f"r{number}@{domain}" for number in range(count)]


def personal(recipients: Sequence[str]) -> tuple[str, dict[str, bytes]]:
    """A recipients.csv that gives everybody a message of their own, and these messages."""
    table = "address,message\n" + "".join(f"{to},messages/{n}.eml\n" for n, to in enumerate(recipients))
    return table, {f"messages/{n}.eml": MESSAGE.replace(b"Hello", b"Hello %d" % n) for n in range(len(recipients))}


def drop_pair(agent: Agent, jobs: Mapping[str, Sequence[str]]) -> None:
    """Drop `one`, a message for all, and `two`, whose recipients get their own, from a folder below; at once complete."""
    agent.drop("one", jobs["one"], manifest=PATIENT, files={"READY": b""})
    table, files = personal(jobs["two"])
    agent.drop("two", table, manifest=PATIENT, message=None, files={"READY": b"", **files})


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Put files into a folder as an upload does: one after the other, folders made as needed."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def read(folder: Path) -> dict[str, bytes]:
    """All files of a folder, and those of the folders in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def seal_of(files: Mapping[str, bytes], *, end: int | None = None) -> bytes:
    """A SHA256SUMS for these files; `end` is the number in its last line."""
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items())]
    return ("".join(lines) + f"# end {len(files) if end is None else end}\n").encode()


def waits(agent: Agent) -> dict[str, str]:
    """What each upload in new/ waits for, as SPOOL/status.json tells."""
    state = agent.state()
    return {} if state is None else {upload["upload"]: upload["waits_for"] for upload in state["uploads"]}


def assert_whole(status: Mapping[str, Any]) -> None:
    """The counts add up to the total."""
    assert sum(status["counts"].values()) == status["total"], status
