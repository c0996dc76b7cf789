"""Runs the provider alone in a process, and logs one JSON object a line.

Usage: ``python serve.py CONFIG_FILE``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import structlog

from keycore.errors import SetupError
from keycore.settings import load_settings
from keyplugin.main import run


def main() -> int:
    """Serve until a signal comes; 2 says that the installation must be mended."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        run(load_settings(Path(sys.argv[1])))
    except SetupError as error:
        sys.stderr.write(f"{error.message}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
