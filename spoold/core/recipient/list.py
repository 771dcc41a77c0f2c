"""Recipient lists: `recipients.csv` and `recipients.txt` as a stream of rows.

Owns the form of these files: encoding, quoting, header, physical line numbers. What is wrong with a file as a
whole is raised, for it rejects the job; the addresses themselves are not judged here, for a bad one fails
alone. Memory does not grow with the number of rows.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from spoold.core.problem import Problem, printable

#: A row, with all its physical lines, in characters. It bounds what an unclosed quote can swallow.
ROW_LIMIT = 64 * 1024

_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")

# A row of RFC 4180 §2 that contains at least one double quote. The csv module, strict or not, takes a quote
# inside an unquoted field as an ordinary character; RFC 4180 does not.
_FIELD = r'(?:"(?:[^"]|"")*+"|[^",\r\n]*+)'
_well_quoted = re.compile(rf"{_FIELD}(?:,{_FIELD})*+[\r\n]*").fullmatch


class RecipientsError(Exception):
    """The file cannot be read as a list of recipients; `problem.where` is `NAME:LINE`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem


class Row(NamedTuple):
    """One recipient as it was written.

    `line` is the physical line, from 1, on which the row starts. `address` is stripped of surrounding spaces
    and may be anything, also empty. `message` is the row's own message file, None where it has none. `extra`
    holds the other columns that are not empty, by the name in the header; None where there are none.
    """

    line: int
    address: str
    message: str | None
    extra: dict[str, str] | None


def read_csv(chunks: Iterable[bytes], name: str) -> Iterator[Row]:
    """Yield the rows below the header of a CSV file (RFC 4180, UTF-8), given in pieces of any size.

    Line ends are LF or CRLF; blank rows are skipped; a row may have fewer fields than the header, not more.
    Raises RecipientsError on reaching the fault: the rows before it have been yielded by then.
    """
    lines = _Lines(chunks, name)
    columns: _Columns | None = None
    for start, fields in _fields(lines):
        if columns is not None:
            if len(fields) > columns.width:
                raise lines.error(start, columns.surplus(len(fields)))
            row = columns.row(start, fields)
            if row is not None:
                yield row
        elif any(map(str.strip, fields)):
            columns = _Columns(lines, start, fields)


def _fields(lines: "_Lines") -> Iterator[tuple[int, list[str]]]:
    """The rows' first lines and fields. Blocks of lines without a quote, most of them, need no csv reader."""
    start = 1
    for block in lines.blocks():
        plain = _plain_lines(block)
        if plain is not None:
            for line in plain:
                yield start, line.split(",")
                start += 1
            lines.row_start = start
            continue
        begun = start
        reader = csv.reader(lines.from_block(block), strict=True)
        try:
            for fields in reader:
                lines.taken = 0
                if lines.quoted:
                    if not _well_quoted("".join(lines.quoted)):
                        raise lines.error(
                            start,
                            "a double quote inside a field that does not begin with one; put the whole field in "
                            'double quotes and write a quote inside it twice ("")',
                        )
                    lines.quoted.clear()
                yield start, fields
                start = begun + reader.line_num
                lines.row_start = start
        except csv.Error as error:
            raise lines.error(start, _quoting_fault(str(error))) from None


def _plain_lines(block: str) -> list[str] | None:
    """The lines of a block, each of which is a row whose fields the commas part; None where it takes more to tell."""
    if '"' in block:
        return None
    if "\r" in block:
        block = block.replace("\r\n", "\n")
        if "\r" in block:
            return None
    lines = block.removesuffix("\n").split("\n")
    return lines if max(map(len, lines)) < ROW_LIMIT - 1 else None


def read_txt(chunks: Iterable[bytes], name: str) -> Iterator[Row]:
    """Yield the rows of a list in UTF-8 with one address a line, given in pieces of any size.

    Blank lines are skipped. Raises RecipientsError on reaching the fault: the rows before it have been
    yielded by then.
    """
    lines = _Lines(chunks, name)
    for number, text in enumerate(lines, 1):
        lines.taken = 0
        lines.row_start = number + 1
        lines.quoted.clear()
        address = text.strip()
        if address:
            if "\r" in address:
                raise lines.error(number, _BARE_CR)
            yield Row(number, address, None, None)


_BARE_CR = "a carriage return (CR) within the line; line ends must be LF or CRLF"


def _quoting_fault(reason: str) -> str:
    """Our words for those of the csv module."""
    if "unexpected end of data" in reason:
        return "a double quote opens here and is not closed before the end of the file"
    if "expected after" in reason:
        return (
            "text follows a closing double quote; a quote inside a quoted field is written twice "
            '(""), and every opened quote must be closed'
        )
    if "new-line character" in reason:
        return _BARE_CR
    return f"not valid CSV: {printable(reason)}"


