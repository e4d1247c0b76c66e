"""Whose an output folder is, told as the trainer tells it: by the hash of its configuration."""

import json
from pathlib import Path

from orchestrator.results.training_log import read_result
from orchestrator.system.paths import RunPaths


def holds_another(folder: Path, wanted_hash: str | None) -> bool:
    """Whether a run with another configuration has left something in `folder`."""
    paths = RunPaths(folder)
    try:
        config = json.loads(paths.resolved_config.read_text(encoding="utf-8"))
        return bool(config["hash"] != wanted_hash)
    except (FileNotFoundError, NotADirectoryError):
        traces = (paths.log, paths.result, paths.final)
        return any(trace.exists() for trace in traces) or bool(paths.checkpoints())
    except (OSError, ValueError, KeyError, TypeError):
        return True  # Something lies there that cannot be told from another run's.


def is_done(folder: Path) -> bool:
    """Whether a run is completed in `folder`: the trainer trains nothing there again."""
    return (read_result(folder) or {}).get("status") == "completed"
