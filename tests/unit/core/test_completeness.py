"""The verdict on a look at an upload: which rule takes it, or what it waits for."""

from dataclasses import replace
from typing import Any

import pytest

from spoold.core.completeness import IntakePolicy, Look, Rule, Verdict, judge
from spoold.core.manifest import parse_manifest
from spoold.core.seal import Seal

POLICY = IntakePolicy(settle=30.0, stale=1000.0)
HASH = "a" * 64


def _look(*, manifest: str = "sender: a@b.example\n", without: str = "", **facts: Any) -> Look:
    files = {name: 1_700_000_000 for name in ("job.yaml", "message.eml", "recipients.csv") if name != without}
    files |= facts.pop("files", {})
    return Look(files=files, specials=facts.pop("specials", {}), manifest=parse_manifest(manifest.encode()), **facts)


def _wait(look: Look, policy: IntakePolicy = POLICY) -> str:
    verdict = judge(look, policy)
    assert verdict.rule is None
    assert verdict.errors == ()
    assert verdict.waits_for is not None
    return verdict.waits_for


def _seal(*names: str) -> Seal:
    return Seal(dict.fromkeys(names, HASH))


SEALED = _seal("job.yaml", "message.eml", "recipients.csv")


def test_quiet_upload_is_taken_when_it_has_settled() -> None:
    verdict = judge(_look(unchanged_for=29.0), POLICY)
    assert (verdict.rule, verdict.waits_for, verdict.look_again) == (None, "30 s without a change", 1.0)
    assert judge(_look(unchanged_for=30.0), POLICY) == Verdict(Rule.QUIET)
    assert "READY" in _wait(_look(unchanged_for=900.0), replace(POLICY, quiet=False))


@pytest.mark.parametrize(
    ("facts", "rule"),
    [
        ({"files": {"READY": 1}}, Rule.READY),
        ({"renamed_in": True}, Rule.RENAMED),
        ({"files": {"SHA256SUMS": 1}, "seal": SEALED}, Rule.SEALED),
        ({"files": {"SHA256SUMS": 1}, "seal": SEALED, "renamed_in": True}, Rule.SEALED),
    ],
)
@pytest.mark.parametrize("quiet", [True, False])
def test_declared_upload_does_not_wait(facts: dict[str, Any], rule: Rule, quiet: bool) -> None:
    assert judge(_look(**facts), replace(POLICY, quiet=quiet)) == Verdict(rule)


@pytest.mark.parametrize("declared", [{"files": {"READY": 1}}, {"renamed_in": True}, {}])
def test_wrong_seal_is_never_overruled(declared: dict[str, Any]) -> None:
    facts: dict[str, Any] = {"seal": SEALED, "wrong_hashes": frozenset({"message.eml"}), "unchanged_for": 999.0}
    assert "the rest of message.eml" in _wait(_look(**declared, **facts))


@pytest.mark.parametrize(
    ("facts", "waits_for"),
    [
        ({"seal": Seal({}, "the last line")}, "the last line"),
        ({"seal": SEALED, "without": "message.eml"}, "message.eml, which SHA256SUMS lists"),
        ({"seal": SEALED, "files": {"b": 1}}, "a line for b in SHA256SUMS"),
        ({"seal": SEALED, "wrong_hashes": frozenset({"job.yaml"})}, "the rest of job.yaml: its SHA-256 is not the one"),
        (
            {"seal": SEALED, "manifest": "sender: a@b.example\nexpect: {recipients: 2}\n", "recipients": 1},
            "2 recipients, which job.yaml expects; there are 1",
        ),
    ],
)
def test_sealed_upload_waits_for_what_its_seal_says(facts: dict[str, Any], waits_for: str) -> None:
    assert _wait(_look(unchanged_for=999.0, **facts)).startswith(waits_for)


@pytest.mark.parametrize("name", ["READY", "HOLD", "RETRY", "SHA256SUMS", "report/status.json", ".DS_Store", "a/.b"])
def test_seal_need_not_list_what_is_no_content(name: str) -> None:
    assert judge(_look(seal=SEALED, files={name: 1}), POLICY).rule is Rule.SEALED


