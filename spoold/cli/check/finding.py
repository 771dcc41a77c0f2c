"""What `spoold check` found: one finding a thing, as lines for people and as one document for programs."""

import sys
from dataclasses import dataclass
from enum import StrEnum

import orjson


class Level(StrEnum):
    """How bad it is. Only an error makes the check fail."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """`check` names the kind of thing (`relay.tls`), `text` says which one and how it is, `remedy` what to do."""

    check: str
    level: Level
    text: str
    remedy: str | None = None


class Findings:
    """Collects findings; unless `as_json`, each is printed when it is found, errors to standard error."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._all: list[Finding] = []

    @property
    def level(self) -> Level:
        """The worst of all."""
        return max((finding.level for finding in self._all), key=list(Level).index, default=Level.OK)

    @property
    def failed(self) -> bool:
        return self.level is Level.ERROR

    def good(self, check: str, text: str) -> None:
        self._add(Finding(check, Level.OK, text))

    def warn(self, check: str, text: str, remedy: str | None = None) -> None:
        self._add(Finding(check, Level.WARNING, text, remedy))

    def bad(self, check: str, text: str, remedy: str | None = None) -> None:
        self._add(Finding(check, Level.ERROR, text, remedy))

    def held_back(self) -> "Findings":
        """Others of the same kind that print nothing before they are handed over by `take`."""
        return Findings(as_json=True)

    def take(self, others: "Findings") -> None:
        """What was held back, in its order."""
        for finding in others._all:
            self._add(finding)

    def _add(self, finding: Finding) -> None:
        self._all.append(finding)
        if self._as_json:
            return
        text = finding.text if finding.remedy is None else f"{finding.text}; to do: {finding.remedy}"
        sys.stdout.flush()
        stream = sys.stderr if finding.level is Level.ERROR else sys.stdout
        print(f"{finding.level:<8} {text}", file=stream)

    def print_json(self) -> None:
        """The document; nothing unless `as_json`."""
        if self._as_json:
            document = {
                "ok": not self.failed,
                "level": self.level.value,
                "findings": [
                    {"check": each.check, "level": each.level.value, "text": each.text, "remedy": each.remedy}
                    for each in self._all
                ],
            }
            sys.stdout.flush()
            sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
