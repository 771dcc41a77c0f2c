"""A client that says to a server, byte by byte, what it is told to."""

import contextlib
import socket
from collections.abc import Iterator

from tests.servers.process import HOST
from tests.servers.relay import Relay

#: What may be changed on the way: a Bcc, lines that begin with a dot, octets beyond ASCII.
MESSAGE = b"Subject: x\r\nBcc: z@z.example\r\n\r\n.one\r\n..two\r\n.\r\n\xc3\xa4 end\r\n"


class Talk:
    """One connection; nothing is sent, read or checked but what a test asks for."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=10)
        self.file = self.socket.makefile("rb")

    def say(self, data: bytes) -> None:
        self.socket.sendall(data)

    def hear(self) -> bytes:
        """One reply, all its lines; b"" at the end of the connection."""
        lines = [self.file.readline()]
        while lines[-1][3:4] == b"-":
            lines.append(self.file.readline())
        return b"".join(lines)

    def ask(self, data: bytes) -> bytes:
        self.say(data)
        return self.hear()

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@contextlib.contextmanager
def talk(relay: Relay, *, hello: bool = True) -> Iterator[Talk]:
    """A connection to the relay, after EHLO unless that is not wanted."""
    client = Talk(relay.port)
    try:
        if hello:
            assert client.hear().startswith(b"220 ")
            assert client.ask(b"EHLO client.example\r\n").startswith(b"250-")
        yield client
    finally:
        client.close()


def deliver(client: Talk, *recipients: str, body: bytes = b"x: y\r\n\r\nz\r\n.\r\n") -> bytes:
    """Send a message, one pipelined group and the body; returns the reply to the dot, b"" for none."""
    group = [b"MAIL FROM:<a@sender.example>\r\n"]
    group += [f"RCPT TO:<{recipient}>\r\n".encode() for recipient in recipients]
    client.say(b"".join([*group, b"DATA\r\n"]))
    replies = [client.hear() for _ in range(len(group) + 1)]
    assert replies[-1].startswith(b"354"), replies
    client.say(body)
    try:
        return client.hear()
    except ConnectionResetError:
        return b"RST"
