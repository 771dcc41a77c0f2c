"""Tells the service manager how the agent is: sd_notify(3), one datagram a message.

Owns the words of that protocol and the socket's address. Without `$NOTIFY_SOCKET` every method does nothing,
and none ever raises over a datagram that could not be sent: a deaf service manager must not stop the mail.
It never decides when to speak; that is the supervisor's part.
"""

import os
import socket
import time
from collections.abc import Mapping

from spoold.core.problem import printable

#: systemd reads at most 4096 bytes of a datagram; a status line is for one screen.
STATUS_LIMIT = 400

#: Seconds a full socket buffer may hold the caller up; with the service manager healthy it is never full.
SEND_TIMEOUT = 0.02


class ServiceManager:
    """The connection to the service manager named by `$NOTIFY_SOCKET`, if there is one.

    Every method returns whether the datagram went out. `environ` is read once, here.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        env = os.environ if environ is None else environ
        self._address = _socket_address(env.get("NOTIFY_SOCKET", ""))
        self._watchdog_interval = _watchdog_interval(env)

    @property
    def watchdog_interval(self) -> float | None:
        """Seconds between calls of `watchdog()`, None where nobody watches.

        This is half of `$WATCHDOG_USEC`, the pace sd_watchdog_enabled(3) advises: one lost ping is no death.
        """
        return self._watchdog_interval

    def ready(self, status: str) -> bool:
        """Start-up, or a reload announced by `reloading()`, is complete; `status` as in `status()`."""
        return self._send("READY=1", _status(status))

    def status(self, text: str) -> bool:
        """One line for `systemctl status`; control characters, line ends among them, are escaped."""
        return self._send(_status(text))

    def watchdog(self) -> bool:
        """The agent is alive: due every `watchdog_interval` seconds."""
        return self._send("WATCHDOG=1")

    def reloading(self) -> bool:
        """The configuration is being read again; `ready()` must follow, also when the old one is kept."""
        # The time lets systemd 253 and later (Type=notify-reload) tell this answer from an earlier reload's.
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        return self._send("RELOADING=1", f"MONOTONIC_USEC={microseconds}")

    def stopping(self, text: str) -> bool:
        """The agent is on its way out; `text` says what it still waits for."""
        return self._send("STOPPING=1", _status(text))

    def extend(self, seconds: float) -> bool:
        """Start-up or stop needs at least `seconds` from now; to be said again before they are over."""
        return self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}")

    def _send(self, *lines: str) -> bool:
        if self._address is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(SEND_TIMEOUT)
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return False
        return True


def _status(text: str) -> str:
    return f"STATUS={printable(text, STATUS_LIMIT)}"


def _socket_address(name: str) -> bytes | None:
    """The address for sendto(2): a path, or an abstract name, which `@` stands for; else None."""
    if len(name) < 2 or name[0] not in "/@":
        return None
    address = os.fsencode(name)
    return b"\0" + address[1:] if name[0] == "@" else address


def _watchdog_interval(env: Mapping[str, str]) -> float | None:
    # Inherited from a parent that is watched itself, the variables do not speak of this process.
    if env.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = env.get("WATCHDOG_USEC", "")
    if not (microseconds.isascii() and microseconds.isdigit()) or int(microseconds) == 0:
        return None
    return int(microseconds) / 2_000_000
