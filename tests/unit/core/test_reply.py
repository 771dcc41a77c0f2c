"""The reading of SMTP replies: what each means for a recipient, for the connection and for the relay."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoold.core.fault import REMEDIES, Fault, FaultKind
from spoold.core.outcome import Command, Result, bounce_category, lost, returned, unknown
from spoold.core.reply import Reply, Verdict, read_reply

MAIL, RCPT, DATA, DOT = Command.MAIL, Command.RCPT, Command.DATA, Command.DOT
EVERYWHERE = (MAIL, RCPT, DATA, DOT)


def read(command: Command, text: str, accepted: int = 0) -> Verdict:
    return read_reply(command, Reply(int(text[:3]), text[4:]), accepted=accepted)


@pytest.mark.parametrize(
    ("command", "text", "result", "status"),
    [
        (RCPT, "250 2.1.5 Ok", Result.SENT, "2.1.5"),
        (RCPT, "250 Ok", Result.SENT, "2.1.5"),
        (RCPT, "251 User not local; will forward", Result.SENT, "2.1.5"),
        (RCPT, "252 Cannot VRFY", Result.SENT, "2.1.5"),
        (DOT, "250 2.0.0 queued", Result.SENT, "2.0.0"),
        (DOT, "251 taken", Result.SENT, "2.0.0"),
        (DOT, "250 4.2.0 not of its class", Result.SENT, "2.0.0"),
        (RCPT, "450 4.2.0 greylisted", Result.DEFERRED, "4.2.0"),
        (RCPT, "450 later", Result.DEFERRED, "4.0.0"),
        (RCPT, "452 4.2.2 mailbox full", Result.DEFERRED, "4.2.2"),
        (RCPT, "550 5.1.1 unknown", Result.FAILED, "5.1.1"),
        (RCPT, "550 unknown", Result.FAILED, "5.1.1"),
        (RCPT, "551 elsewhere", Result.FAILED, "5.1.6"),
        (RCPT, "552 full", Result.FAILED, "5.2.2"),
        (RCPT, "553 what is that", Result.FAILED, "5.1.3"),
        (RCPT, "554 no", Result.FAILED, "5.0.0"),
        (RCPT, "552 5.2.2 full", Result.FAILED, "5.2.2"),
        (RCPT, "550 4.2.2 not of its class", Result.FAILED, "5.1.1"),
        (MAIL, "451 4.3.0 later", Result.DEFERRED, "4.3.0"),
        (MAIL, "550 5.7.1 not you", Result.FAILED, "5.7.1"),
        (MAIL, "555 no such parameter", Result.FAILED, "5.0.0"),
        (DATA, "451 4.3.0 later", Result.DEFERRED, "4.3.0"),
        (DATA, "554 5.5.1 no valid recipients", Result.FAILED, "5.5.1"),
        (DOT, "451 4.7.1 later", Result.DEFERRED, "4.7.1"),
        (DOT, "554 5.6.0 spam", Result.FAILED, "5.6.0"),
        (DOT, "552 5.3.4 too big", Result.FAILED, "5.3.4"),
    ],
)
def test_a_reply_decides_for_its_recipients(command: Command, text: str, result: Result, status: str) -> None:
    verdict = read(command, text)
    assert (verdict.outcome.result, verdict.outcome.status) == (result, status)
    assert verdict.outcome.code == int(text[:3])
    assert text in verdict.outcome.diagnostic
    assert not verdict.close
    assert verdict.fault is None
    assert not verdict.too_many


@pytest.mark.parametrize("command", [MAIL, DATA, DOT])
@pytest.mark.parametrize("code", [550, 551, 552, 553])
def test_a_refused_message_without_enhanced_code_does_not_call_the_address_bad(command: Command, code: int) -> None:
    # Owners of lists delete addresses that are reported as 5.1.1.
    outcome = read(command, f"{code} no").outcome
    assert outcome.result is Result.FAILED
    assert not outcome.status.startswith(("5.1.", "5.2."))
    assert outcome.category not in ("bad-mailbox", "bad-domain", "quota-issues")


@pytest.mark.parametrize(
    ("text", "accepted", "meaning"),
    [
        ("452 4.5.3 Too many recipients", 3, "limit"),
        ("452 Too many recipients", 3, "limit"),
        ("552 5.5.3 Too many recipients", 3, "limit"),
        ("552 Too many recipients", 3, "limit"),
        ("452 4.5.3 Too many recipients", 0, "deferred"),
        ("452 whatever", 0, "deferred"),
        ("552 5.5.3 Too many recipients", 0, "deferred"),
        ("552 whatever", 0, "failed"),
        ("452 4.2.2 Mailbox full", 0, "deferred"),
        ("452 4.2.2 Mailbox full", 3, "deferred"),
        ("552 5.2.2 Mailbox full", 3, "failed"),
        ("452 4.3.1 Insufficient system storage", 0, "relay full"),
        ("452 4.3.1 Insufficient system storage", 3, "relay full"),
    ],
)
def test_452_and_552_at_rcpt_mean_what_their_company_says(text: str, accepted: int, meaning: str) -> None:
    verdict = read(RCPT, text, accepted)
    found = verdict.outcome.result.value
    if verdict.too_many:
        found = "limit"
    elif verdict.fault is not None:
        found = f"relay {verdict.fault.kind.value}"
    assert found == meaning
    if meaning in ("limit", "relay full"):
        assert verdict.outcome.result is Result.RETURNED
    assert not verdict.close


@pytest.mark.parametrize("text", ["421 too many messages in this connection", "452 4.5.3 Too many messages sent"])
def test_a_limit_of_messages_a_session_ends_the_session_and_is_no_fault_of_the_relay(text: str) -> None:
    code, _, words = text.partition(" ")
    verdict = read_reply(MAIL, Reply(int(code), words), earlier=1)
    assert verdict.outcome.result is Result.RETURNED
    assert verdict.close
    assert verdict.fault is None
    # Said of the first message of a session it is another matter: a new session would hear it again.
    first = read_reply(MAIL, Reply(int(code), words), earlier=0)
    assert first.fault is not None or first.outcome.result is Result.DEFERRED


@pytest.mark.parametrize("command", [MAIL, DATA, DOT])
@pytest.mark.parametrize("text", ["452 4.3.1 no space", "452 no space"])
def test_a_relay_short_of_storage_costs_no_recipient_anything(command: Command, text: str) -> None:
    verdict = read(command, text)
    assert verdict.outcome.result is Result.RETURNED
    assert verdict.fault is not None
    assert verdict.fault.kind is FaultKind.FULL


@pytest.mark.parametrize("command", EVERYWHERE)
@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("421 4.3.2 shutting down", FaultKind.BUSY),
        ("421 too many connections", FaultKind.BUSY),
        ("530 5.7.0 Authentication required", FaultKind.LOGIN),
        ("530 5.7.0 Must issue a STARTTLS command first", FaultKind.TLS),
        ("535 5.7.8 Authentication credentials invalid", FaultKind.LOGIN),
        ("534 5.7.9 Authentication mechanism is too weak", FaultKind.LOGIN),
        ("538 5.7.11 Encryption required", FaultKind.LOGIN),
        ("454 4.7.0 Temporary authentication failure", FaultKind.LOGIN),
    ],
)
def test_what_is_the_relays_own_affair_costs_no_recipient_anything(
    command: Command, text: str, kind: FaultKind
) -> None:
    verdict = read(command, text)
    assert verdict.outcome.result is Result.RETURNED
    assert verdict.close
    assert verdict.fault is not None
    assert verdict.fault.kind is kind
    assert text in verdict.fault.text


@pytest.mark.parametrize("text", ["503 5.5.1 MAIL first", "503 bad sequence"])
def test_a_server_out_of_step_is_left_and_the_recipient_is_tried_again(text: str) -> None:
    verdict = read(RCPT, text)
    assert verdict.outcome.result is Result.DEFERRED
    assert verdict.close


@given(st.sampled_from(EVERYWHERE), st.integers(100, 599), st.text(max_size=40), st.integers(0, 5))
def test_every_reply_has_a_meaning_and_none_but_5yz_is_final(
    command: Command, code: int, text: str, accepted: int
) -> None:
    verdict = read_reply(command, Reply(code, text), accepted=accepted)
    outcome = verdict.outcome
    assert (outcome.result is Result.SENT) == (200 <= code < 300)
    if outcome.result is Result.FAILED:
        assert 500 <= code < 600
        assert outcome.status.startswith("5.")
        assert outcome.category
    if outcome.result is Result.DEFERRED:
        assert outcome.status.startswith("4.")
    if outcome.result is Result.RETURNED:
        assert verdict.fault is not None or verdict.too_many
    assert outcome.result is not Result.UNCERTAIN


def test_every_fault_says_what_to_do() -> None:
    assert set(REMEDIES) == set(FaultKind)
    for kind in FaultKind:
        assert str(Fault(kind, "it broke")) == f"it broke; to do: {REMEDIES[kind]}"


def test_a_lost_connection_is_temporary_before_the_dot_and_uncertain_after_it() -> None:
    assert lost(Command.RCPT, "closed").result is Result.DEFERRED
    assert lost(Command.RCPT, "closed").status == "4.4.2"
    assert "RCPT TO" in lost(Command.RCPT, "closed").diagnostic
    assert unknown("closed").result is Result.UNCERTAIN
    assert "may have been sent" in unknown("closed").diagnostic
    assert returned("closed").result is Result.RETURNED


@pytest.mark.parametrize(
    ("status", "text", "category"),
    [
        ("5.1.1", "no such user", "bad-mailbox"),
        ("5.0.0", "User unknown in virtual mailbox table", "bad-mailbox"),
        ("5.1.2", "host not found", "bad-domain"),
        ("5.2.1", "", "inactive-mailbox"),
        ("5.2.2", "", "quota-issues"),
        ("4.2.2", "over quota", "quota-issues"),
        ("5.3.4", "", "content-related"),
        ("4.4.1", "", "no-answer-from-host"),
        ("4.4.2", "", "bad-connection"),
        ("5.4.7", "", "message-expired"),
        ("5.5.1", "", "protocol-errors"),
        ("5.7.1", "rejected as spam", "spam-related"),
        ("5.7.1", "Relay access denied", "relaying-issues"),
        ("5.7.1", "listed in a dnsbl", "spam-related"),
        ("4.7.1", "Greylisted", "policy-related"),
        ("5.0.0", "", "other"),
        ("5.10.0", "", "other"),
    ],
)
def test_bounces_get_powermtas_words(status: str, text: str, category: str) -> None:
    assert bounce_category(status, text) == category
