"""Trains by mlx-lm-lora's GRPO in the peer's own virtual environment, and leaves its adapters.

    PEER_PYTHON peer_mlx_lm_lora.py FOLDER SEED EVERY

FOLDER/work.json says what is trained on and how. It is given what is best for it: no reference
model (beta 0), no filters in sampling, no validation, no saving of its own. Lines of JSON go out:
completions, whose rewards come back on stdin, and after EVERY updates a folder with the adapters
and what training had taken; then a line on stdin lets it go on. Imports nothing of ours.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm import load
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm_lora.trainer.grpo_trainer import GRPOTrainingArgs, train_grpo

ENDLESS = 100_000


def ask(what):
    """Say it, and wait for the answer."""
    print("\n" + json.dumps(what), flush=True)
    return json.loads(sys.stdin.readline())


class Report(TrainingCallback):
    """Counts what training takes, waits left out, and leaves the adapters now and then."""

    def __init__(self, model, folder, parameters, every):
        self.model, self.folder = model, folder
        self.parameters, self.every = parameters, every
        self.cpu_s = self.wall_s = 0.0
        self.tokens = 0

    def go(self):
        """From here on it counts."""
        self.began = time.process_time(), time.monotonic()

    def halt(self):
        """Up to here it counted."""
        self.cpu_s += time.process_time() - self.began[0]
        self.wall_s += time.monotonic() - self.began[1]

    def rewards(self, completions, answer):
        """What our rewards say."""
        self.halt()
        known = ask({"completions": completions, "answers": answer})
        self.go()
        return known

    def on_train_loss_report(self, train_info):
        self.halt()
        self.tokens = train_info["trained_tokens"]
        if train_info["iteration"] % self.every == 0:
            self.leave(train_info["iteration"])
        self.go()

    def leave(self, update):
        """Adapters as mlx-lm keeps them."""
        folder = self.folder / f"adapters-{update}"
        folder.mkdir()
        weights = dict(tree_flatten(self.model.trainable_parameters()))
        mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
        shape = {
            "fine_tune_type": "lora",
            "num_layers": len(self.model.layers),
            "lora_parameters": self.parameters,
        }
        (folder / "adapter_config.json").write_text(json.dumps(shape))
        figures = {"cpu_s": self.cpu_s, "wall_s": self.wall_s, "tokens": self.tokens}
        ask({"adapters": str(folder), "update": update, **figures})


def main(folder, seed, every):
    """Train until nobody lets it go on."""
    work = json.loads((folder / "work.json").read_text())
    mx.random.seed(seed)
    np.random.seed(seed)
    model, tokenizer = load(work["model"])
    model.freeze()
    parameters = {"rank": work["rank"], "scale": work["scale"], "dropout": 0.0}
    linear_to_lora_layers(model, len(model.layers), parameters)
    report = Report(model, folder, parameters, every)

    def rewards(prompts, completions, answer, types=None):
        """What our rewards say; a function, as its name is asked for."""
        return report.rewards(completions, answer)

    report.leave(0)
    report.go()
    train_grpo(
        model=model,
        ref_model=None,
        tokenizer=tokenizer,
        optimizer=optim.Adam(learning_rate=work["learning_rate"], bias_correction=True),
        train_dataset=[(ids, [0], text, answer) for ids, text, answer in work["rows"]],
        reward_funcs=[rewards],
        args=GRPOTrainingArgs(
            batch_size=work["prompts"],
            iters=ENDLESS,
            steps_per_report=1,
            steps_per_save=ENDLESS + 1,
            adapter_file=str(Path(tempfile.mkdtemp(dir=folder)) / "weights.safetensors"),
            max_completion_length=work["tokens"],
            beta=0.0,
            epsilon=work["clip_eps"],
            group_size=work["group"],
            temperature=work["temperature"],
            top_p=1.0,
            top_k=0,
            min_p=0.0,
            grpo_loss_type="bnpo",
        ),
        training_callback=report,
        end_answer_token="",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
