"""Manifests of every kind: what is written is what is read, in any style, and every fault is a line with its place."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from spoold.core.document.composer import Value
from spoold.core.manifest import Expect, parse_manifest
from spoold.core.schedule.rate import Rate
from spoold.core.schedule.retry import RetryPolicy
from spoold.core.schedule.window import Windows, parse_windows
from tests.fuzz import target

KEYS = (
    *(
        "sender",
        "message",
        "recipients",
        "description",
        "relay",
        "expect",
        "send_after",
        "expires",
        "windows",
        "timezone",
    ),
    *("rate", "domain_rates", "retry", "on_uncertain", "priority", "strict", "allow_duplicate"),
)
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
WORDS = st.text(st.characters(codec="utf-8"), max_size=30)
ADDRESSES = st.from_regex(r"[a-z]{1,8}(\.[a-z0-9]{1,8})?@[a-z]{1,8}\.example", fullmatch=True)
PATHS = st.from_regex(r"[a-z\xe0-\xf6 ]{1,8}(/[A-Z0-9_-]{1,8}){0,2}\.eml", fullmatch=True)
WINDOWS = st.builds(
    lambda day, start, length: (
        f"{day} {start // 60:02}:{start % 60:02}-{(start + length) // 60:02}:{(start + length) % 60:02}"
    ),
    st.sampled_from(["Mon", "tuesday", "Sat,Sun", "Fri-Mon"]),
    st.integers(0, 719),
    st.integers(1, 720),
)


@st.composite
def durations(draw: st.DrawFn) -> tuple[str, float]:
    """A duration as it is written, and its seconds."""
    parts = draw(st.dictionaries(st.sampled_from("dhms"), st.integers(1, 99), min_size=1))
    text = "".join(f"{parts[unit]}{unit}" for unit in "dhms" if unit in parts)
    return text, float(sum(number * UNITS[unit] for unit, number in parts.items()))


@st.composite
def rates(draw: st.DrawFn) -> tuple[str, Rate]:
    count, number, unit = draw(st.integers(1, 10**6)), draw(st.integers(1, 99)), draw(st.sampled_from("smhd"))
    return f"{count}/{number}{unit}", Rate(count, float(number * UNITS[unit]))


moments = st.datetimes(datetime(1971, 1, 1), datetime(2999, 1, 1)).flatmap(
    lambda naive: st.integers(-840, 840).map(lambda off: naive.replace(tzinfo=timezone(timedelta(minutes=off))))
)


@st.composite
def manifests(draw: st.DrawFn) -> tuple[dict[str, Value], dict[str, Any]]:
    """A document, and what must be read out of it, by key."""
    document: dict[str, Value] = {"sender": draw(st.just("") | ADDRESSES)}
    wanted: dict[str, Any] = {"sender": document["sender"]}

    def maybe(key: str, value: st.SearchStrategy[Any]) -> Any:
        """The value that the key is given, None for a key that is left out."""
        return draw(st.none() | value)

    for key, plain in (
        ("description", WORDS),
        ("message", PATHS),
        ("relay", st.from_regex(r"[a-z]{1,9}", fullmatch=True)),
        ("strict", st.booleans()),
        ("allow_duplicate", st.booleans()),
        ("priority", st.sampled_from(["low", "normal", "high"])),
        ("on_uncertain", st.sampled_from(["resend", "hold"])),
        ("timezone", st.sampled_from(["UTC", "Europe/Vienna", "America/St_Johns"])),
    ):
        if (value := maybe(key, plain)) is not None:
            document[key] = wanted[key] = value
    if (rate := maybe("rate", rates())) is not None:
        document["rate"], wanted["rate"] = rate
    if (after := maybe("send_after", moments)) is not None:
        document["send_after"], wanted["send_after"] = after.isoformat(), after
    if (expires := maybe("expires", durations())) is not None:
        document["expires"], wanted["expires"] = expires
    if (lines := maybe("windows", st.lists(WINDOWS, max_size=4))) is not None:
        document["windows"] = list(lines)
        wanted["windows"] = parse_windows(lines) if lines else Windows.always()
    if (
        limits := maybe("domain_rates", st.dictionaries(st.sampled_from(["*", "gmail.com", "x.example"]), rates()))
    ) is not None:
        document["domain_rates"] = {domain: text for domain, (text, _) in limits.items()}
        wanted["domain_rates"] = {domain: value for domain, (_, value) in limits.items()}
    if (retry := maybe("retry", st.tuples(st.lists(durations(), min_size=1, max_size=4), durations()))) is not None:
        delays, (lifetime, seconds) = retry
        document["retry"] = {"after": [text for text, _ in delays], "for": lifetime}
        wanted["retry"] = RetryPolicy(tuple(value for _, value in delays), seconds)
    if (expect := maybe("expect", st.tuples(st.integers(1, 10**6), st.integers(1, 99)))) is not None:
        document["expect"] = {"recipients": expect[0], "messages": expect[1]}
        wanted["expect"] = Expect(*expect)
    if (people := maybe("recipients", st.lists(st.tuples(WORDS, st.none() | PATHS), max_size=4))) is not None:
        document["recipients"] = [to if own is None else {"address": to, "message": own} for to, own in people]
        wanted["recipients"] = people
    keys = draw(st.permutations(sorted(document)))
    return {key: document[key] for key in keys}, wanted


def block(value: dict[str, Value]) -> str:
    """The document in YAML's block style, one level of it."""
    text = ""
    for key, item in value.items():
        if isinstance(item, dict) and item:
            text += f"{key}:\n" + "".join(
                f"  {target.flow(each)}:  {target.flow(part)}\n" for each, part in item.items()
            )
        elif isinstance(item, list) and item:
            text += f"{key}:\r\n" + "".join(f"- {target.flow(part)}\r\n" for part in item)
        else:
            text += f"{key}: {target.flow(item)}  # a remark\n"
    return text


@settings(max_examples=40, deadline=None)
@given(manifests())
def test_what_is_written_in_any_style_is_what_is_read(written: tuple[dict[str, Value], dict[str, Any]]) -> None:
    document, wanted = written
    for text in (target.flow(document), block(document)):
        target.manifest(text.encode())
        found = parse_manifest(text.encode(), zone=UTC)
        for key, value in wanted.items():
            holder = found.timing if hasattr(found.timing, key) else found
            if key == "recipients":
                assert isinstance(found.recipients, tuple)
                assert [(each.address, each.message) for each in found.recipients] == value
            else:
                assert getattr(holder, key) == value, key


#: What people and others write where something else belongs.
WRONG: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | WORDS
    | st.sampled_from(["", "\x1b[31m", "\u202e", "-1/s", "0/h", "1e9/s", "5 days", "25:00-26:00", "../x", "9" * 500, "a@b@c"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=70, deadline=None)
@given(
    manifests().map(lambda written: written[0]),
    st.dictionaries(st.sampled_from([*KEYS, "colour", "\x1b]0;x\x07"]), WRONG, min_size=1, max_size=5),
)
def test_every_fault_is_one_printable_line_with_its_place(document: dict[str, Value], wrong: dict[str, Any]) -> None:
    target.manifest(target.flow({**document, **wrong}).encode())


@settings(max_examples=60, deadline=None)
@given(
    manifests().map(lambda written: block(written[0]).encode()),
    st.integers(0),
    st.binary(max_size=3),
    st.integers(0, 3),
)
def test_a_manifest_with_some_bytes_changed_is_read_or_told_what_is_wrong(
    data: bytes, at: int, new: bytes, gone: int
) -> None:
    at %= len(data) + 1
    target.manifest(data[:at] + new + data[at + gone :])
