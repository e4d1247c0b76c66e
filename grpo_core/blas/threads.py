"""How many threads multiply matrices: by the model's size, and never more than there are cores.

The number changes bits (sums are cut otherwise), so a run keeps the one that it began with.
"""

import os
from pathlib import Path

from grpo_core.errors import ConfigError

ENV = "GRPO_THREADS"

# Below it the products are so small that a second thread costs more than it does: measured with
# 1.25 M (slower) and 135 M parameters (10 to 20% faster).
SMALL_PARAMETERS = 30_000_000

# Measured with two; a decoding step's products are too small for many, and a wait for the last
# thread is paid at each of them.
MOST_BY_ITSELF = 8

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def most_threads() -> int:
    """As `GRPO_THREADS` says, else 8, but never more than the cores that this process may use.

    Several trainers on one machine share its cores by that variable. Raises ConfigError if it is
    no number of threads.
    """
    cores = available_cores()
    wanted = os.environ.get(ENV, "")
    if not wanted:
        return min(cores, MOST_BY_ITSELF)
    if not wanted.isdecimal() or int(wanted) < 1:
        raise ConfigError(f"{ENV} = {wanted!r}: not a number of threads; give a whole one from 1")
    return min(int(wanted), cores)


def threads_for(parameters: int, most: int) -> int:
    """How many are good for a model with so many parameters."""
    return 1 if parameters < SMALL_PARAMETERS else most


def available_cores() -> int:
    """By the scheduler's affinity, and by what a container may use (its cgroup's quota)."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = len(os.sched_getaffinity(0))
    quota = cgroup_quota(_CGROUPS, _OWN_CGROUP)
    return cores if quota is None else max(1, min(cores, int(quota)))


def cgroup_quota(root: Path, own: Path) -> float | None:
    """Processors that the cgroup may use at once; None without a limit. Version 2, and 1's root.

    `own` holds the path of the process's group below `root`; its parents' quotas count as well.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    groups = [root / path, *(root / path).parents] if path else [root]
    found = [_quota(group) for group in groups if group.is_relative_to(root)]
    return min((each for each in found if each is not None), default=None)


def _quota(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except OSError:
        quota, period = _quota_of_version_1(group / "cpu")
    return float(quota) / float(period) if quota not in ("max", "-1") else None


def _quota_of_version_1(group: Path) -> tuple[str, str]:
    try:
        parts = [(group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")]
    except OSError:
        return "max", "1"
    return parts[0], parts[1]
