"""The JSON Schemas for editors: they say of a document what the program says of it, but for what needs its meaning."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from spoold.cli.main import main
from spoold.cli.reference import schema
from spoold.core.document.form import Section, validate
from spoold.core.document.reader import Document, DocumentError, load
from spoold.core.manifest import parse_manifest
from tests import generated
from tests.fuzz.target import flow
from tests.unit.core.test_manifest import FULL
from tests.unit.core.test_manifest_property import WRONG, manifests

ROOT = generated.ROOT
VALIDATORS = {name: Draft7Validator(schema.schema(name)) for name in schema.FORMS}
EXAMPLES = sorted((ROOT / "spool_example").rglob("*.yaml"))
ADMINISTRATORS = (ROOT / "systemd/README.md").read_text()

#: What the program refuses and a schema does not: all of it needs to know what the words mean, or sees that `1.0` is no
#: whole number, which JSON cannot tell.
BEYOND = re.compile(
    "|".join(
        (
            r"is not an address: ",
            r"^expected a moment .*got .*(: .*(day|hour|minute|offset|must be)|, in the years)",
            r"^expected a moment after send_after",
            r"^expected a duration .*, or a moment .*got '.*\d{4}-",
            r"^expected a moment .*; got '\d{4}-",
            r"^expected a duration .*, at most 3650d",
            r"^expected a duration .*, or (forever|a moment .*); got '(?:[\d wdhms]|\\x0[9a-d])+'",
            r"^expected a size .* at most 1024TiB",
            r": it ends when it starts",
            r"^expected a time zone ",
            r"^expected a domain ",
            r"two of these keys are the same domain",
            r"a part of it is longer than 255 bytes",
            r"^expected a size .*; got \d+\.0+$",
            r"^expected a whole number; got -?\d+\.0+$",
        )
    )
)

BASE = """\
spool: .
relays:
  default: {host: relay.example, port: 2525, rate: 10/s, timeouts: {data: 3m}}
  second: {host: "::1", security: tls, ca_file: ca.pem, fallback: default}
timezone: UTC
rate: 5/m
domain_rates: {example.org: 1/s, "*": 5/m}
windows: ["Mon-Fri 18:00-08:00"]
retry: {after: [5m, 1h], for: 5d}
intake: {settle: 1s, max_message: 1000}
keep_done: forever
notify: me@example.com
log: {format: json, level: debug}
"""
MANIFEST = FULL.decode()

NOTATIONS = (
    *(
        "",
        "*",
        "forever",
        "90s",
        "1h30m",
        "1w 2d",
        "0s",
        "00d",
        "3650d",
        "3651d",
        "1m1h",
        "10/s",
        "0/s",
        "1/0s",
        "100 / 15m",
    ),
    *(
        "64KiB",
        "50 MB",
        "0",
        "1b",
        "2000TiB",
        "1e3",
        "null",
        "true",
        "Mon-Fri 18:00-08:00",
        "mon , TUESDAY-Sun 9:05 - 24:00",
    ),
    *("25:00-26:00", "10:00-10:00", "22:00-06:00", "Europe/Vienna", "Europe", "Mars/Base", "2026-12-01T09:00:00+01:00"),
    *("2026-02-30 09:00", "2026-12-01t09:00:00.5Z", "1970-01-01T00:00Z", "2026-12-01", "a@b.example", "a b@c.example"),
    *(
        '"a b"@c.example',
        "a@[192.0.2.1]",
        "a@[x]",
        "ä@bücher.example",
        "a@b@c",
        "@b",
        "messages/1.eml",
        "../x",
        "a//b",
        ".x",
    ),
    *("x\\y", "x\n", "low", "hold", "starttls", "gmail.com", "a..b", "-a.example", "bücher.example"),
)
#: A notation, or one that was changed in a place or two.
NEARLY = st.one_of(
    st.sampled_from(NOTATIONS),
    st.tuples(
        st.sampled_from(NOTATIONS),
        st.integers(0, 30),
        st.sampled_from(["", " ", "0", "9", "m", "d", "/", "-", ":", ".", "@", "\t", "\n", "Z", "é", "%", "\u2028"]),
        st.integers(0, 2),
    ).map(lambda change: change[0][: change[1]] + change[2] + change[0][change[1] + change[3] :]),
)
ANYTHING: st.SearchStrategy[Any] = (
    NEARLY | st.sampled_from([0, 1, -1, 2**51, 65536, 1.0, 1.5, True, None, [], {}]) | WRONG
)


def complaints(name: str, data: bytes) -> list[str]:
    """What the program says: the texts alone, without their places."""
    try:
        if name == "job.yaml":
            parse_manifest(data)
        else:
            form: type[Section] = schema.FORMS[name]
            validate(load(data, name), form)
    except DocumentError as error:
        return [problem.text for problem in error.problems]
    return []


def agree(name: str, value: Any) -> None:
    """Both read the value; the places of its faults do not matter here."""
    try:
        validate(Document(name, value, {(): (1, 1)}, {}), schema.FORMS[name])
        said = []
    except DocumentError as error:
        said = [problem.text for problem in error.problems]
    refused = [error.message for error in VALIDATORS[name].iter_errors(value)]
    if refused:
        assert said, f"only the schema refuses {value!r}: {refused}"
    else:
        assert all(BEYOND.search(text) for text in said), f"only the program refuses {value!r}: {said}"


def places(value: Any) -> list[tuple[str | int, ...]]:
    """Where in a document a value can be changed."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [(key,) for key, _ in items] + [(key, *rest) for key, item in items for rest in places(item)]


