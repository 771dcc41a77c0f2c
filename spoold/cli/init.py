"""`spoold init`: a new spool with a commented configuration."""

import argparse
from importlib.resources import files
from pathlib import Path

from spoold.storage.spooldir import Spool


def run(options: argparse.Namespace) -> int:
    """Make the folders and spoold.yaml; what is there already stays as it is."""
    path = Path(options.spool)
    made = Spool.create(path)
    target = path / "spoold.yaml"
    if not target.exists():
        target.write_text(configuration(), encoding="utf-8")
        made.append("spoold.yaml")
    print(f"{path}: made {', '.join(made)}" if made else f"{path}: is a spool already; nothing changed")
    print(f"For Prometheus and Grafana, alert rules and a dashboard: {monitoring('')}")
    print(f"Next: set the relay in {target}, then: spoold --config {target} check")
    return 0


def monitoring(name: str) -> Path:
    """A file of what comes with the package for Prometheus and Grafana; their folder for an empty name."""
    return Path(str(files("spoold"))) / "data" / "monitoring" / name


def configuration() -> str:
    """The example's spoold.yaml; its first line names the schema where it is now, for editors."""
    first, *rest = example("spoold.yaml").read_text(encoding="utf-8").splitlines(keepends=True)
    return f"{first.partition('=')[0]}={data('schema', 'spoold.schema.json')}\n" + "".join(rest)


def example(name: str) -> Path:
    """A file or folder of the example spool, from the installed package or from a checkout."""
    return data("spool_example", name)


def data(folder: str, name: str) -> Path:
    """What came with the program: `name` in `folder`, from the installed package or from a checkout."""
    root = Path(str(files("spoold")))
    for place in (root / "data", root.parent):
        if (place / folder / name).exists():
            return place / folder / name
    raise FileNotFoundError(2, f"{folder}/{name} is missing from this installation", name)
