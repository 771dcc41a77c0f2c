"""The one command: runs the rows, prints one table, exits 1 where a target, or in a quick run a bound, is missed.

    python -m tests.bench [--quick|--full] [ROW…]

`--quick` measures little and judges only ratios, by bounds that only a collapse breaks. `--full` takes the counts of the
targets, up to a million recipients; without either, rows of a million run with fewer.
"""

import argparse
import signal
import sys
import time

from tests.bench import growth, idle, intake, machine, start, throughput
from tests.bench.row import FULL, QUICK, USUAL, Finding, Row, Skipped, amount
from tests.servers.agent import Agent

ROWS: dict[str, Row] = {
    "drain": throughput.drain,
    "end-to-end": throughput.end_to_end,
    "fan-out": throughput.fan_out,
    "cpu": throughput.cpu,
    "latency": throughput.latency,
    "large": throughput.large,
    "memory": growth.memory,
    "intake": intake.large,
    "start": start.deferred,
    "jobs": intake.small,
    "kill": growth.kill,
    "reports": growth.reports,
    "growth": growth.cost,
    "idle": idle.idle,
}
HEADER = ("row", "what", "ours", "peer", "ratio", "target", "reached")
QUICK_HEADER = (*HEADER[:5], "bound", "kept")


def line(name: str, finding: Finding, *, quick: bool) -> tuple[tuple[str, ...], bool]:
    """The cells of a line, and whether it is as it should be."""
    ratio = "" if finding.ratio is None else amount(finding.ratio, "×")
    if not quick:
        met = finding.target.met(finding.value)
        return (name, finding.what, finding.ours, finding.peer, ratio, str(finding.target), "yes" if met else "NO"), met
    if finding.collapse is None or finding.ratio is None:
        return (name, finding.what, finding.ours, finding.peer, ratio, "", "not judged"), True
    met = finding.collapse.met(finding.ratio)
    return (name, finding.what, finding.ours, finding.peer, ratio, str(finding.collapse), "yes" if met else "NO"), met


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Markdown, aligned."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def text(row: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([text(header), rule, *map(text, rows)])


def main() -> int:
    """See the module."""
    Agent.forks = False
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=(__doc__ or "").partition("\n")[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="within two minutes; ratios against generous bounds")
    size.add_argument("--full", action="store_true", help="the counts of the targets, up to a million recipients")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all without")
    options = parser.parse_args()
    unknown = set(options.rows) - ROWS.keys()
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}; expected one of {', '.join(ROWS)}")
    # A bench that is told to end takes its servers with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    scale = QUICK if options.quick else FULL if options.full else USUAL
    facts = machine.facts()
    lines: list[tuple[str, ...]] = []
    good = True
    begun = time.monotonic()
    for name in [row for row in ROWS if not options.rows or row in options.rows]:
        print(f"{name} ({time.monotonic() - begun:.0f} s)", file=sys.stderr, flush=True)
        try:
            for finding in ROWS[name](scale):
                cells, met = line(name, finding, quick=options.quick)
                lines.append(cells)
                good = good and met
        except Skipped as reason:
            lines.append((name, f"skipped: {reason}", "", "", "", "", ""))
        except Exception as error:  # one row that breaks must not cost the others
            text = str(error).partition("\n")[0]
            lines.append((name, f"broken: {type(error).__name__}: {text}", "", "", "", "", "NO"))
            good = False
    for fact, value in facts:
        print(f"{fact}: {value}")
    print(f"took: {time.monotonic() - begun:.0f} s\n")
    print(table(QUICK_HEADER if options.quick else HEADER, lines))
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
