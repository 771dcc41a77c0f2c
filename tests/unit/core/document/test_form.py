"""A document is read into its model, or told all that is wrong with it in the order of its lines and in plain words."""

from pydantic import Field

from spoold.core.document.field import AddressField, Duration, RetryField, Size, WindowsField
from spoold.core.document.form import Section, validate
from spoold.core.document.reader import Document, load
from tests.unit.core.document import complaint


class Server(Section):
    host: str
    port: int = Field(default=25, ge=1, le=65535)
    weight: float = 1.0


class Sample(Section):
    name: str = ""
    servers: dict[str, Server] = Field(default_factory=dict)
    settle: Duration = 30.0
    largest: Size = 50_000_000
    notify: AddressField | None = None
    quiet: bool = True
    retry: RetryField | None = None
    windows: WindowsField | None = None


def complaints(data: bytes) -> list[str]:
    return complaint.complaints(lambda: validate(load(data, "x"), Sample))


def test_form_is_read_into_its_model() -> None:
    document = load(b"servers: {a: {host: h, port: 587}}\nsettle: 1h30m\nquiet: false", "x")
    assert isinstance(document, Document)
    sample = validate(document, Sample)
    assert sample.servers["a"].port == 587
    assert (sample.settle, sample.quiet, sample.retry) == (5400.0, False, None)


def test_form_tells_all_problems_in_the_order_of_lines_and_in_plain_words() -> None:
    data = b"""\
settle: 10
quiet: yes
nam: x
servers:
  one: {prt: 5, host: 10}
  two: {port: 70000, host: h}
  three: 5
retry:
  evry: 1h
  after: []
windows: Mon-Fri 10:00-11:00
"""
    assert complaints(data) == [
        "x:1:9: expected a duration such as 90s, 5m, 1h30m, 5d or 2w; got 10",
        "x:2:8: expected true or false; got 'yes'",
        "x:3:1: unknown key 'nam'; did you mean 'name'?",
        "x:5:9: unknown key 'prt'; did you mean 'port'?",
        'x:5:23: expected text; got 10: put it in quotes, "10"',
        "x:6:15: expected a number of at most 65535; got 70000",
        "x:7:10: expected a mapping, {key: value}; got 5",
        "x:9:3: unknown key 'evry'; did you mean 'every'?",
        "x:10:10: expected a list, 1 or more entries; got a list",
        "x:11:10: expected a list, [one, two]; got 'Mon-Fri 10:00-11:00'",
    ]


def test_sizes_and_addresses_are_fields_too() -> None:
    sample = validate(load(b"largest: 64KiB\nnotify: Ops@Example.com", "x"), Sample)
    assert sample.largest == 65536
    assert sample.notify is not None
    assert sample.notify.envelope == "Ops@example.com"
    assert validate(load(b"largest: 1000\nnotify: null", "x"), Sample).largest == 1000
    assert complaints(b"largest: true\nnotify: ops") == [
        "x:1:10: expected a size such as 64KiB, 50MB or a number of bytes; got true",
        "x:2:9: 'ops' is not an address: it has no '@'; expected name@domain",
    ]


def test_missing_key_is_told_at_its_section_and_strange_key_with_the_known_ones() -> None:
    assert complaints(b"name: a\nservers:\n  one: {zzzz: 1}\n") == [
        "x:3:8: the required key 'host' is missing",
        "x:3:9: unknown key 'zzzz'; known here: host, port, weight",
    ]
