"""Time and disk of a sweep before it is queued, from past runs of the same model and shape."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grpo_core.config import MLXGRPOConfig, apply_overrides
from grpo_core.errors import GRPOError
from orchestrator.queue.kinds import kind_of
from orchestrator.run import Plan, Run, Sweep
from orchestrator.spec.base_config import resolved_base
from orchestrator.system.files import folder_bytes

# Runs that share these write as much.
_DISK_KEYS = ("model_name", "train_type", "lora_rank", "lora_keys", "lora_layers")
_KEEP_KEYS = ("save_steps", "save_total_limit", "save_best")


@dataclass(frozen=True)
class Forecast:
    """Seconds and bytes for all runs; None where a run is like no past one."""

    time_s: float | None
    disk_bytes: int | None


def forecast(plan: Plan, past: Iterable[tuple[Run, Sweep]]) -> Forecast:
    """What the runs of a plan will take, from the completed runs of the queue."""
    times: dict[tuple[Any, ...], list[float]] = {}
    sizes: dict[tuple[Any, ...], int] = {}
    bases: dict[str, MLXGRPOConfig | None] = {}
    for run, sweep in past:
        config = _resolved(sweep, run.set, bases)
        if config is None or run.wall_s <= 0:
            continue
        times.setdefault(kind_of(config), []).append(run.wall_s)
        size = sizes.get(_key(config, (*_DISK_KEYS, *_KEEP_KEYS))) or folder_bytes(run.folder)
        sizes[_key(config, (*_DISK_KEYS, *_KEEP_KEYS))] = size
    configs = [_resolved(plan, run.set, bases) for run in plan.runs]
    seconds = [_mean(times, c and kind_of(c)) for c in configs]
    bytes_ = [c and sizes.get(_key(c, (*_DISK_KEYS, *_KEEP_KEYS))) for c in configs]
    return Forecast(
        None if any(s is None for s in seconds) else math.fsum(s for s in seconds if s),
        sum(b for b in bytes_ if b) if all(bytes_) else None,
    )


def _mean(times: Mapping[tuple[Any, ...], list[float]], key: Any) -> float | None:
    found = times.get(key)
    return math.fsum(found) / len(found) if found else None


def _key(config: MLXGRPOConfig, names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(str(getattr(config, name)) for name in names)


def _resolved(
    sweep: Sweep | Plan, items: Sequence[str], bases: dict[str, MLXGRPOConfig | None]
) -> MLXGRPOConfig | None:
    """A run's configuration; None where today's fields no longer hold it."""
    try:
        if sweep.config_text not in bases:
            bases[sweep.config_text] = None
            bases[sweep.config_text] = resolved_base(sweep)
        known = bases[sweep.config_text]
        # A copy: the overrides are set on what they are given.
        return None if known is None else apply_overrides(replace(known), items, strict=True)
    except GRPOError:
        return None
