"""One update of the setting that needs the most memory, before anything is queued.

A real trainer in a temporary folder, with the prompts of one update, one evaluation of as many rows
as decode together, and no checkpoints. What it says about memory is a lower bound: completions of
later updates may be longer.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grpo_core.config import MLXGRPOConfig, format_override
from grpo_core.errors import ExitCode
from orchestrator.errors import SweepError
from orchestrator.plan.runs import PlannedSetting, setting_config
from orchestrator.results.training_log import read_log, read_result
from orchestrator.spec.spec import Spec
from orchestrator.worker.attempt_log import read_tail
from orchestrator.worker.launcher import TRAINER
from orchestrator.worker.verdict import Ending, judge

# More rows than these never decode together.
_EVAL_ROWS = 128
# Micro-steps after which the next evaluation would come.
_NEVER = 10**6


@dataclass(frozen=True)
class ProbeResult:
    """What one update took: bytes at the peak, seconds without and with the model's loading."""

    setting: PlannedSetting
    peak_bytes: int | None
    update_s: float
    wall_s: float
    completion_tokens: float | None


def heaviest(spec: Spec, settings: Sequence[PlannedSetting]) -> list[PlannedSetting]:
    """Of each model the setting that needs the most memory, in the order of the sweep."""
    found: dict[str, PlannedSetting] = {}
    for setting in settings:
        config = setting_config(spec, setting)
        best = found.get(config.model_name)
        if best is None or _weight(config) > _weight(setting_config(spec, best)):
            found[config.model_name] = setting
    return list(found.values())


def _weight(config: MLXGRPOConfig) -> tuple[float, ...]:
    """Orders settings of one model by memory: what is trained, then tokens at once, then extras."""
    length = config.max_prompt_length + config.completion_limit
    at_once = config.micro_batch_size or config.num_generations * config.batch_size
    return (
        config.train_type == "full",
        not config.quantize_for_rollouts,
        at_once * length,
        config.num_generations * config.batch_size * length,
        config.lora_rank,
        config.kl_coeff > 0,
    )


def check(
    spec: Spec, setting: PlannedSetting, cwd: str, trainer: Sequence[str] = TRAINER
) -> ProbeResult:
    """Train one update of a setting in a folder that is gone afterwards; SweepError if it fails."""
    with tempfile.TemporaryDirectory(prefix="grpo-sweep-check-") as folder:
        base, log = Path(folder, "base.toml"), Path(folder, "check.log")
        base.write_text(spec.base.text, encoding="utf-8")
        words = [*trainer, "--config", str(base), *_overrides(spec, setting, folder)]
        began = time.monotonic()
        code = _run([*words, "--strict", "--no-wait"], cwd, log)
        wall_s = time.monotonic() - began
        out = Path(folder, "run")
        if code != 0:
            raise SweepError(_failure(code, out, log))
        return _probe_result(setting, out, wall_s)


def _overrides(spec: Spec, setting: PlannedSetting, folder: str) -> list[str]:
    config = setting_config(spec, setting)
    small = {
        "max_train_samples": config.batch_size * config.gradient_accumulation_steps,
        **{"num_epochs": 1, "eval_every_updates": 0, **_evaluation(config)},
        **{"eval_at_end": False, "save_steps": 0, "save_every_s": 0.0},
        **{"run_name": "check", "output_dir": str(Path(folder, "run"))},
    }
    passed = {**setting.overrides, **small}
    return [word for k, v in passed.items() for word in ("--set", format_override(k, v))]


def _evaluation(config: MLXGRPOConfig) -> dict[str, int | bool]:
    """One at the start, of no more rows than tell what it takes; none where the run has none."""
    wanted = max(
        config.eval_samples if config.eval_steps else 0,
        config.eval_subset_size if config.eval_every_updates else 0,
    )
    if not wanted:
        return {"eval_steps": 0, "eval_at_start": False}
    return {"eval_steps": _NEVER, "eval_at_start": True, "eval_samples": min(wanted, _EVAL_ROWS)}


def _run(words: Sequence[str], cwd: str, log: Path) -> int:
    with open(log, "ab") as out:
        done = subprocess.run(
            words, cwd=cwd, env=os.environ, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    return done.returncode


def _failure(code: int, out: Path, log: Path) -> str:
    ending = Ending(
        exit_code=code if code >= 0 else None,
        signal=-code if code < 0 else None,
        result=read_result(out),
        log_tail=read_tail(log),
    )
    outcome = judge(ending)
    if code == ExitCode.INTERRUPTED:
        return f"the check cannot run now, nothing was queued: {outcome.evidence}"
    return f"the check failed, nothing was queued: {outcome.reason}\n{outcome.evidence or ''}"


def _probe_result(setting: PlannedSetting, out: Path, wall_s: float) -> ProbeResult:
    lines = [line for line in read_log(out) if "loss" in line]
    line = lines[-1] if lines else {}
    peak = (read_result(out) or {}).get("peak_bytes", line.get("peak_bytes"))
    seconds = float(line.get("rollout_s") or 0.0) + float(line.get("update_s") or 0.0)
    return ProbeResult(setting, peak, seconds, wall_s, line.get("completion_length"))