def changed(value: Any, place: tuple[str | int, ...], new: Any) -> Any:
    if not place:
        return new
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = changed(value[place[0]], place[1:], new)
    return copy


def test_schemas_are_valid_and_the_published_files_are_current() -> None:
    for name, validator in VALIDATORS.items():
        Draft7Validator.check_schema(validator.schema)
        text = schema.installed(name).read_text()
        assert json.loads(text) == validator.schema, "out of date: python -m tests.generated"
        assert "$ref" not in text


@pytest.mark.parametrize("path", EXAMPLES, ids=str)
def test_examples_name_their_schema_in_the_first_line_and_pass_it(path: Path) -> None:
    first, _, rest = path.read_text().partition("\n")
    match = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert match is not None
    published = (path.parent / match[1]).resolve()
    assert published == schema.installed(path.name).resolve()
    Draft7Validator(json.loads(published.read_text())).validate(load(rest.encode(), path.name).value)
    assert complaints(path.name, path.read_bytes()) == []


def test_a_new_spool_has_a_configuration_that_names_the_installed_schema(tmp_path: Path) -> None:
    assert main(["init", str(tmp_path / "spool")]) == 0
    first, _, rest = (tmp_path / "spool/spoold.yaml").read_text().partition("\n")
    named = Path(first.removeprefix("# yaml-language-server: $schema="))
    assert named.is_absolute()
    assert json.loads(named.read_text()) == schema.schema("spoold.yaml")
    assert rest == (ROOT / "spool_example/spoold.yaml").read_text().partition("\n")[2]


@pytest.mark.parametrize("name", sorted(schema.FORMS))
def test_the_whole_documents_of_the_paper_for_administrators_pass(name: str) -> None:
    beginning = {"job.yaml": "# job.yaml: only", "spoold.yaml": "spool: /var/spool"}[name]
    blocks = [
        block for block in re.findall(r"```yaml\n(.*?)```", ADMINISTRATORS, re.DOTALL) if block.startswith(beginning)
    ]
    assert len(blocks) == 1
    read = load(blocks[0].encode(), name).value
    assert set(read) == set(schema.schema(name)["properties"])
    VALIDATORS[name].validate(read)


@pytest.mark.parametrize("name", sorted(schema.FORMS))
def test_every_key_is_described(name: str) -> None:
    def look(node: Any) -> None:
        for key, item in node.get("properties", {}).items():
            if "oneOf" not in node or "description" in item:
                assert item["description"].endswith("."), key
            look(item)
        for part in (
            *node.get("anyOf", ()),
            *node.get("oneOf", ()),
            node.get("items"),
            node.get("additionalProperties"),
        ):
            if isinstance(part, dict) and "required" not in part:
                look(part)

    look(schema.schema(name))


@pytest.mark.parametrize(("name", "least"), [("job.yaml", "sender: a@b.example\n"), ("spoold.yaml", BASE)])
def test_a_default_written_out_means_what_its_absence_means(name: str, least: str) -> None:
    model = schema.FORMS[name]

    def check(node: dict[str, Any], above: tuple[str, ...]) -> int:
        count = 0
        for key, item in node.get("properties", {}).items():
            place = (*above, key)
            if "default" in item:
                count += 1
                bare = load(least.encode(), name).value
                holder: Any = bare
                for part in above:
                    holder = holder.setdefault(part, {})
                holder.pop(key, None)
                without = validate(load(flow(bare).encode(), name), model)
                holder[key] = item["default"]
                assert validate(load(flow(bare).encode(), name), model) == without, place
            count += check(item, place)
            if isinstance(inner := item.get("additionalProperties"), dict):
                count += check(inner, (*place, "default"))
        return count

    assert check(schema.schema(name), ()) > 6


@settings(max_examples=150, deadline=None)
@given(st.data())
@pytest.mark.parametrize(("name", "base"), [("job.yaml", MANIFEST), ("spoold.yaml", BASE)])
def test_schema_and_program_agree_on_a_document_with_one_value_changed(
    name: str, base: str, data: st.DataObject
) -> None:
    value = load(base.encode(), name).value
    place = data.draw(st.sampled_from(places(value)))
    agree(name, changed(value, place, data.draw(ANYTHING)))


@settings(max_examples=60, deadline=None)
@given(
    manifests(),
    st.dictionaries(st.sampled_from(["sender", "retry", "colour", "expect", "recipients"]), WRONG, max_size=3),
)
def test_schema_and_program_agree_on_manifests_of_every_kind(
    written: tuple[dict[str, Any], Any], wrong: dict[str, Any]
) -> None:
    agree("job.yaml", written[0])
    agree("job.yaml", {**written[0], **wrong})


@pytest.mark.parametrize("notation", NOTATIONS)
def test_schema_and_program_agree_on_every_notation_in_every_place(notation: str) -> None:
    for name, base in (("job.yaml", MANIFEST), ("spoold.yaml", BASE)):
        value = load(base.encode(), name).value
        for place in places(value):
            agree(name, changed(value, place, notation))
