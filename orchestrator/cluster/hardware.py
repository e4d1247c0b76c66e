"""What a node is: its backend and the memory of a slot, as far as a trainer would find them."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from grpo_core.run.device_choice import GPU
from orchestrator.errors import SweepError

# It loads mlx, and asks the device.
_LOOK_S = 60.0
# As a trainer does on a CPU: other programs need some too.
_CPU_SHARE = 0.5


@dataclass(frozen=True)
class Hardware:
    """See `NodeFacts`."""

    backend: str
    memory_bytes: int


def look_at_hardware(slots: int, env: Mapping[str, str]) -> Hardware:
    """What a trainer with this environment, one of so many, finds; SweepError.

    In a process of its own: mlx is never loaded here.
    """
    command = [sys.executable, "-P", "-m", "grpo_core.model.device"]
    try:
        done = subprocess.run(
            command, env=dict(env), capture_output=True, text=True, timeout=_LOOK_S
        )
        found = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired) as e:
        raise SweepError(f"mlx cannot be asked for its device: {e}") from None
    if found is None:
        words = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise SweepError(f"mlx cannot be asked for its device: {words}")
    if found["device"] == GPU:
        backend = "metal" if sys.platform == "darwin" else "cuda"
        room = int(found["room_bytes"])
        # A Mac's slots share its GPU; a CUDA device is a slot of its own.
        return Hardware(backend, room // slots if backend == "metal" else room)
    return Hardware("cpu", round(psutil.virtual_memory().total * _CPU_SHARE / slots))
