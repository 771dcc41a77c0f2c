"""The manual pages in roff, made of the help of the commands and the texts of the keys; installed below share/man.

Owns what only a manual has: the pages' order, and the paragraphs that explain instead of listing.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from typing import Any

from spoold.cli.config import PLACES
from spoold.cli.handover import sendmail
from spoold.cli.init import example
from spoold.cli.reference import schema
from spoold.cli.reference.completion import commands

#: Of the pages' contents; moved by hand.
_DATE = "2026-11-24"
_ABOUT = (
    "spoold takes jobs, each a folder with a message, a list of recipients and a manifest, sends them through an SMTP"
    " relay when and as fast as it may, retries what failed for the time being, and writes into the job's folder what"
    " became of every recipient. Copy a folder to SPOOL/tmp and rename it into SPOOL/new; or use `spoold submit`."
)
_FILES = (
    ("SPOOL/new", "Uploads; the agent takes jobs from here. SPOOL/tmp is for copying them to before."),
    ("SPOOL/active, SPOOL/deferred, SPOOL/done", "Jobs that are being sent, that wait, and that are done."),
    ("JOB/report/status.txt", "What became of the job, on one screen; recipients.csv beside it has every recipient."),
    ("JOB/CANCEL, JOB/HOLD, JOB/RETRY", "Files that stop, pause and hurry a job, in whatever folder it stands."),
    (", ".join(PLACES), "The configuration, unless --config or $SPOOLD_CONFIG names another: spoold.yaml(5)."),
)
_EXIT = (
    ("0", "Done."),
    ("1", "What was asked about is wrong, or failed."),
    ("2", "Wrong usage or configuration. `spoold sendmail` exits with the codes of sysexits(3)."),
)
_DOCUMENTS = {
    "job.yaml": (
        "the manifest of a job for spoold",
        "job.yaml stands in a job's folder and says how the job is to be sent. Only `sender` is required. The timing"
        " keys (send_after, expires, windows, timezone, rate, domain_rates, retry, priority) may be edited while the job"
        " lives. `spoold validate JOBDIR` says beforehand all that the agent would say.",
        "jobs/night-mailing/job.yaml",
    ),
    "spoold.yaml": (
        "the configuration of spoold",
        f"The configuration is looked for as --config FILE, $SPOOLD_CONFIG, {' and '.join(PLACES)}. Paths in it are"
        " relative to it. `spoold check` says what is wrong with it; SIGHUP makes the agent read it again, and an invalid"
        " file keeps the old one. Job limits and agent limits both hold: the stricter wins.",
        "spoold.yaml",
    ),
}
_YAML = (
    "The file is YAML without its traps: no anchors, tags, merge or duplicate keys; `no`, `014` and `22:00` are text. It"
    " has at most 64 KiB. Unknown keys are errors. Every problem is reported at once, with its line and column."
)


def spoold(parser: argparse.ArgumentParser) -> str:
    """spoold(1): all commands and their options."""
    lines = [*_head("spoold", 1, "a file-drop mail agent"), ".SH SYNOPSIS", f".B {_escape(_usage(parser))}"]
    lines += [".SH DESCRIPTION", _escape(_ABOUT), ".SH OPTIONS", *_options(parser), ".SH COMMANDS"]
    for name, command in commands(parser).items():
        lines += [f".SS spoold {_escape(name)}", _escape(str(command.description)), ".PP"]
        if name == "sendmail":
            lines += [f".B {_escape(sendmail.USAGE.removeprefix('usage: ').partition('  (')[0])}"]
        else:
            lines += [f".B {_escape(_usage(command))}", *_options(command, but="help")]
    lines += [".SH EXIT STATUS", *_list(_EXIT)]
    lines += [".SH ENVIRONMENT", *_list([("SPOOLD_CONFIG", "The configuration, unless --config names one.")])]
    lines += [".SH FILES", *_list(_FILES), ".SH SEE ALSO", _references("job.yaml(5)", "spoold.yaml(5)")]
    return _text(lines)


def document(name: str) -> str:
    """job.yaml(5) or spoold.yaml(5): every key, what it takes, its default."""
    about, description, sample = _DOCUMENTS[name]
    lines = [*_head(name, 5, about), ".SH DESCRIPTION", _escape(description), ".PP", _escape(_YAML)]
    lines += [".SH KEYS", *_keys(schema.schema(name))]
    lines += [".SH EXAMPLES", ".nf", *(_escape(line) for line in _sample(sample)), ".fi"]
    others = sorted({"spoold(1)", *(f"{other}(5)" for other in _DOCUMENTS)} - {f"{name}(5)"}, key=lambda page: page[-2])
    return _text([*lines, ".SH SEE ALSO", _references(*others)])


def _head(name: str, section: int, about: str) -> list[str]:
    title = f'.TH {name.upper() if section == 1 else name} {section} {_DATE} spoold "spoold manual"'
    return [title, ".SH NAME", rf"{_escape(name)} \- {_escape(about)}"]


def _usage(parser: argparse.ArgumentParser) -> str:
    return " ".join(parser.format_usage().removeprefix("usage:").split())


def _options(parser: argparse.ArgumentParser, but: str = "") -> Iterator[str]:
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or action.dest in (but, "command"):
            continue
        value = action.metavar or ("{" + ",".join(action.choices) + "}" if action.choices else action.dest)
        value = str(value) if action.nargs != 0 else ""
        names = [f"{name} {value}".strip() for name in action.option_strings] or [value]
        text = (action.help or "").strip()
        yield from _item(", ".join(names), text and f"{text[0].upper()}{text[1:]}{'' if text.endswith('.') else '.'}")


def _keys(node: dict[str, Any]) -> Iterator[str]:
    required = node.get("required", ())
    for key, item in node["properties"].items():
        yield from _item(f"{key}:", item["description"])
        yield from (".br", _escape(f"Value: {_kind(item)}.{' Required.' if key in required else ''}"))
        if "default" in item:
            yield from (".br", _escape(f"Default: {_written(item['default'])}."))
        inner = next((part for part in _parts(item) if "properties" in part), None)
        if inner is None and isinstance(part := item.get("additionalProperties"), dict) and "properties" in part:
            inner = part
        if inner is not None:
            yield from (".RS", *_keys(inner), ".RE")


def _parts(item: dict[str, Any]) -> list[dict[str, Any]]:
    """What a key may hold: the options of a choice, one by one; null, which is as good as no key, is none."""
    if "properties" in item:
        return [item]
    options = item.get("anyOf") or item.get("oneOf")
    return [part for option in options for part in _parts(option)] if options else [item]


def _kind(item: dict[str, Any]) -> str:
    return " or ".join(dict.fromkeys(text for part in _parts(item) if (text := _one_kind(part))))


def _one_kind(part: dict[str, Any]) -> str:
    match part:
        case {"const": value}:
            return str(value)
        case {"enum": values}:
            return ", ".join(map(str, values[:-1])) + f" or {values[-1]}"
        case {"patternErrorMessage": str(text)}:
            return text.removeprefix("expected ")
        case {"type": "array", "items": items}:
            return f"a list, each {_kind(items)}" if "patternErrorMessage" in items else "a list"
        case {"type": "object", "propertyNames": {"patternErrorMessage": str(text)}, "additionalProperties": values}:
            return f"a mapping of {text.removeprefix('expected ')}, to {_one_kind(values)}"
        case {"type": "object", "additionalProperties": {"properties": _}}:
            return "a mapping of names, each to a mapping with these keys"
        case {"type": "integer", "minimum": least, **rest}:
            return (
                f"a whole number, {least} to {rest['maximum']}" if "maximum" in rest else f"a whole number from {least}"
            )
    return {"string": "text", "boolean": "true or false", "object": "a mapping", "null": ""}[part["type"]]


def _written(value: Any) -> str:
    """A default as YAML's flow style has it."""
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "{" + ", ".join(f"{key}: {_written(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_written, value)) + "]"
    return str(value)


def _sample(name: str) -> list[str]:
    lines = example(name).read_text().splitlines()
    # The first line is for editors, and right only where the example stands.
    return lines[2:] if lines[0].startswith("# yaml-language-server:") else lines


def _list(items: Sequence[tuple[str, str]]) -> Iterator[str]:
    for term, text in items:
        yield from _item(term, text)


def _item(term: str, text: str) -> Iterator[str]:
    yield from (".TP", rf"\fB{_escape(term)}\fR", _escape(text) if text else r"\&")


def _references(*pages: str) -> str:
    return ",\n".join(f".BR {page[:-3]} {page[-3:]}" for page in pages).replace(",\n", " ,\n")


def _escape(text: str) -> str:
    """Text as roff shows it, character by character; `code` becomes bold."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("…", "...").replace("^", r"\(ha")
    text = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", text).replace("~", r"\(ti")
    return rf"\&{text}" if text.startswith((".", r"\(aq")) else text


def _text(lines: Sequence[str]) -> str:
    return '.\\" Made of the help and the forms of the program: python -m tests.generated\n' + "\n".join(lines) + "\n"
