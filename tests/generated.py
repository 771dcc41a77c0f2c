"""The files that are made of the program's own help and forms, and kept in the repository so that installing it needs
no more than copying: JSON Schemas, manual pages, shell completion.

`python -m tests.generated` writes them; `tests/unit/cli/` says when they are out of date.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from spoold.cli.parser import SHELLS, parser
from spoold.cli.reference import completion, manual, schema

ROOT = Path(__file__).parent.parent


def files() -> Iterator[tuple[str, Callable[[], str]]]:
    """Every path below the root, and what makes its text."""
    for name in schema.FORMS:
        yield f"spoold/data/schema/{schema.file_name(name)}", lambda name=name: _json(name)  # type: ignore[misc]
    yield "spoold/data/man/spoold.1", lambda: manual.spoold(parser())
    for name in schema.FORMS:
        yield f"spoold/data/man/{name}.5", lambda name=name: manual.document(name)  # type: ignore[misc]
    for shell, file in SHELLS.items():
        yield f"spoold/data/completion/{file}", lambda shell=shell: completion.script(shell, parser())  # type: ignore[misc]


def _json(name: str) -> str:
    return json.dumps(schema.schema(name), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for path, make in files():
        (ROOT / path).parent.mkdir(exist_ok=True)
        (ROOT / path).write_text(make(), encoding="utf-8")
        print(path)
