"""What the names in a job's folder mean: what a user uploads, what a user orders with, what is the agent's (CONTRACT §1, §2, §4)."""

import re

MANIFEST = "job.yaml"
SEAL = "SHA256SUMS"
READY = "READY"
CANCEL = "CANCEL"
HOLD = "HOLD"
RETRY = "RETRY"
REPORT = "report"
#: Top-level names that are not part of what a user uploads.
CONTROL_FILES = frozenset({READY, CANCEL, HOLD, RETRY})
#: Top-level names that do not count for the digest or the seal.
NOT_CONTENT = CONTROL_FILES | {SEAL, REPORT}
DEFAULT_RECIPIENTS = ("recipients.csv", "recipients.txt")
#: How deep an upload's folders may lie in each other.
MAX_DEPTH = 20


def is_content(name: str) -> bool:
    """Whether a file is part of what the user uploaded, rather than control file, seal or report."""
    return name.partition("/")[0] not in NOT_CONTENT


def is_hidden(name: str) -> bool:
    return name.startswith(".") or "/." in name


_TEMPORARY = re.compile(
    r"\..+\.[A-Za-z0-9]{6}"  # rsync, OpenSSH's and others' mkstemp
    r"|\.~tmp~|\.rsync-(?:partial|tmp)"  # rsync --delay-updates, --partial-dir, --temp-dir
    r"|.+\.(?:filepart|part|partial)"  # WinSCP, and what others call it
    r"|\.syncthing\..+|~syncthing~.+"  # Syncthing
    r"|\.in\..+\.?"  # lftp
)


def is_temporary(name: str) -> bool:
    """Whether any part of the path is a name that an upload in progress leaves."""
    return any(_TEMPORARY.fullmatch(part) for part in name.split("/"))
