"""The password check behind Postfix' AUTH: the server side of Dovecot's authentication protocol, 1.1.

Postfix speaks it over a Unix socket (`smtpd_sasl_type = dovecot`), which spares the tests Cyrus SASL and its
system-wide files. Only PLAIN (RFC 4616) and LOGIN; one user and password.
"""

import base64
import binascii
import socketserver
import threading
from pathlib import Path

_GREETING = (
    "VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\nSPID\t1\nCUID\t1\n"
    "COOKIE\t00000000000000000000000000000000\nDONE\n"
)


class PasswordServer:
    """Answers on the Unix socket `path`; `attempts` keeps every (user, password) that was tried."""

    def __init__(self, path: Path, user: str, password: str) -> None:
        self.attempts: list[tuple[str, str]] = []
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(_GREETING.encode())
                for line in self.rfile:
                    fields = line.decode().rstrip("\n").split("\t")
                    if fields[0] == "AUTH":
                        self._authenticate(fields)

            def _authenticate(self, fields: list[str]) -> None:
                number, mechanism = fields[1:3]
                given = [field.removeprefix("resp=") for field in fields if field.startswith("resp=")]
                try:
                    if mechanism == "PLAIN":
                        text = given[0] if given else self._ask(number, "")
                        _, tried, secret = base64.b64decode(text).decode().split("\0")
                    else:
                        # An initial response to LOGIN is the user name.
                        text = given[0] if given else self._ask(number, "Username:")
                        tried = base64.b64decode(text).decode()
                        secret = base64.b64decode(self._ask(number, "Password:")).decode()
                except (ValueError, binascii.Error):
                    self.wfile.write(f"FAIL\t{number}\treason=malformed response\n".encode())
                    return
                outer.attempts.append((tried, secret))
                verdict = "OK" if (tried, secret) == (user, password) else "FAIL"
                self.wfile.write(f"{verdict}\t{number}\tuser={tried}\n".encode())

            def _ask(self, number: str, prompt: str) -> str:
                self.wfile.write(f"CONT\t{number}\t{base64.b64encode(prompt.encode()).decode()}\n".encode())
                return self.rfile.readline().decode().rstrip("\n").split("\t")[2]

        self._server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        # Postfix' smtpd connects as an unprivileged user.
        path.chmod(0o666)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="password-server")
        self._thread.start()

    def close(self) -> None:
        """Stop answering; call it when Postfix has ended, for it waits until every connection is closed."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