@pytest.mark.parametrize("facts", [{"specials": {"x.eml": "a FIFO"}}, {"directories": frozenset({"x.eml"})}])
def test_sealed_name_that_is_no_file_is_an_error_at_once(facts: dict[str, Any]) -> None:
    verdict = judge(_look(seal=_seal("x.eml"), **facts), POLICY)
    assert verdict.rule is Rule.SEALED
    (error,) = verdict.errors
    assert error.startswith("x.eml is a ")


@pytest.mark.parametrize(
    ("facts", "waits_for"),
    [
        ({"without": "job.yaml"}, "job.yaml"),
        ({"without": "recipients.csv"}, "recipients.csv or recipients.txt"),
        ({"without": "message.eml", "needs_shared_message": True}, "message.eml"),
        ({"manifest": "sender: a@b.example\nmessage: m/1.eml\n"}, "m/1.eml, which job.yaml names"),
        ({"manifest": "sender: a@b.example\nrecipients: l.txt\n"}, "l.txt, which job.yaml names"),
        (
            {"manifest": "sender: a@b.example\nrecipients: [{address: a@b.example, message: own.eml}]\n"},
            "own.eml, which job.yaml names",
        ),
        ({"recipients_end_in_newline": False}, "the rest of recipients.csv (it does not end in a newline)"),
        ({"files": {"message.eml": 0}}, "the rest of message.eml (its time is 0, as rsync --partial leaves it)"),
        ({"files": {".a.eml.Ab12cD": 1}}, "the upload to finish (.a.eml.Ab12cD is a temporary name)"),
        (
            {"manifest": "sender: a@b.example\nexpect: {recipients: 2}\n", "recipients": 3},
            "2 recipients, which job.yaml expects; there are 3",
        ),
        (
            {"manifest": "sender: a@b.example\nexpect: {messages: 2}\n", "messages": 1},
            "2 messages, which job.yaml expects; there are 1",
        ),
    ],
)
def test_quiet_upload_waits_for_what_is_missing(facts: dict[str, Any], waits_for: str) -> None:
    assert _wait(_look(unchanged_for=999.0, **facts)) == waits_for


@pytest.mark.parametrize(
    "facts",
    [
        {"without": "message.eml", "needs_shared_message": False},
        {"without": "recipients.csv", "files": {"recipients.txt": 1}},
        {"without": "recipients.csv", "specials": {"recipients.csv": "a FIFO"}},
        {"without": "recipients.csv", "directories": frozenset({"recipients.csv"})},
        {"without": "message.eml", "needs_shared_message": True, "directories": frozenset({"message.eml"})},
        {"without": "recipients.csv", "manifest": "sender: a@b.example\nrecipients: [a@b.example]\n"},
        {"manifest": "sender: a@b.example\nrecipients: [{address: a@b.example, message: ../own.eml}]\n"},
        {"files": {"READY": 0, "HOLD": 0, "report/x": 0}},
        {"directories": frozenset({"messages"})},
    ],
)
def test_quiet_upload_does_not_wait_for_what_will_not_come(facts: dict[str, Any]) -> None:
    assert judge(_look(unchanged_for=30.0, **facts), POLICY).rule in (Rule.QUIET, Rule.READY)


@pytest.mark.parametrize("incomplete", [True, False])
def test_manifest_that_more_bytes_cannot_cure_is_not_waited_for(incomplete: bool) -> None:
    look = Look({"job.yaml": 1}, {}, manifest_problem="job.yaml:1:1: x", manifest_incomplete=incomplete)
    look = replace(look, unchanged_for=30.0)
    if incomplete:
        assert _wait(look) == "the rest of job.yaml: job.yaml:1:1: x"
    else:
        assert judge(look, POLICY) == Verdict(Rule.QUIET)


def test_upload_becomes_stale_when_it_has_not_changed_for_long() -> None:
    look = _look(without="job.yaml", unchanged_for=999.0)
    assert judge(look, POLICY).look_again == 1.0
    verdict = judge(replace(look, unchanged_for=1000.0), POLICY)
    assert verdict == Verdict(Rule.STALE, errors=("the upload did not become complete: it waited for job.yaml",))
    # What is complete is taken, however old.
    assert judge(_look(unchanged_for=5000.0), POLICY).rule is Rule.QUIET


def test_cancel_comes_before_everything() -> None:
    assert judge(Look({"CANCEL": 1}, {}, seal=Seal({}, "no end")), POLICY) == Verdict(Rule.CANCELLED)
