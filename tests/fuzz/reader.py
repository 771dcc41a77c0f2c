"""How servers read the bytes of a mail transaction: the strict ones, and those whose leniency smuggling lives on.

Written without a look at the code under test, and octet by octet, so that both cannot err in the same way.
"""

from collections.abc import Iterable, Iterator

#: Line ends that some server or other has taken for one (RFC 5321 §2.3.8 knows the first alone).
_LINE_ENDS = (b"\r\n", b"\n", b"\r")
#: Every way to write "a dot on a line by itself" with them; the first is the right one.
END_OF_DATA = tuple(before + b"." + after for before in _LINE_ENDS for after in _LINE_ENDS)


def ends_of_data(stream: bytes) -> list[int]:
    """Every offset at which some server could take the data for ended; `stream` is what follows the 354.

    The line end before the first octet is the one that ended DATA.
    """
    stream = b"\r\n" + stream
    found = set()
    for end in END_OF_DATA:
        at = stream.find(end)
        while at >= 0:
            # Where the next line begins, whatever that server takes a line end for.
            close = at + len(end)
            found.add(close + 1 if end.endswith(b"\r") and stream[close : close + 1] == b"\n" else close)
            at = stream.find(end, at + 1)
    return sorted(offset - 2 for offset in found)


def bare(stream: bytes) -> int:
    """How many CR have no LF behind them, and LF no CR before them."""
    pairs = stream.count(b"\r\n")
    return stream.count(b"\r") + stream.count(b"\n") - 2 * pairs


def receive(stream: bytes) -> tuple[bytes, bytes]:
    """What a server makes of the octets behind its 354 (RFC 5321 §4.5.2): the message, and what it reads on with.

    AssertionError where the data do not end.
    """
    data = bytearray()
    at = 0
    while True:
        end = stream.find(b"\r\n", at)
        assert end >= 0, "the data do not end"
        line = stream[at:end]
        at = end + 2
        if line == b".":
            return bytes(data), stream[at:]
        data += (line[1:] if line[:1] == b"." else line) + b"\r\n"


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """The data in pieces of `size` octets."""
    return (data[at : at + size] for at in range(0, len(data), size))


def cut(data: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    """The data in pieces of these sizes, and what is left as the last."""
    for size in sizes:
        yield data[:size]
        data = data[size:]
    yield data


def joined(chunks: Iterable[bytes]) -> bytes:
    return b"".join(chunks)
