"""The job's manifest: what each key means, and how its faults are told."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoold.core.document.reader import DocumentError
from spoold.core.manifest import Expect, InlineRecipient, Manifest, Priority, check_path, parse_manifest
from spoold.core.schedule.rate import Rate
from spoold.core.schedule.retry import RetryPolicy
from spoold.core.schedule.window import Windows, parse_windows
from spoold.core.state import OnUncertain
from tests.unit.core.document import complaint

FULL = b"""\
sender: news@example.com        # envelope sender (MAIL FROM); "" is the null sender
message: message.eml
recipients: recipients.csv
description: Autumn sale
relay: second
expect: {recipients: 12000, messages: 1}
send_after: 2026-12-01T09:00:00+01:00
expires: 5d
windows: ["Mon-Fri 18:00-08:00", "Sat,Sun 00:00-24:00"]
timezone: Europe/Vienna
rate: 1200/h
domain_rates: {Gmail.com: 60/m, b\xc3\xbccher.example: 1/s, "*": 10/s}
retry: {after: [5m, 20m, 1h, 4h], for: 5d}
on_uncertain: hold
priority: high
strict: true
allow_duplicate: true
"""


def complaints(text: str) -> list[str]:
    return complaint.complaints(lambda: parse_manifest(text.encode()))


def manifest(text: str) -> Manifest:
    return parse_manifest(f"sender: a@example.com\n{text}".encode())


def test_every_key_is_read() -> None:
    read = parse_manifest(FULL)
    assert (read.sender, read.sender_smtputf8) == ("news@example.com", False)
    assert (read.message, read.recipients) == ("message.eml", "recipients.csv")
    assert (read.description, read.relay) == ("Autumn sale", "second")
    assert read.expect == Expect(12000, 1)
    assert (read.on_uncertain, read.strict, read.allow_duplicate) == (OnUncertain.HOLD, True, True)
    assert read.notes == ()
    timing = read.timing
    assert timing.send_after == datetime(2026, 12, 1, 9, tzinfo=timezone(timedelta(hours=1)))
    assert timing.expires == 5 * 86400.0
    assert timing.windows == parse_windows(("Mon-Fri 18:00-08:00", "Sat,Sun 00:00-24:00"))
    assert timing.timezone == "Europe/Vienna"
    assert timing.rate == Rate(1200, 3600)
    assert timing.domain_rates == {
        "gmail.com": Rate(60, 60),
        "xn--bcher-kva.example": Rate(1, 1),
        "*": Rate(10, 1),
    }
    assert timing.retry == RetryPolicy((300.0, 1200.0, 3600.0, 14400.0), 432000.0)
    assert timing.priority is Priority.HIGH


def test_only_the_sender_is_required() -> None:
    read = manifest("")
    assert (read.message, read.recipients, read.description, read.relay) == (
        "message.eml",
        None,
        "",
        "default",
    )
    assert (read.expect, read.on_uncertain) == (Expect(None, None), OnUncertain.RESEND)
    assert not read.strict
    assert not read.allow_duplicate
    timing = read.timing
    assert (timing.send_after, timing.expires, timing.timezone, timing.rate, timing.retry) == (None,) * 5
    assert timing.windows == Windows.always()
    assert (timing.domain_rates, timing.priority) == ({}, Priority.NORMAL)


def test_null_leaves_a_timing_key_to_the_agent() -> None:
    assert manifest("send_after:\nexpires: null\ntimezone: ~\nrate:\nretry:\n") == manifest("")


def test_empty_sender_is_the_null_sender() -> None:
    assert parse_manifest(b'sender: ""').sender == ""


def test_sender_outside_ascii_needs_smtputf8_and_its_domain_does_not() -> None:
    local = parse_manifest("sender: grüße@bücher.example".encode())
    assert (local.sender, local.sender_smtputf8) == ("grüße@xn--bcher-kva.example", True)
    domain = parse_manifest("sender: a@bücher.example".encode())
    assert (domain.sender, domain.sender_smtputf8) == ("a@xn--bcher-kva.example", False)


@pytest.mark.parametrize(
    ("text", "beginning"),
    [
        ("sender: no", "job.yaml:1:9: 'no' is not an address"),
        ("sender: 10", "job.yaml:1:9: expected an address such as news@example.com"),
        (
            "sender:",
            'job.yaml:1:8: expected an address such as news@example.com, or "" for the null sender; got not',
        ),
        ("sender: Ada <ada@example.org>", "job.yaml:1:9: 'Ada <ada@example.org>' is not an address"),
        (
            'sender: "a@b.c\\r\\nRCPT TO:<x@y.z>"',
            r"job.yaml:1:9: 'a@b.c\x0d\x0aRCPT TO:<x@y.z>' is not an address",
        ),
        ("sendr: a@b.c", "job.yaml:1:1: the required key 'sender' is missing"),
        ("sender: [a@b.c]", "job.yaml:1:9: expected an address such as news@example.com"),
    ],
)
def test_what_is_no_sender_is_refused(text: str, beginning: str) -> None:
    assert complaints(text)[0].startswith(beginning)


def test_inline_recipients_are_kept_with_their_lines_and_not_judged() -> None:
    read = manifest(
        "recipients:\n- ada@example.org\n- {address: bob@example.org, message: messages/2.eml}\n"
        "- address: not an address\n  message: ../x\n- no\n"
    )
    assert read.recipients == (
        InlineRecipient(3, "ada@example.org", None),
        InlineRecipient(4, "bob@example.org", "messages/2.eml"),
        InlineRecipient(5, "not an address", "../x"),
        InlineRecipient(7, "no", None),
    )


def test_inline_recipients_of_the_wrong_shape_are_refused() -> None:
    assert complaints("sender: a@b.c\nrecipients:\n- 10\n- [a@b.c]\n- {adress: a@b.c}\n-\n") == [
        'job.yaml:3:3: expected text; got 10: put it in quotes, "10"',
        "job.yaml:4:3: expected text; got a list",
        "job.yaml:5:3: the required key 'address' is missing",
        "job.yaml:5:4: unknown key 'adress'; did you mean 'address'?",
        "job.yaml:6:2: expected text; got nothing",
    ]


def test_all_problems_are_told_at_once_in_the_order_of_lines() -> None:
    found = complaints(
        """\
