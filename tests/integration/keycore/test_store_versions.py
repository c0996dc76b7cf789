"""Processes on one SQLite file see each other's writes at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from keycore.adapters.sql_store import SqlStore

WRITE = """
import sys
from keycore.adapters.sql_store import SqlStore
from pathlib import Path
store = SqlStore.open(Path(sys.argv[1]))
store.count_start(10)
store.close()
"""


def test_a_write_of_another_process_gives_another_version(
    sqlite_store: SqlStore, tmp_path: Path
) -> None:
    before = sqlite_store.version()

    subprocess.run([sys.executable, "-c", WRITE, tmp_path / "keyplane.db"], check=True, timeout=60)

    assert sqlite_store.version() != before


def test_a_file_that_is_gone_leaves_the_version_as_it_was(
    sqlite_store: SqlStore, tmp_path: Path
) -> None:
    """That the store is gone is told by whoever reads it."""
    before = sqlite_store.version()
    for path in tmp_path.glob("keyplane.db*"):
        path.unlink()

    assert sqlite_store.version() == before
