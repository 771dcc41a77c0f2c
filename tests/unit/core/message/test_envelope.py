"""The envelope at the beginning of a file."""

from spoold.core.message.envelope import ENVELOPE_LIMIT, read_pickup


def test_envelope_ends_where_the_message_begins() -> None:
    data = b"X-Sender: <a@b>\r\nX-Receiver: <c@d> NOTIFY=NEVER\r\nX-Sent: no\r\nX-Receiver: <e@f>\r\n\r\nbody\r\n"
    found = read_pickup(data, "x.eml")
    assert found is not None
    assert (found.sender, found.receivers, found.problems) == ("a@b", ("c@d",), ())
    assert data[found.length :] == b"X-Sent: no\r\nX-Receiver: <e@f>\r\n\r\nbody\r\n"


def test_message_that_begins_otherwise_has_no_envelope() -> None:
    for data in (b"", b"Subject: x\nX-Sender: <a@b>\n\n", b"\nX-Sender: <a@b>\n", b"X-CreatedBy: x\nX-Sender: <a@b>\n"):
        assert read_pickup(data, "x.eml") is None


def test_every_problem_is_told() -> None:
    found = read_pickup(b"X-Receiver: <c@d>\nX-Sender: nobody\nX-Sender: <a@b>\n\n", "x.eml")
    assert found is not None
    assert [str(problem) for problem in found.problems] == [
        "x.eml:2: X-Sender: 'nobody' is not an address: it has no '@'; expected name@domain",
        "x.eml:3: a second X-Sender; expected one",
    ]


def test_envelope_that_may_be_cut_by_the_limit_is_refused() -> None:
    line = b"X-Receiver: <somebody@example.com>\n"
    data = (b"X-Sender: <a@b>\n" + line * (ENVELOPE_LIMIT // len(line) + 2))[:ENVELOPE_LIMIT]
    found = read_pickup(data, "x.eml")
    assert found is not None
    assert [problem.text for problem in found.problems] == [
        "the X-Receiver lines take more than 4 MiB; make it a job with a recipients.csv"
    ]
