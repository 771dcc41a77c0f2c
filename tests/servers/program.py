"""The installed program, run as people run it."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(sys.executable).parent / "spoold"


def spoold(
    *arguments: str | Path, cwd: Path | str = "/", environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program without a configuration by its environment; nothing that it ever says is a traceback."""
    base = {name: value for name, value in os.environ.items() if name not in ("SPOOLD_CONFIG", "NO_COLOR")}
    done = subprocess.run(
        [PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        cwd=cwd,
        env={**base, **(environ or {})},
        stdin=subprocess.DEVNULL,
        timeout=30,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done
