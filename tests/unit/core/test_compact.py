"""The compact form of a manifest says what the manifest said."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from spoold.core.compact import key_of, pack, unpack
from spoold.core.manifest import parse_manifest
from tests.unit.core.test_manifest import FULL

MANIFESTS = {
    "every key": FULL,
    "the least": b"sender: a@example.com\n",
    "the null sender": b'sender: ""\n',
    "addresses that are not ASCII": 'sender: "grüße@bücher.example"\ndescription: "ü\\u2028\\0"\n'.encode(),
    "a list of recipients": b"sender: a@b.c\nrecipients: [a@b.c, {address: 'no address', message: m/1.eml}]\n",
    "moments without an offset": b"sender: a@b.c\nsend_after: 2026-12-01 09:00\nexpires: 2026-12-02T09:00:00.5\n",
    "a lifetime in seconds": b"sender: a@b.c\nexpires: 90s\nretry: {every: 1m, for: 1h}\n",
    "windows that wrap": b'sender: a@b.c\nwindows: ["Fri-Mon 22:00-06:00"]\n',
}


@pytest.mark.parametrize("source", MANIFESTS.values(), ids=MANIFESTS.keys())
def test_what_is_unpacked_is_what_was_parsed(source: bytes) -> None:
    manifest = parse_manifest(source, zone=ZoneInfo("America/New_York"))
    packed = pack(manifest)
    assert unpack(packed) == manifest


def test_moment_is_the_same_moment_in_any_zone() -> None:
    manifest = parse_manifest(b"sender: a@b.c\nsend_after: 2026-07-01T09:00:00\ntimezone: Europe/Vienna\n")
    packed = pack(manifest)
    assert unpack(packed).timing.send_after == datetime(2026, 7, 1, 7, tzinfo=UTC)


def test_key_tells_apart_all_that_a_manifest_is_made_from() -> None:
    keys = {
        key_of(manifest, timing, zone)
        for manifest, timing in ((b"ab", None), (b"ab", b""), (b"a", b"b"), (b"", b"ab"), (b"", b"+ab"), (b"+ab", None))
        for zone in ("UTC", "Europe/Vienna")
    }
    assert len(keys) == 12
    assert key_of(b"ab", None, "UTC") in keys
