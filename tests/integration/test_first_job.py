"""The whole way of one job, with the real process and a scripted relay."""

from tests.servers.agent import MESSAGE, Agent
from tests.servers.relay import Relay


def test_job_renamed_in_is_sent_and_reported(agent: Agent, relay: Relay) -> None:
    agent.start()
    agent.drop("hello", ["ada@one.example", "bob@two.example"])
    status = agent.wait_state("hello", "finished")
    assert status["counts"]["sent"] == status["total"] == 2
    assert sum(status["counts"].values()) == status["total"]
    accepted = relay.accepted
    assert [sorted(mail.recipients) for mail in accepted] == [["ada@one.example", "bob@two.example"]]
    header, _, body = accepted[0].data.partition(b"Subject: News")
    assert b"Date: " in header
    assert b"Message-ID: <" in header
    assert body == MESSAGE.partition(b"Subject: News")[2].replace(b"\n", b"\r\n")
    assert [row["state"] for row in agent.recipients("hello")] == ["sent", "sent"]
    assert relay.violations == []
    assert agent.stop() == 0
