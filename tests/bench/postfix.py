"""Postfix as the peer: an instance of its own that relays everything to the sink, set up for speed as its admin would.

No DNS, no content filter, no TLS, no chroot, no flow control, 100 processes a service, as many deliveries at once to
the relay as the agent has connections. Connections are kept between deliveries only where told: on loopback that costs
more CPU than it saves, but may be faster. It logs to syslog as Debian's does; where no syslog runs, that costs nothing.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Self

from tests.bench.row import Skipped
from tests.bench.sink import Sink, program
from tests.bench.usage import cpu_seconds
from tests.servers.instance import QMGR, SERVICES, launch, lay_out, master_of, parameters
from tests.servers.process import HOST, comes_up, free_port, stop, wait_until

_MASTER = (
    """\
{port} inet n - n - - smtpd
pickup unix n - n 1 1 pickup
smtp unix - - n - - smtp
scache unix - - n - 1 scache
{qmgr}"""
    + SERVICES
)

_MAIN = {
    "myhostname": "bench.example",
    "alias_database": "",
    "local_recipient_maps": "",
    "smtpd_relay_restrictions": "permit_mynetworks, reject",
    "smtpd_recipient_restrictions": "",
    "smtpd_client_connection_rate_limit": "0",
    "smtp_tls_security_level": "none",
    "smtpd_tls_security_level": "none",
    "default_process_limit": "100",
    "qmgr_message_active_limit": "50000",
    "qmgr_message_recipient_limit": "100000",
    "authorized_submit_users": "static:anyone",
}


class Postfix:
    """A context manager; raises Skipped where there is no Postfix.

    `connections` is how many deliveries go on at once, `cache` whether their connections are kept.
    """

    def __init__(self, sink: Sink, connections: int, *, cache: bool = False) -> None:
        self._sink = sink
        self._cache = cache
        self._connections = connections
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        postconf = program("postconf")
        if postconf is None or program("smtp-source") is None:
            raise Skipped("Postfix is not installed (Debian package postfix)")
        if os.geteuid() != 0:
            raise Skipped("Postfix can only be started by root")
        self._master = master_of(postconf)
        self._root = Path(tempfile.mkdtemp(prefix="spoold-bench-postfix-"))
        self._lay_out()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            stop(self._process)
        shutil.rmtree(self._root)

    @property
    def pid(self) -> int:
        """The master's, under which all others run."""
        assert self._process is not None
        return self._process.pid

    def start(self, *, qmgr: bool = True) -> None:
        """Without a queue manager, everything that comes stays in the incoming queue."""
        for _ in range(5):
            self.port = free_port()
            self._write_master(qmgr)
            self._process = launch(self._master, self._root, self._environ)
            if comes_up(self._process, self.port, b"220"):
                return
        raise RuntimeError("Postfix did not start; try `master -c DIR -d` with a syslog")

    def release(self) -> None:
        """Let a queue manager begin on what is in the incoming queue."""
        self._write_master(qmgr=True)
        os.kill(self.pid, signal.SIGHUP)

    def held(self) -> int:
        """Messages in the incoming queue."""
        return sum(len(files) for _, _, files in os.walk(self._root / "queue" / "incoming"))

    def upload(self, messages: int, size: int, sessions: int) -> None:
        """Hand over so many messages by smtp-source; returns when the last one is in the queue."""
        source = program("smtp-source")
        assert source is not None
        command = [source, "-d", "-s", str(sessions), "-m", str(messages), "-l", str(size), "-N"]
        addresses = ["-f", "news@example.com", "-t", "user@example.org"]
        subprocess.run([*command, *addresses, f"{HOST}:{self.port}"], check=True, timeout=600)

    def fill(self, messages: int, size: int) -> None:
        """Put so many messages into the incoming queue, and leave them there."""
        self.upload(messages, size, self._connections)
        wait_until(lambda: self.held() >= messages, 10, f"{messages} messages in the incoming queue")

    def submit(self, messages: int, size: int, processes: int) -> None:
        """Hand over so many messages by sendmail(1), one a call, by so many processes at a time."""
        sendmail = program("sendmail")
        assert sendmail is not None
        file = self._root / "message"
        file.write_bytes(b"From: news@example.com\nSubject: bench\n\n" + (b"y" * 70 + b"\n") * (size // 71))
        command = [sendmail, "-i", "-C", str(self._root / "etc"), "-f", "news@example.com"]
        # subprocess.Popen would cost as much as sendmail itself.
        actions = [(os.POSIX_SPAWN_OPEN, 0, str(file), os.O_RDONLY, 0)]
        running: deque[int] = deque()
        for number in range(messages):
            if len(running) == processes:
                _reap(running.popleft())
            to = f"u{number}@example.org"
            running.append(os.posix_spawn(sendmail, [*command, to], self._environ, file_actions=actions))
        while running:
            _reap(running.popleft())

    def cpu_seconds(self) -> float:
        """Of all its daemons so far."""
        return cpu_seconds(self.pid)

    @property
    def _environ(self) -> dict[str, str]:
        return {"PATH": os.defpath + ":/usr/sbin:/sbin", "MAIL_CONFIG": str(self._root / "etc")}

    def _write_master(self, qmgr: bool) -> None:
        text = _MASTER.format(port=f"{HOST}:{self.port}", qmgr=QMGR if qmgr else "")
        self._write("master.cf", text)

    def _write(self, name: str, text: str) -> None:
        path = self._root / "etc" / name
        path.write_text(text)
        # Postfix waits until a file that it reads has an mtime that is not of just now.
        os.utime(path, (time.time() - 60, time.time() - 60))

    def _lay_out(self) -> None:
        lay_out(self._root)
        given = {
            **parameters(self._root),
            **_MAIN,
            "smtp_connection_cache_on_demand": "yes" if self._cache else "no",
            "relayhost": f"[{HOST}]:{self._sink.port}",
            "default_destination_concurrency_limit": str(self._connections),
            "initial_destination_concurrency": str(self._connections),
        }
        self._write("main.cf", "".join(f"{name} = {value}\n" for name, value in given.items()))


def _reap(pid: int) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise RuntimeError(f"sendmail ended with {code}")
