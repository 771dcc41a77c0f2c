"""The seam `storage.files`, keeping every path that the agent asks the system for."""

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spoold.storage.files import Files

#: Operations by where their arguments have a descriptor and a name, or a path, below it.
_NAMED = {
    "open_directory": [(0, 1)], "open_file": [(0, 1)], "stat": [(0, 1)], "make_directory": [(0, 1)], "unlink": [(0, 1)],
    "rename": [(0, 1), (2, 3)], "remove_directory": [(0, 1)], "create": [(0, 1)], "open_append": [(0, 1)],
    "read_at_once": [(0, 1)],
}  # fmt: skip
#: What is made up anew each time.
_MADE_UP = re.compile(r"(?<![0-9a-f])[0-9a-f]{8}(?![0-9a-f])")


class Witness(Files):
    """Real files. `paths` are those below the spool, with made-up parts of their names as zeros."""

    def __init__(self, spool: Path) -> None:
        self.paths: set[str] = set()
        self._spool = str(spool)
        self._lock = threading.Lock()
        for operation, places in _NAMED.items():
            setattr(self, operation, self._wrap(getattr(self, operation), places))

    def _wrap(self, call: Callable[..., Any], places: list[tuple[int, int]]) -> Callable[..., Any]:
        def seeing(*arguments: Any, **options: Any) -> Any:
            for descriptor, name in places:
                if arguments[descriptor] is not None:
                    self._see(arguments[descriptor], arguments[name])
            return call(*arguments, **options)

        return seeing

    def _see(self, descriptor: int, name: str | tuple[str, ...]) -> None:
        folder = os.readlink(f"/proc/self/fd/{descriptor}")
        path = os.path.join(folder, *((name,) if isinstance(name, str) else name))
        if path.startswith(self._spool + "/"):
            with self._lock:
                self.paths.add(_MADE_UP.sub("00000000", path[len(self._spool) + 1 :]))
