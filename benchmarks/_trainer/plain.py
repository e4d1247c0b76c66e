"""The same update as most trainers write it: one batch, all of it at once.

    python -m benchmarks._trainer.plain FOLDER GROUP TOKENS

Prompt and completion are one row each, so the prompt runs once for every completion. The model
gives logits, autograd does the rest, and AdamW is MLX's. Two versions: `all` takes the log-softmax
of every position, `completions` drops the prompt's logits first and keeps no log-softmax (what a
careful author does). Rollouts are left out. Prints a JSON line a step.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx_lm import load

from grpo_core.blas.library import find as find_blas
from grpo_core.blas.session import install as install_blas

STEPS = 3


def all_logps(model: nn.Module, ids: mx.array, prompt: int) -> mx.array:
    """Log-probs [G, C] of the completions by a log-softmax over every position."""
    logits = model(ids[:, :-1]).astype(mx.float32)
    logps = nn.log_softmax(logits, axis=-1)
    return mx.take_along_axis(logps, ids[:, 1:, None], axis=-1)[:, prompt - 1 :, 0]


def completion_logps(model: nn.Module, ids: mx.array, prompt: int) -> mx.array:
    """The same of the completion's logits only."""
    logits = model(ids[:, :-1])[:, prompt - 1 :].astype(mx.float32)
    chosen = mx.take_along_axis(logits, ids[:, prompt:, None], axis=-1)[..., 0]
    return chosen - mx.logsumexp(logits, axis=-1)


VERSIONS = {"all": all_logps, "completions": completion_logps}
Logps = Callable[[nn.Module, mx.array, int], mx.array]


def loss(model: nn.Module, ids: mx.array, advantages: mx.array, prompt: int, of: Logps) -> mx.array:
    """The policy gradient's loss, the mean over all tokens; `ids` [G, P + C], `advantages` [G]."""
    logps = of(model, ids, prompt)
    ratio = mx.exp(logps - mx.stop_gradient(logps))
    return -(ratio * advantages[:, None]).mean()


def main(folder: Path, group: int, tokens: int) -> None:
    """Time some steps of each version, by the BLAS that our trainer has."""
    install_blas(find_blas())
    prompt = json.loads((folder / "prompts.json").read_text())[0]
    draw = np.random.default_rng(0)
    for name, of in VERSIONS.items():
        model, _ = load(str(folder / "model"))
        model.train()
        optimizer = optim.AdamW(learning_rate=1e-6, bias_correction=True)
        step = nn.value_and_grad(model, loss)
        drawn = draw.integers(0, 4096, (group, tokens))
        ids = mx.array(np.concatenate([np.tile(prompt, (group, 1)), drawn], axis=1))
        advantages = mx.array(draw.standard_normal(group).astype(np.float32))
        for _ in range(STEPS):
            mx.reset_peak_memory()
            began = time.perf_counter()
            _, grads = step(model, ids, advantages, len(prompt), of)
            optimizer.update(model, grads)
            mx.eval(model.parameters(), optimizer.state)
            del grads
            seconds, peak = time.perf_counter() - began, mx.get_peak_memory()
            print(json.dumps({"version": name, "update_s": seconds, "mlx_peak_bytes": peak}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