class _Columns:
    """The header: which field of a row is what."""

    def __init__(self, lines: "_Lines", line: int, header: list[str]) -> None:
        names = [name.strip() for name in header]
        keys = [name.casefold() for name in names]
        if "address" not in keys:
            raise lines.error(line, _missing_address(names))
        for index, key in enumerate(keys):
            if key and key in keys[:index]:
                raise lines.error(line, f"the column '{printable(names[index])}' is there twice; name each once")
        self.width = len(names)
        self._address = keys.index("address")
        self._message = keys.index("message") if "message" in keys else None
        self._others = [
            (index, name or f"column {index + 1}")
            for index, name in enumerate(names)
            if index not in (self._address, self._message)
        ]

    def row(self, line: int, fields: list[str]) -> Row | None:
        """The row that these fields are; None when all of them are blank."""
        if len(fields) < self.width:
            fields += [""] * (self.width - len(fields))
        address = fields[self._address].strip()
        if not address and not any(map(str.strip, fields)):
            return None
        message = None
        if self._message is not None:
            message = fields[self._message].strip() or None
        extra = None
        if self._others:
            extra = {name: fields[index] for index, name in self._others if fields[index]} or None
        return Row(line, address, message, extra)

    def surplus(self, count: int) -> str:
        return (
            f"{count} fields, but the header has {self.width}; "
            "a field that contains a comma must be put in double quotes"
        )


def _missing_address(names: list[str]) -> str:
    first = names[0]
    for delimiter, called in ((";", "';'"), ("\t", "a tab")):
        if len(names) == 1 and delimiter in first:
            return f"the columns seem to be separated by {called}; save the file with ',' between them"
    if any("@" in name for name in names):
        return "this is an address already; the first line must be a header with the column 'address'"
    found = ", ".join(f"'{printable(name, 40)}'" for name in names[:20])
    return f"the header has no column 'address'; found {found}"


class _Lines:
    """The physical lines of a file, decoded, with their ends; raises RecipientsError where there can be none.

    The reader of the lines says where a row begins: it sets `row_start`, resets `taken` and clears `quoted`.
    """

    def __init__(self, chunks: Iterable[bytes], name: str) -> None:
        self._chunks = chunks
        self._name = name
        self._texts = self._decoded()
        #: The line on which the present row starts.
        self.row_start = 1
        #: Characters of the present row so far.
        self.taken = 0
        #: The present row's lines from the first that contains a double quote; empty where none does.
        self.quoted: list[str] = []

    def error(self, line: int, text: str) -> RecipientsError:
        return RecipientsError(Problem(f"{self._name}:{line}", text))

    def __iter__(self) -> Iterator[str]:
        for block in self.blocks():
            yield from self._lines(block)

    def blocks(self) -> Iterator[str]:
        """Runs of whole lines: those that `from_block` did not go on to."""
        while (block := next(self._texts, None)) is not None:
            yield block

    def from_block(self, block: str) -> Iterator[str]:
        """The lines of the block, and of as many after it as it takes to end a row at the end of one."""
        yield from self._lines(block)
        while self.taken and (more := next(self._texts, None)) is not None:
            yield from self._lines(more)

    def _lines(self, block: str) -> Iterator[str]:
        # Lines end at LF alone: str.splitlines would also cut at U+2028, form feeds and others.
        for piece in io.StringIO(block, newline="\n"):
            self.taken += len(piece)
            if self.taken > ROW_LIMIT:
                raise self._too_long()
            if '"' in piece or self.quoted:
                self.quoted.append(piece)
            yield piece

    def _decoded(self) -> Iterator[str]:
        line = 1
        for block in self._blocks():
            text, fault = self._decode(block, line)
            if text:
                yield text
            if fault is not None:
                raise fault
            line += text.count("\n")

    def _blocks(self) -> Iterator[bytes]:
        """Runs of whole lines, without the byte order mark; the last may lack its line end."""
        carry = b""
        first = True
        for chunk in self._chunks:
            chunk = carry + chunk
            if first:
                if len(chunk) < len(_UTF8_BOM):
                    carry = chunk
                    continue
                chunk = self._without_bom(chunk)
                first = False
            cut = chunk.rfind(b"\n") + 1
            if cut:
                yield chunk[:cut]
            carry = chunk[cut:]
            # A character is at most four bytes of UTF-8.
            if len(carry) > 4 * ROW_LIMIT:
                raise self._too_long()
        if first:
            carry = self._without_bom(carry)
        if carry:
            yield carry

    def _without_bom(self, start: bytes) -> bytes:
        if start.startswith(_UTF16_BOMS):
            raise self.error(1, "the file is UTF-16; save it as UTF-8")
        return start.removeprefix(_UTF8_BOM)

    def _decode(self, block: bytes, line: int) -> tuple[str, RecipientsError | None]:
        """The text of whole lines; where one is bad, that of the lines before it, and the error."""
        at = block.find(b"\0")
        fault = "a NUL byte; this is not a text file in UTF-8"
        try:
            text = block.decode()
        except UnicodeDecodeError as error:
            if at < 0 or error.start < at:
                at = error.start
                position = at - block.rfind(b"\n", 0, at)
                fault = f"byte {position} (0x{block[at]:02x}) is not UTF-8; save the file as UTF-8"
        else:
            if at < 0:
                return text, None
        good = block[: block.rfind(b"\n", 0, at) + 1].decode()
        return good, self.error(line + good.count("\n"), fault)

    def _too_long(self) -> RecipientsError:
        return self.error(
            self.row_start,
            f"the row is longer than {ROW_LIMIT // 1024} KiB; "
            "is a double quote left open, or are the line ends neither LF nor CRLF?",
        )
