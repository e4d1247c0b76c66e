"""Which process holds a lock: what it writes into the lock's file, and whether it still lives."""

import os
import socket
import time
from pathlib import Path
from typing import Any

from grpo_core.run.atomic import read_json
from orchestrator.system.processes import boot_id, is_process, start_time


def this_process() -> dict[str, Any]:
    """What names this process for good: its pid alone may be another's tomorrow."""
    return {
        "pid": os.getpid(),
        "pid_started": start_time(os.getpid()),
        "boot_id": boot_id(),
        "host": socket.gethostname(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def holder_of(path: Path) -> dict[str, Any]:
    """What the last holder of a lock wrote into it, dead or alive; empty where nothing is there."""
    return read_json(path) or {}


def living_pid(holder: dict[str, Any]) -> int | None:
    """The pid of a holder that is still the process that wrote it."""
    pid, started, boot = (holder.get(key) for key in ("pid", "pid_started", "boot_id"))
    if isinstance(pid, int) and isinstance(started, float) and isinstance(boot, str):
        return pid if is_process(pid, started, boot) else None
    return None
