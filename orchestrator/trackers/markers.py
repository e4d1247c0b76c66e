"""What was sent to a tool that cannot say so itself: a small file beside what it wrote.

Whoever deletes the tool's files deletes these with them, and the next export sends all again.
"""

from dataclasses import asdict
from pathlib import Path

from grpo_core.run.atomic import read_json, write_json
from orchestrator.trackers.tracked import Known


def read_marker(path: Path) -> Known | None:
    """What was sent; None where nothing was, or the file cannot be read."""
    found = read_json(path) or {}
    update, state = found.get("update"), found.get("state")
    if not isinstance(update, int) or not isinstance(state, str):
        return None
    return Known(update, state)


def write_marker(path: Path, known: Known) -> None:
    """Remember what was sent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(known))