sendr: x
message: ../a
expect: {recipients: 0, messages: x, mails: 1}
send_after: tomorrow
expires: 10
windows: ["25:00-26:00", 18:00-18:00, 3]
timezone: Europe/Viena
rate: 10
domain_rates: {gmail..com: 1/h, a.example: 0/h}
retry: {evry: 1h, for: 0d}
on_uncertain: nope
priority: 3
strict: yes
description: 2026
"""
    )
    places = "1:1 1:1 2:10 3:22 3:35 3:38 4:13 5:10 6:11 6:26 6:39 7:11 8:7 9:16 9:44 10:9 10:24"
    places += " 11:15 12:11 13:9 14:14"
    assert [text.split(": ")[0] for text in found] == [f"job.yaml:{place}" for place in places.split()]
    assert all(text.isprintable() for text in found)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("rate: 10", "job.yaml:2:7: expected a rate such as 1200/h, 10/s, 100/15m or 5000/d; got 10"),
        (
            "retry: {every: 10, for: 5d}",
            "job.yaml:2:16: expected a duration such as 90s, 5m, 1h30m, 5d or 2w; got 10",
        ),
        ("retry: 1h", "job.yaml:2:8: expected a mapping, {key: value}; got '1h'"),
        ("retry: {every: 1h, after: [5m]}", "job.yaml:2:8: expected either `every` or `after`"),
        ("retry: {for: 5d}", "job.yaml:2:8: expected either `every` or `after`"),
        ("retry: {after: 5m}", "job.yaml:2:16: expected a list, [one, two]; got '5m'"),
        ("retry: {after: [5m, 0m]}", "job.yaml:2:21: expected a duration such as"),
        ("on_uncertain: ask", "job.yaml:2:15: expected resend or hold; got 'ask'"),
        ("priority: urgent", "job.yaml:2:11: expected low, normal or high; got 'urgent'"),
        ("relay: ''", "job.yaml:2:8: expected text, 1 or more characters; got ''"),
        ("expect: 5", "job.yaml:2:9: expected a mapping, {key: value}; got 5"),
        (
            "expires: soon",
            "job.yaml:2:10: expected a duration such as 90s, 5m, 1h30m, 5d or 2w, or a moment such as",
        ),
        (
            "expires: 2026-13-01T00:00:00Z",
            "job.yaml:2:10: expected a moment such as 2026-12-01T09:00:00+01:00; got",
        ),
        (
            "domain_rates: {a.example: 1/h, A.example: 2/h}",
            "job.yaml:2:15: two of these keys are the same domain",
        ),
        (
            "domain_rates: {a b: 1/h}",
            "job.yaml:2:16: expected a domain such as gmail.com, or * for every other",
        ),
        ("domain_rates: [a]", "job.yaml:2:15: expected a mapping, {key: value}; got a list"),
        ("windows: [Sat,Sun 00:00-24:00]", "job.yaml:2:11: expected a window such as"),
        ("recipients: 5", "job.yaml:2:13: expected text; got 5"),
        ("timezone: 1", "job.yaml:2:11: expected a time zone such as Europe/Vienna; got 1"),
    ],
)
def test_faults_say_what_would_be_right(text: str, problem: str) -> None:
    assert complaints(f"sender: a@example.com\n{text}\n")[0].startswith(problem)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-12-01T09:00:00+01:00", datetime(2026, 12, 1, 8, tzinfo=UTC)),
        ("2026-12-01 09:00:00 +01:00", datetime(2026, 12, 1, 8, tzinfo=UTC)),
        ("2026-12-01t09:00:00z", datetime(2026, 12, 1, 9, tzinfo=UTC)),
        ("2026-12-01T09:00Z", datetime(2026, 12, 1, 9, tzinfo=UTC)),
        ("2026-12-01T09:00:00.5Z", datetime(2026, 12, 1, 9, 0, 0, 500000, tzinfo=UTC)),
        ("2026-12-01T09:00:00.123456789Z", datetime(2026, 12, 1, 9, 0, 0, 123456, tzinfo=UTC)),
    ],
)
def test_moments_are_read_as_rfc_3339(text: str, moment: datetime) -> None:
    read = manifest(f"send_after: {text}")
    assert read.timing.send_after == moment
    assert read.notes == ()


@pytest.mark.parametrize(
    "text",
    [
        "2026-12-01",
        "09:00",
        "2026-12-01T25:00:00Z",
        "2026-02-30T09:00:00Z",
        "01.12.2026 09:00",
        "2026-12-01T09:00:00+25:00",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59-12:00",
        "20261201T090000Z",
        "1764576000",
    ],
)
def test_what_is_no_moment_is_told_the_right_form(text: str) -> None:
    found = complaints(f"sender: a@example.com\nsend_after: {text}")
    assert found[0].startswith("job.yaml:2:13: expected a moment such as 2026-12-01T09:00:00+01:00")


def test_moment_without_an_offset_is_taken_in_the_jobs_zone_and_noted() -> None:
    read = manifest("send_after: 2026-07-01 09:00\ntimezone: Europe/Vienna")
    assert read.timing.send_after == datetime(2026, 7, 1, 7, tzinfo=UTC)
    assert read.notes == ("send_after has no offset from UTC; taken as Europe/Vienna time: 2026-07-01T09:00:00+02:00",)


def test_moment_without_an_offset_and_a_job_without_a_zone_is_taken_in_the_agents() -> None:
    data = b"sender: a@example.com\nexpires: 2026-07-01T09:00:00"
    read = parse_manifest(data, zone=ZoneInfo("America/New_York"))
    assert read.timing.expires == datetime(2026, 7, 1, 13, tzinfo=UTC)
    assert "America/New_York" in read.notes[0]
    assert parse_manifest(data).timing.expires == datetime(2026, 7, 1, 9, tzinfo=UTC)


@pytest.mark.parametrize("expires", ["2026-12-01T08:00:00Z", "2026-11-30T00:00:00Z"])
def test_expires_must_be_after_send_after(expires: str) -> None:
    found = complaints(f"sender: a@b.c\nsend_after: 2026-12-01T09:00:00+01:00\nexpires: {expires}")
    assert found[0].startswith("job.yaml:3:10: expected a moment after send_after (2026-12-01T09:00:00+01:00); got")


def test_torn_manifest_is_incomplete() -> None:
    with pytest.raises(DocumentError) as caught:
        parse_manifest(b'sender: a@b.c\nwindows: ["Mon-F')
    assert caught.value.incomplete


def test_manifest_error_names_the_file_it_was_given() -> None:
    with pytest.raises(DocumentError, match=r"^autumn/job\.yaml:1:9: 'no'"):
        parse_manifest(b"sender: no", "autumn/job.yaml")


@pytest.mark.parametrize("name", ["message.eml", "messages/0001.eml", "a/b/c", "Grüße 1.eml", "-x", "a..b", "~"])
def test_paths_inside_the_job_are_split_into_components(name: str) -> None:
    assert check_path(name) == tuple(name.split("/"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "expected the name of a file in the job folder; got nothing"),
        ("/etc/passwd", "it must be relative to the job folder"),
        ("../x", "'..' leads out of it"),
        ("a/../x", "'..' leads out of it"),
        ("..", "'..' leads out of it"),
        (".", "names that begin with '.' are never looked at"),
        ("./a", "names that begin with '.' are never looked at"),
        ("a/.hidden", "names that begin with '.' are never looked at"),
        ("a//b", "it has an empty part"),
        ("a/", "it has an empty part"),
        ("a\\b", "it has a backslash"),
        ("a\nb", "it has control characters"),
        ("a\0b", "it has control characters"),
        ("a\x7f", "it has control characters"),
        ("a\udcffb", "it has control characters"),
        ("x" * 256, "longer than 255 bytes"),
        ("ü" * 128, "longer than 255 bytes"),
    ],
)
def test_paths_that_could_lead_elsewhere_are_refused(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match="file") as caught:
        check_path(name)
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


@given(st.text(alphabet="ab./\\\0\n ü"))
def test_accepted_path_never_leaves_its_folder(name: str) -> None:
    try:
        components = check_path(name)
    except ValueError:
        return
    assert components
    assert all(part and not part.startswith(".") and not set(part) & set("/\\\0\n") for part in components)


@given(st.integers(0, len(FULL)))
def test_every_beginning_of_a_manifest_is_read_or_refused(length: int) -> None:
    with suppress(DocumentError):
        parse_manifest(FULL[:length])
