"""`python -m grpo_core.deep_checks NAME`: one measurement of this machine's device, as JSON.

For `grpo-sweep doctor --deep`, which runs each in a process of its own with a time limit and judges
the numbers. Only the embedded model is used, nothing is downloaded, no file is written. Each is a
question about Metal that nobody can answer without a Mac; docs/mac.md says what it settles.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from grpo_core.blas.library import find as find_blas
from grpo_core.blas.session import install as install_blas
from grpo_core.config import MLXGRPOConfig
from grpo_core.model.base_model import read_model_config
from grpo_core.model.device import use_device
from grpo_core.model.policy import load_policy
from grpo_core.model.random_keys import sample_key
from grpo_core.model.shared_prefix import abilities
from grpo_core.model.trunk_head import SplitModel
from grpo_core.rollout.generate import generate_groups
from grpo_core.rollout.sampling import Sampling
from grpo_core.update.gradient import gradient
from grpo_core.update.memory_estimate import estimate, model_shape
from grpo_core.update.memory_plan import MemoryPlan
from grpo_core.update.micro_batches import Sample

Numbers = dict[str, Any]

_PROMPT = tuple(range(20, 52))
_GROUP, _TOKENS = 8, 64
_PLAN = MemoryPlan(_GROUP, 512, False, True)
_GREEDY = Sampling(temperature=0.0, max_tokens=_TOKENS)


def _cfg(**more: Any) -> MLXGRPOConfig:
    fields: dict[str, Any] = {
        "model_name": "builtin/tiny",
        "quantize_for_rollouts": False,
        "num_generations": _GROUP,
        "max_new_tokens": _TOKENS,
        "lora_rank": 8,
        "eval_steps": 1,
        "eval_samples": 64,
        "eval_max_new_tokens": _TOKENS,
    }
    return MLXGRPOConfig(**{**fields, **more})


def _group() -> list[Sample]:
    draw = np.random.default_rng(0)
    return [
        Sample(_PROMPT, [int(i) for i in draw.integers(20, 90, _TOKENS)], float(draw.normal()))
        for _ in range(_GROUP)
    ]


def device() -> Numbers:
    """What MLX computes on, and what the device advises."""
    found: Numbers = {"device": mx.default_device().type.name, "metal": mx.metal.is_available()}
    if found["device"] == "gpu":
        info = mx.device_info()
        wanted = ("device_name", "architecture", "memory_size", "max_buffer_length",
                  "max_recommended_working_set_size", "resource_limit")  # fmt: skip
        found |= {name: info[name] for name in wanted if name in info}
    return found


def gradient_on_both() -> Numbers:
    """The relative difference of a gradient on the CPU and on the GPU, and of greedy tokens."""
    if mx.default_device() == mx.cpu:
        return {"skipped": "there is no GPU to compare with"}
    found = []
    for device in (mx.Device(mx.cpu), mx.Device(mx.gpu)):
        mx.set_default_device(device)
        cfg = _cfg(dtype="float32")
        policy = load_policy(cfg)
        grads = gradient(policy, [_group()], cfg, _PLAN).grads
        [group] = generate_groups(policy, [_PROMPT], 1, None, _GREEDY)
        arrays = {name: np.array(a.astype(mx.float32)) for name, a in grads.items()}
        found.append((arrays, group.completions[0]))
    (cpu, cpu_tokens), (gpu, gpu_tokens) = found
    apart = sum(float(np.sum((cpu[name] - gpu[name]) ** 2)) for name in cpu)
    whole = sum(float(np.sum(cpu[name] ** 2)) for name in cpu)
    same = sum(a == b for a, b in zip(cpu_tokens, gpu_tokens, strict=False))
    return {"relative": (apart / whole) ** 0.5, "same_tokens": same / max(len(cpu_tokens), 1)}


def quantised() -> Numbers:
    """The worst relative error of 4-bit products, as a layer's output and as its gradient."""
    weight = mx.random.normal((256, 512), key=mx.random.key(0))
    packed, scales, biases = mx.quantize(weight, group_size=64, bits=4)
    plain = mx.dequantize(packed, scales, biases, group_size=64, bits=4)
    worst = {}
    for name, transposed in (("output", True), ("gradient", False)):
        x = mx.random.normal((33, 512 if transposed else 256), key=mx.random.key(1))
        found = mx.quantized_matmul(
            x, packed, scales, biases, transpose=transposed, group_size=64, bits=4
        )
        expected = x @ (plain.T if transposed else plain)
        worst[name] = _apart(found, expected)
    return worst


