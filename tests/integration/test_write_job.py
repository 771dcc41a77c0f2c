"""The function for applications: `from spoold import write_job`."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from spoold import JobError, SpoolError, write_job
from tests.servers.agent import MESSAGE, Agent, wait_for
from tests.servers.relay import Relay

WIRE = MESSAGE.replace(b"\n", b"\r\n")


def test_program_with_one_message_for_everybody(agent: Agent, relay: Relay, tmp_path: Path) -> None:
    agent.start()
    program = tmp_path / "application.py"
    (tmp_path / "message.eml").write_bytes(MESSAGE)
    program.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from spoold import write_job\n"
        "name = write_job(sys.argv[1], sender='news@example.com', message=Path(sys.argv[2]),\n"
        "    recipients=['ada@one.example', {'address': 'bob@two.example'}], manifest={'description': 'x: y', 'rate': '100/s'})\n"
        "print(name)\n"
    )
    done = subprocess.run(
        [sys.executable, str(program), str(agent.spool), str(tmp_path / "message.eml")],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    name = done.stdout.strip()
    assert agent.wait_state(name, "finished")["counts"]["sent"] == 2
    assert all(mail.data.endswith(WIRE) for mail in relay.accepted)
    assert sorted(relay.recipients) == ["ada@one.example", "bob@two.example"]
    assert (agent.report(name, "status.txt") or b"").count(b"x: y") == 1


def test_message_for_each(agent: Agent, relay: Relay, tmp_path: Path) -> None:
    def messages() -> Iterator[tuple[str, bytes]]:
        for number in range(150):
            yield f"r{number}@one.example", MESSAGE.replace(b"Hello", b"Hello %d" % number)

    assert write_job(agent.spool, "letters", sender="", message=messages()) == "letters"
    agent.start()
    assert agent.wait_state("letters", "finished")["counts"]["sent"] == 150
    for mail in relay.accepted:
        number = mail.recipients[0].removeprefix("r").partition("@")[0]
        assert mail.data.endswith(WIRE.replace(b"Hello", b"Hello %b" % number.encode()))
        assert mail.mail_from == ""
    assert len(relay.accepted) == 150


def test_columns_and_moments_are_kept(agent: Agent) -> None:
    write_job(
        agent.spool, "job", sender="a@b", message=MESSAGE,
        recipients=[{"address": "ada@one.example", "name": 'Lovelace, "Ada"'}, "bob@two.example"],
        manifest={"send_after": datetime(2030, 1, 1, tzinfo=UTC), "strict": True, "windows": ["Mon 00:00-24:00"]},
    )  # fmt: skip
    job = agent.spool / "new" / "job"
    assert (job / "recipients.csv").read_bytes() == (
        b'address,name\r\nada@one.example,"Lovelace, ""Ada"""\r\nbob@two.example,\r\n'
    )
    assert (job / "job.yaml").read_text() == (
        'sender: a@b\nsend_after: "2030-01-01T00:00:00+00:00"\nstrict: true\nwindows: ["Mon 00:00-24:00"]\n'
    )
    agent.start()
    agent.wait_state("job", "scheduled")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"name": "../x"}, "the name '../x' cannot be a job's"),
        ({"sender": "nobody"}, "job.yaml:1:9: 'nobody' is not an address"),
        ({"manifest": {"rate": "often", "colour": "red"}}, "job.yaml:2:7: "),
        ({"manifest": {"description": object()}}, "job.yaml: a manifest has text, numbers"),
        ({"manifest": {"recipients": "x.csv"}}, "job.yaml: recipients: give it to the function instead"),
        ({"recipients": []}, "no recipients; expected at least one"),
        ({"recipients": [{"name": "Ada"}]}, "recipient 1: no 'address'; expected one"),
        ({"recipients": ["a@b", {"address": "b@c", "x": ""}]}, "recipient 2: 'x': the first recipient does not"),
        ({"recipients": ["\udcff@b"]}, "a recipient's text is not valid Unicode"),
        ({"message": [("a@b", MESSAGE)]}, "recipients: every message brings its own recipient"),
    ],
)
def test_what_cannot_be_written_is_told_and_leaves_nothing(
    agent: Agent, arguments: dict[str, object], text: str
) -> None:
    given: dict[str, object] = {"sender": "a@b", "message": MESSAGE, "recipients": ["a@b"], **arguments}
    with pytest.raises(JobError) as caught:
        write_job(agent.spool, **given)  # type: ignore[arg-type]
    assert str(caught.value).startswith(text)
    assert list((agent.spool / "tmp").iterdir()) == list((agent.spool / "new").iterdir()) == []


def test_name_that_waits_is_taken_and_a_folder_that_is_no_spool_is_told(agent: Agent, tmp_path: Path) -> None:
    write_job(agent.spool, "job", sender="a@b", message=MESSAGE, recipients=["a@b"])
    with pytest.raises(JobError, match="new/job: an upload of this name waits there already"):
        write_job(agent.spool, "job", sender="a@b", message=MESSAGE, recipients=["a@b"])
    with pytest.raises(SpoolError, match="no spool here"):
        write_job(tmp_path / "nowhere", sender="a@b", message=MESSAGE, recipients=["a@b"])
    with pytest.raises(FileNotFoundError):
        write_job(agent.spool, sender="a@b", message=tmp_path / "none.eml", recipients=["a@b"])
    assert list((agent.spool / "tmp").iterdir()) == []


def test_agent_never_sees_a_part_of_it(agent: Agent, relay: Relay) -> None:
    agent.start()
    go_on = threading.Event()

    def slow() -> Iterator[str]:
        yield "ada@one.example"
        go_on.wait(20)
        yield "bob@one.example"

    writer = threading.Thread(
        target=write_job, args=(agent.spool, "slow"), kwargs={"sender": "a@b", "message": MESSAGE, "recipients": slow()}
    )
    writer.start()
    wait_for(lambda: list((agent.spool / "tmp").iterdir()), what="the draft")
    agent.drop("other", ["carol@one.example"])
    agent.wait_state("other", "finished")
    assert agent.find("slow") is None
    go_on.set()
    writer.join()
    assert agent.wait_state("slow", "finished")["counts"]["sent"] == 2


def test_importing_spoold_alone_costs_next_to_nothing() -> None:
    code = "import sys, spoold; print(spoold.__version__, 'pydantic' in sys.modules, callable(spoold.write_job))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.stdout.split()[1:] == ["False", "True"]
