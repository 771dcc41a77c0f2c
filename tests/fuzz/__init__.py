"""Coverage-guided fuzzing of everything that reads foreign bytes: `python -m tests.fuzz`."""

from pathlib import Path

#: What fuzzing begins with or has found, a folder a target.
CORPUS = Path(__file__).parents[1] / "corpus" / "fuzz"
