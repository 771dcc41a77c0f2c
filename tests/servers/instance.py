"""A Postfix apart from the system's in every file: its folders, its services, and the master that runs them."""

import os
import pwd
import subprocess
from pathlib import Path

from tests.servers.process import HOST

_QUEUES = (
    "active bounce corrupt defer deferred flush hold incoming maildrop private public saved trace".split()  # noqa: SIM905
)

#: Lines of master.cf that every instance has; what listens, delivers and manages the queue is its own.
SERVICES = """\
cleanup unix n - n - 0 cleanup
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
"""
QMGR = "qmgr unix n - n 300 1 qmgr\n"


def parameters(root: Path) -> dict[str, str]:
    """Of main.cf, what every instance has: it is here alone, asks no DNS, is nobody's home, and slows nobody down."""
    return {
        "compatibility_level": "3.6",
        "queue_directory": str(root / "queue"),
        "data_directory": str(root / "data"),
        "mydestination": "",
        "mynetworks": "127.0.0.0/8",
        "inet_interfaces": HOST,
        "inet_protocols": "ipv4",
        "alias_maps": "",
        "smtpd_peername_lookup": "no",
        "disable_dns_lookups": "yes",
        "in_flow_delay": "0",
        "smtpd_client_connection_count_limit": "0",
    }


def master_of(postconf: str) -> Path:
    """The program that starts all others."""
    asked = [postconf, "-dh", "daemon_directory"]
    libexec = subprocess.run(asked, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
    return Path(libexec) / "master"


def lay_out(root: Path) -> None:
    """Make etc/, queue/ and data/, for Postfix' daemons where they must be theirs."""
    root.chmod(0o755)
    daemon = pwd.getpwnam("postfix")
    for name in ("etc", "queue", "queue/pid"):
        (root / name).mkdir()
    for name in ("data", *(f"queue/{queue}" for queue in _QUEUES)):
        (root / name).mkdir(mode=0o700)
        os.chown(root / name, daemon.pw_uid, daemon.pw_gid)


def launch(master: Path, root: Path, environ: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Start the master on what is in etc/."""
    # It ends its whole process group with itself: it must lead one of its own.
    return subprocess.Popen(
        [master, "-c", root / "etc", "-d"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environ,
        start_new_session=True,
    )
