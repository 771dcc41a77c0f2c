"""`python -m tests.fuzz TARGET SECONDS`: search with coverage as the guide for bytes that break a reader's promises.

It needs atheris, which the tests do not: `pip install atheris`. It begins with the inputs below tests/corpus/fuzz/TARGET/.
An input that breaks something is put there as `crash-…` (or `timeout-…`, `oom-…`) and shown with its error; mend what it
shows, give it a telling name and commit it: tests/unit/test_fuzz_corpus.py replays them all from then on.
"""

import argparse
import sys
import tempfile

from tests.fuzz import CORPUS


def main() -> None:
    """Ends with 0 when nothing was found in the time given."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=["manifest", "recipients", "message", "reply", "schedule", "seal"])
    parser.add_argument("seconds", type=int)
    parser.add_argument("--length", type=int, default=4096, help="the longest input, in bytes")
    options = parser.parse_args()
    try:
        import atheris
    except ImportError:
        sys.exit("tests.fuzz: atheris is not installed; pip install atheris")
    with atheris.instrument_imports(include=["spoold"]):
        from tests.fuzz.target import TARGETS
    seeds = CORPUS / options.target
    seeds.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        arguments = [
            f"-max_total_time={options.seconds}",
            f"-max_len={options.length}",
            "-timeout=10",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
            f"-artifact_prefix={seeds}/",
            work,
            str(seeds),
        ]
        atheris.Setup([sys.argv[0], *arguments], TARGETS[options.target])
        atheris.Fuzz()


main()
