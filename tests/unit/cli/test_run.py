"""What the agent sets up for its process."""

import subprocess
import sys

PROGRAM = """
import _sqlite3, ctypes, sqlite3
from spoold.cli.run import _count_no_allocations

library = ctypes.CDLL(_sqlite3.__file__)
library.sqlite3_memory_used.restype = ctypes.c_int64
for _ in range(2):
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (x)")
    used = library.sqlite3_memory_used()
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
    connection.close()
    print(used > 0)
    _count_no_allocations()
"""


def test_sqlite_goes_on_and_counts_no_allocations() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