def prefix() -> Numbers:
    """The worst difference in log-probs that the probe for shared prompts finds, by type."""
    found = {}
    for name in ("float32", "bfloat16"):
        policy = load_policy(_cfg(dtype=name))
        can = abilities(SplitModel(policy.model), policy.vocab_size)
        found[name] = max(can.shared, can.mixed)
    return found


def decoding() -> Numbers:
    """64 rows over ever more places: the peak beyond the caches, as a share of them.

    Where MLX copied the caches at each step instead of writing in place, it would be about 1.
    """
    endless = replace(load_policy(_cfg()), eos_ids=frozenset())
    shape = model_shape(read_model_config(_cfg()), _cfg())
    found = {}
    # On a CPU the longest would take minutes, and it is Metal that is asked.
    for places in (128, 512, 1024) if mx.default_device() == mx.gpu else (128, 256):
        keys = [[sample_key(0, 1, 0, s) for s in range(64)]]
        sampling = Sampling(temperature=1.0, max_tokens=places - len(_PROMPT))
        work = partial(generate_groups, endless, [_PROMPT], 64, keys, sampling)
        peak = _peak(work, warm=False)
        kept = 64 * places * shape.kept
        found[str(places)] = (peak - kept) / kept
    return found


def peaks() -> Numbers:
    """Measured over estimated bytes of a rollout, an update and an evaluation."""
    cfg = _cfg()
    policy = load_policy(cfg)
    settled = replace(cfg, **_PLAN.settings)  # type: ignore[arg-type]
    expected = estimate(model_shape(read_model_config(cfg), cfg), settled, len(_PROMPT))
    keys = [[sample_key(0, 1, 0, s) for s in range(_GROUP)]]
    phases: dict[str, Callable[[], object]] = {
        "rollout": lambda: generate_groups(policy, [_PROMPT], _GROUP, keys, Sampling(1.0, _TOKENS)),
        "update": lambda: gradient(policy, [_group()], cfg, _PLAN),
        "evaluation": lambda: generate_groups(policy, [_PROMPT] * 64, 1, None, _GREEDY),
    }
    found = {}
    for name, work in phases.items():
        whole = sum(part.bytes for part in getattr(expected, name))
        # A rollout is estimated for all the prompts of an update.
        parts = cfg.gradient_accumulation_steps * cfg.batch_size if name == "rollout" else 1
        found[name] = _peak(work) / (whole / parts)
    return found


def cache() -> Numbers:
    """Seconds of an update with a buffer cache of at most 0.5, 2 and 8 GB."""
    found = {}
    cfg = _cfg()
    policy = load_policy(cfg)
    for gigabytes in (0.5, 2.0, 8.0):
        mx.set_cache_limit(round(gigabytes * 1e9))
        gradient(policy, [_group()], cfg, _PLAN)
        times = []
        for _ in range(5):
            began = time.perf_counter()
            gradient(policy, [_group()], cfg, _PLAN)
            times.append(time.perf_counter() - began)
        found[f"{gigabytes:g}"] = sorted(times)[2]
    return found


def updates() -> Numbers:
    """Updates for as many seconds as the next argument says: how many there were."""
    cfg = _cfg()
    policy = load_policy(cfg)
    until = time.monotonic() + float(sys.argv[2])
    done = 0
    while time.monotonic() < until:
        gradient(policy, [_group()], cfg, _PLAN)
        done += 1
    return {"updates": done, "peak_bytes": mx.get_peak_memory()}


def _peak(work: Callable[[], object], warm: bool = True) -> int:
    if warm:
        work()
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    work()
    return int(mx.get_peak_memory() - before)


def _apart(found: mx.array, expected: mx.array) -> float:
    worst: Any = (mx.abs(found - expected).max() / mx.abs(expected).max()).item()
    return float(worst)


CHECKS: dict[str, Callable[[], Numbers]] = {
    "device": device,
    "gradient": gradient_on_both,
    "quantised": quantised,
    "prefix": prefix,
    "decoding": decoding,
    "peaks": peaks,
    "cache": cache,
    "updates": updates,
}


def main() -> int:
    """Print what a check measures as a line of JSON."""
    use_device(lambda line: print(line, file=sys.stderr))
    install_blas(find_blas())
    print(json.dumps(CHECKS[sys.argv[1]]()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
