"""What keyplane has recorded, as tests and benchmarks read it."""

import json
from pathlib import Path
from typing import Any


def audit_files(state_dir: Path, face: str) -> list[Path]:
    """List the files of a face, slot by slot, the oldest of each slot first."""
    return sorted((state_dir / "audit").glob(f"{face}.*.jsonl"))


def audit_lines(state_dir: Path, face: str) -> list[dict[str, Any]]:
    """Read what a face has recorded so far, without the lines about the log itself."""
    lines = [
        json.loads(line)
        for path in audit_files(state_dir, face)
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return [line for line in lines if not line["operation"].startswith("audit.")]
