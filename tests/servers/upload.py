"""What tests do with uploads in new/: put them there piece by piece, seal them, and ask what the agent waits for."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.servers.agent import MESSAGE, Agent


def content(to: str, *, manifest: Mapping[str, Any] | None = None, message: bytes = MESSAGE) -> dict[str, bytes]:
    """The three files of a small job for the recipient `to`."""
    return {
        "job.yaml": json.dumps({"sender": "news@example.com", **(manifest or {})}).encode() + b"\n",
        "message.eml": message,
        "recipients.csv": f"address\n{to}\n".encode(),
    }


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put files into a folder as an upload does: one after the other, folders made as needed."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


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
