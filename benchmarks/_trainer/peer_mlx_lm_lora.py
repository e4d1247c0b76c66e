"""Runs mlx-lm-lora's GRPO on the benchmark's work, in the peer's own virtual environment.

    PEER_PYTHON peer_mlx_lm_lora.py WORK_FOLDER GROUP TOKENS PROMPTS STEPS RANK

It is given what is best for it: no reference model (beta 0), top-k and top-p off, no validation, no
saving. RANK is that of the adapters, 0 where all weights are trained. A JSON line a step: seconds
as its own `iterations_per_second` report has them, the processor's seconds and MLX's peak since the
line before. Imports nothing of ours.
"""

import json
import sys
import tempfile
import time
import zlib
from pathlib import Path

import mlx.core as mx
import mlx.optimizers as optim
from mlx_lm import load
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm_lora.trainer.grpo_trainer import GRPOTrainingArgs, train_grpo


class Report(TrainingCallback):
    """Prints each step's figures."""

    def __init__(self):
        self.used = time.process_time()

    def on_train_loss_report(self, train_info):
        figures = {
            "total_s": 1 / train_info["iterations_per_second"],
            "cpu_s": time.process_time() - self.used,
            "mlx_peak_bytes": mx.get_peak_memory(),
            "reward_std": train_info["train_grouped_rewards_std"],
            "tokens": train_info["train_average_generated_tokens"],
        }
        print(json.dumps(figures), flush=True)
        mx.reset_peak_memory()
        self.used = time.process_time()


def checksum(prompts, completions, answer, types=None):
    """The same reward as ours gets."""
    return [zlib.crc32(text.encode()) % 997 / 996 for text in completions]


def main(folder, group, tokens, prompts, steps, rank):
    """Train so many steps."""
    model, tokenizer = load(str(folder / "model"))
    if rank:
        model.freeze()
        # The scale is our default.
        parameters = {"rank": rank, "scale": 2.0, "dropout": 0.0}
        linear_to_lora_layers(model, len(model.layers), parameters)
    ids = json.loads((folder / "prompts.json").read_text())
    args = GRPOTrainingArgs(
        batch_size=prompts,
        iters=steps,
        steps_per_report=1,
        steps_per_save=steps + 1,
        adapter_file=str(Path(tempfile.mkdtemp()) / "weights.safetensors"),
        max_completion_length=tokens,
        beta=0.0,
        epsilon=0.2,
        group_size=group,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        min_p=0.0,
    )
    train_grpo(
        model=model,
        ref_model=None,
        tokenizer=tokenizer,
        optimizer=optim.AdamW(learning_rate=1e-6),
        train_dataset=[(prompt, [0], "", "") for prompt in ids],
        reward_funcs=[checksum],
        args=args,
        training_callback=Report(),
        end_answer_token="",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
