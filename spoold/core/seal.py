"""SHA256SUMS, the seal of an upload (CONTRACT §3): what it lists, and how it is written."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from spoold.core.folder import SEAL


@dataclass(frozen=True, slots=True)
class Seal:
    """A SHA256SUMS file: `hashes` by name; `problem` says what is wrong or still missing in it."""

    hashes: Mapping[str, str]
    problem: str | None = None


_SEAL_LINE = re.compile(r"(\\?)([0-9a-fA-F]{64}) [ *](.+)")
_ESCAPED = re.compile(r"\\([\\nr])")
_ESCAPES = {"\\": "\\", "n": "\n", "r": "\r"}
_SEAL_END = re.compile(r"# end ([0-9]{1,9})")


def parse_seal(text: str) -> Seal:
    """Read `sha256sum` lines with a last line `# end N`, N being the number of lines before it."""
    # Only line feeds end lines: the other line ends of Unicode may stand in names.
    lines = [line.removesuffix("\r") for line in text.split("\n")[:-1]]
    while lines and not lines[-1].strip():
        lines.pop()
    end = _SEAL_END.fullmatch(lines[-1].strip()) if lines else None
    if end is None:
        return Seal({}, f"the last line of {SEAL}, `# end N`")
    hashes: dict[str, str] = {}
    for number, line in enumerate(lines[:-1], 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _SEAL_LINE.fullmatch(line)
        if match is None:
            return Seal({}, f"{SEAL} to be mended: line {number} is not `HASH  NAME`")
        name = match[3]
        if match[1]:
            name = _ESCAPED.sub(lambda found: _ESCAPES[found[1]], name)
        name = name.removeprefix("./")
        if name != SEAL:
            hashes[name] = match[2].lower()
    if int(end[1]) != len(hashes):
        return Seal({}, f"{SEAL} to be mended: it ends with `{lines[-1].strip()}` and lists {len(hashes)} files")
    return Seal(hashes)


def format_seal(hashes: Mapping[str, str]) -> str:
    """The text of a SHA256SUMS file for `hashes` by name, as `sha256sum` writes it, with the last line."""
    lines = []
    for name in sorted(hashes):
        escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        lines.append(f"{'' if escaped == name else chr(92)}{hashes[name]}  {escaped}\n")
    return "".join(lines) + f"# end {len(lines)}\n"
