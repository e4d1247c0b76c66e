"""Tokens per second of decoding over the number of rows: ours, and mlx-lm's own batches.

    python -m benchmarks._trainer.decode FOLDER SHAPE TOKENS ROWS...

One prompt, sampled so many times at once, each row to its full length; temperature 1. Ours also
keeps the log-prob of every token and draws each row by its own key, as a rollout does. mlx-lm's
`batch_generate` is given one prompt a row, as it has no other way. Both warm up on the same number
of rows, and take turns. The prompt is counted in both. A JSON line a number of rows.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import mlx.core as mx
from mlx_lm import load
from mlx_lm.sample_utils import make_sampler

from benchmarks._trainer.work import Setting
from grpo_core.blas.library import find as find_blas
from grpo_core.blas.session import install as install_blas
from grpo_core.config import MLXGRPOConfig
from grpo_core.model.policy import load_policy
from grpo_core.model.random_keys import sample_key
from grpo_core.rollout.generate import generate_groups
from grpo_core.rollout.sampling import Sampling

ROUNDS = 3


def seconds(work: Callable[[], int]) -> tuple[float, int]:
    """Of one call, and the tokens that it gave."""
    began = time.perf_counter()
    tokens = work()
    return time.perf_counter() - began, tokens


def main(folder: Path, shape: str, tokens: int, sizes: list[int]) -> None:
    """Print tokens per second, size by size."""
    install_blas(find_blas())
    cfg = MLXGRPOConfig(**Setting(8, tokens, shape=shape).config(folder))
    policy = load_policy(cfg)
    sampling = Sampling.of(cfg)
    prompt = tuple(json.loads((folder / "prompts.json").read_text())[0])
    model, tokenizer = load(str(folder / "model"))
    # `mlx_lm.generate` is a function that hides the module of that name.
    batch_generate = import_module("mlx_lm.generate").batch_generate
    sampler = make_sampler(temp=1.0)

    def ours(rows: int) -> int:
        keys = [sample_key(0, 1, 0, s) for s in range(rows)]
        [group] = generate_groups(policy, [prompt], rows, [keys], sampling, most_rows=rows)
        return sum(map(len, group.completions))

    def plain(rows: int) -> int:
        found = batch_generate(
            model,
            tokenizer,
            [list(prompt)] * rows,
            max_tokens=tokens,
            sampler=sampler,
            return_token_ids=True,
            completion_batch_size=rows,
            prefill_batch_size=rows,
        )
        return sum(map(len, found.token_ids))

    for rows in sizes:
        mx.reset_peak_memory()
        turns = [(seconds(lambda: ours(rows)), seconds(lambda: plain(rows)))  # noqa: B023
                 for _ in range(ROUNDS + 1)][1:]  # fmt: skip
        rates = [[count / s for s, count in each] for each in zip(*turns, strict=True)]
        figures = {
            "rows": rows,
            "tokens": tokens,
            "ours_tokens_per_s": statistics.median(rates[0]),
            "mlx_lm_tokens_per_s": statistics.median(rates[1]),
            "times_as_fast": statistics.median(a / b for a, b in zip(*rates, strict=True)),
            "peak_bytes": mx.get_peak_memory(),
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), list(map(int, sys.argv[4:])))
