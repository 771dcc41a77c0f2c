"""What an agent writes into metrics.prom."""

from prometheus_client.parser import text_string_to_metric_families

from tests.servers.agent import Agent

Labels = frozenset[tuple[str, str]]


def samples(agent: Agent) -> dict[tuple[str, Labels], float]:
    """Every sample by name and labels, without the label `spool`, which each must have."""
    found = {}
    for family in text_string_to_metric_families((agent.spool / "metrics.prom").read_text()):
        for sample in family.samples:
            assert sample.labels.pop("spool") == str(agent.spool), sample
            found[sample.name, frozenset(sample.labels.items())] = sample.value
    return found
