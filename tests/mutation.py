"""Mutation testing of what decides: each small change to the code must make a test fail.

    python -m tests.mutation                                    every module in scope, a sample of 12 mutants of each
    python -m tests.mutation --sample 0 spoold/smtp/parser.py   all mutants of one module
    python -m tests.mutation --seed 7 --jobs 2

Cosmic Ray (`pip install cosmic-ray`; not needed for anything else) makes the mutants, in clones of what is committed. A mutant is tried
against the unit tests of its module, then of its room, then against all units and the acceptance tests: who survives is printed as a
diff, and the script exits 1, unless `tests/mutation.txt` says why nobody could tell it from the original.

It takes from an hour for the samples to a night for all, and is no part of the gate.
"""

import argparse
import difflib
import itertools
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).parent.parent
KNOWN = ROOT / "tests" / "mutation.txt"
#: What decides: by rooms, or modules.
SCOPE = (
    "spoold/core",
    "spoold/smtp",
    "spoold/storage/journal.py",
    "spoold/storage/agenda.py",
    "spoold/storage/clock.py",
    "spoold/delivery",
    "spoold/intake/custody.py",
    "spoold/intake/examination.py",
    "spoold/intake/time_limit.py",
)
#: Changes that stand for a mistake somebody could make; of arithmetic one each is enough.
OPERATORS = (
    "core/ReplaceComparisonOperator_",
    "core/ReplaceAndWithOr",
    "core/ReplaceOrWithAnd",
    "core/AddNot",
    "core/ReplaceTrueWithFalse",
    "core/ReplaceFalseWithTrue",
    "core/NumberReplacer",
    "core/ZeroIterationForLoop",
    "core/ReplaceBreakWithContinue",
    "core/ReplaceContinueWithBreak",
    "core/ReplaceUnaryOperator_Delete_Not",
    "core/ReplaceUnaryOperator_USub_UAdd",
    "core/ReplaceBinaryOperator_Add_Sub",
    "core/ReplaceBinaryOperator_Sub_Add",
    "core/ReplaceBinaryOperator_Mul_Div",
    "core/ReplaceBinaryOperator_Div_Mul",
    "core/ReplaceBinaryOperator_FloorDiv_Mul",
    "core/ReplaceBinaryOperator_Mod_Mul",
)
#: `==` for `is` and the like change nothing that a value could show.
ALIKE = ("_Eq_Is", "_Is_Eq", "_NotEq_IsNot", "_IsNot_NotEq")
TIMEOUT = 300


@dataclass(frozen=True)
class Mutant:
    """One change: the module's new text, and the diff that tells it."""

    module: str
    number: int
    text: str
    diff: str

    @property
    def name(self) -> str:
        """The changed lines, as `mutation.txt` has them."""
        lines = [line for line in self.diff.splitlines()[2:] if line[:1] in "+-"]
        return f"{self.module}: " + " => ".join(line[1:].strip() for line in lines)


def modules(names: Sequence[str]) -> Iterator[str]:
    for name in names or SCOPE:
        path = ROOT / name
        found = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        yield from (str(each.relative_to(ROOT)) for each in found if each.name != "__init__.py")


def mutants(module: str) -> list[Mutant]:
    """All mutants of a module that parse."""
    try:
        from cosmic_ray.mutating import mutate_code
        from cosmic_ray.plugins import get_operator, operator_names
    except ImportError:
        sys.exit("Cosmic Ray is missing: pip install cosmic-ray")
    source = (ROOT / module).read_text()
    found: list[Mutant] = []
    seen = {source}
    for name in sorted(operator_names()):
        if not name.startswith(OPERATORS) or name.endswith(ALIKE):
            continue
        operator = get_operator(name)()
        for occurrence in itertools.count():
            text = mutate_code(source, operator, occurrence)
            if text is None:
                break
            if text in seen:
                continue
            seen.add(text)
            diff = "\n".join(
                difflib.unified_diff(source.splitlines(), text.splitlines(), module, name, lineterm="", n=0)
            )
            found.append(Mutant(module, len(found), text, diff))
    return found


def selections(module: str) -> list[list[str]]:
    """Which tests to ask, the nearest first."""
    path = Path(module)
    room = Path("tests/unit", *path.parent.parts[1:])
    near = sorted(str(each.relative_to(ROOT)) for each in (ROOT / room).glob(f"test_{path.stem}*.py"))
    own = [str(room)] if (ROOT / room).is_dir() else []
    return [tests for tests in (near, own, ["tests/unit", "tests/acceptance"]) if tests]


def killed(clone: Path, mutant: Mutant) -> bool:
    """Whether a test fails, or none ends, where the module is this one."""
    path = clone / mutant.module
    original = path.read_text()
    path.write_text(mutant.text)
    try:
        for tests in selections(mutant.module):
            command = [
                sys.executable,
                "-B",
                "-m",
                "pytest",
                "-x",
                "-q",
                "--no-header",
                "-p",
                "no:cacheprovider",
                *tests,
            ]
            try:
                done = subprocess.run(command, cwd=clone, capture_output=True, timeout=TIMEOUT, check=False)
            except subprocess.TimeoutExpired:
                return True
            if done.returncode in (1, 2, 4):
                return True
    finally:
        path.write_text(original)
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="a module or a folder; else all in scope")
    parser.add_argument("--sample", type=int, default=12, help="mutants of each module; 0 takes all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    known = {line.partition(" # ")[0].strip() for line in KNOWN.read_text().splitlines() if not line.startswith("#")}
    chance = random.Random(options.seed)
    tried: list[Mutant] = []
    for module in modules(options.modules):
        found = mutants(module)
        tried += found if not options.sample else chance.sample(found, min(options.sample, len(found)))
    print(f"{len(tried)} mutants, seed {options.seed}", flush=True)
    clones: SimpleQueue[Path] = SimpleQueue()
    folder = Path(tempfile.mkdtemp(prefix="spoold-mutation-"))
    for number in range(options.jobs):
        clone = folder / str(number)
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        clones.put(clone)

    def one(mutant: Mutant) -> bool:
        clone = clones.get()
        try:
            return killed(clone, mutant)
        finally:
            clones.put(clone)

    survivors = []
    score: dict[str, list[int]] = {}
    try:
        with ThreadPoolExecutor(options.jobs) as threads:
            for mutant, dead in zip(tried, threads.map(one, tried), strict=True):
                equivalent = not dead and mutant.name in known
                of = score.setdefault(mutant.module, [0, 0, 0])
                of[0] += dead
                of[1] += equivalent
                of[2] += not dead and not equivalent
                if not dead and not equivalent:
                    survivors.append(mutant)
                    print(f"SURVIVED {mutant.name}\n{mutant.diff}\n", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("module".ljust(44), "killed equivalent survived")
    for module, of in score.items():
        print(f"{module:<44} {of[0]:>6} {of[1]:>10} {of[2]:>8}")
    of = [sum(each) for each in zip(*score.values(), strict=True)]
    print(f"{'all':<44} {of[0]:>6} {of[1]:>10} {of[2]:>8}: {100 * of[0] / max(of[0] + of[2], 1):.1f} %")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
