"""Our trainer as a user runs it: a process of its own, measured by its log and from outside."""

import json
import re
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from benchmarks._trainer.child import Child, environment
from benchmarks._trainer.work import Setting

LOOK_S = 0.005


@dataclass(frozen=True)
class Update:
    """One line of the log, and the seconds since the line before (`wall_s`, `cpu_s`)."""

    wall_s: float
    cpu_s: float
    line: dict[str, Any]

    @property
    def stages_s(self) -> float:
        """Rollout, rewards and update together, as logged."""
        return float(sum(self.line[name] for name in ("rollout_s", "reward_s", "update_s")))


@dataclass(frozen=True)
class Measured:
    """One run of the trainer."""

    first_rollout_s: float  # from the start of the process to the start of the first rollout
    updates: list[Update]  # without the first one, which has no line before it
    evaluations: list[dict[str, Any]]
    rss_bytes: int

    def after(self, warm: int) -> list[Update]:
        """The updates that count; the first `warm` of all are left out, at least one."""
        return self.updates[warm - 1 :]


def train(folder: Path, setting: Setting, updates: int, **fields: Any) -> Measured:
    """Run so many updates, one pass over as many rows; raises ChildFailed."""
    output = folder / "outputs" / str(time.time_ns())
    # No field ends a run after so many updates, but for the rows that it learns from.
    rows = {"max_train_samples": updates * setting.prompts, "output_dir": str(output)}
    return watch(write_config(folder, setting.config(folder) | rows | fields), output, folder)


def write_config(folder: Path, fields: dict[str, Any]) -> Path:
    path = folder / "config.toml"
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in fields.items()]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def start_up_s(folder: Path, setting: Setting) -> float:
    """Seconds from the start of the process to its first rollout, with all rows to be read."""
    output = folder / "outputs" / str(time.time_ns())
    fields = {"dataset": str(folder / "all.jsonl"), "output_dir": str(output)}
    config = write_config(folder, setting.config(folder) | fields)
    return watch(config, output, folder, stop_after=1).first_rollout_s


def watch(config: Path, output: Path, folder: Path, stop_after: int = 0) -> Measured:
    """Follow the log as it grows; what stands between two lines is one update.

    After `stop_after` lines the run is stopped; 0 lets it end by itself.
    """
    log = output / "training_log.jsonl"
    began = time.monotonic()
    argv = [sys.executable, "-m", "grpo_core", "--config", config]
    child = Child(argv, environment(folder))
    process = psutil.Process(child.process.pid)
    seen: list[tuple[float, float, dict[str, Any]]] = []
    # A process that has ended keeps its times until it is waited for, as a zombie.
    while process.status() != psutil.STATUS_ZOMBIE:
        for line in new_lines(log, len(seen)):
            used = process.cpu_times()
            seen.append((time.monotonic(), used.user + used.system, line))
            if len(seen) == stop_after:
                process.terminate()
        time.sleep(LOOK_S)
    ended = child.end(may_stop=stop_after > 0)
    last = seen[-1] if seen else (time.monotonic(), 0.0, {})
    seen += [(last[0], last[1], line) for line in new_lines(log, len(seen))]
    drawn = [each for each in seen if "rollout_s" in each[2]]
    made = [Update(b[0] - a[0], b[1] - a[1], b[2]) for a, b in pairwise(drawn)]
    first = drawn[0][0] - began - Update(0, 0, drawn[0][2]).stages_s
    evaluations = [line for _, _, line in seen if "eval_s" in line]
    return Measured(first, made, evaluations, ended.rss_bytes)


def new_lines(log: Path, known: int) -> list[dict[str, Any]]:
    """The whole lines of the log beyond those that are known."""
    if not log.exists():
        return []
    text = log.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()[known:]]


def estimate_bytes(folder: Path, setting: Setting) -> int:
    """The peak that `--dry-run` foretells."""
    made = setting.config(folder) | {"output_dir": str(folder / "dry")}
    argv = [sys.executable, "-m", "grpo_core", "--config", write_config(folder, made), "--dry-run"]
    said = Child(argv, environment(folder)).end().out
    found = re.search(r"# peak memory: about (\d+) MB", said)
    if found is None:
        raise ValueError(f"--dry-run says nothing of the peak memory:\n{said[-500:]}")
    return int(found[1]) * 10**6


def summary(runs: Sequence[Measured], warm: int) -> dict[str, float]:
    """Medians over all updates that count, of all runs."""
    updates = [update for run in runs for update in run.after(warm)]

    def median(name: str) -> float:
        return statistics.median(update.line[name] for update in updates)

    return {
        "total_s": statistics.median(update.wall_s for update in updates),
        "cpu_s": statistics.median(update.cpu_s for update in updates),
        **{name: median(name) for name in ("rollout_s", "reward_s", "update_s", "tokens_per_s")},
        "mlx_peak_bytes": max(update.line["peak_bytes"] for update in updates),
        "rss_bytes": max(run.rss_bytes for run in runs),
        "updates": len(updates),
    }
