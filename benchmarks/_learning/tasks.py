"""What is to be learnt, to what score, and by which settings.

Both tasks are `configs/tiny.toml`: the embedded model, adapters, four prompts an update. The first
is that of the demo. The second asks for sums of three digits, of a model that forgets the carry
nearly always, and rewards the right answer only: most groups are flat at first.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from benchmarks._learning import three_digits
from grpo_core.config import format_value

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "tiny.toml"
BATCH_SIZE = 4  # of that file

# Among a contender's fields: what the task's rate is multiplied by.
RATE = "rate"

# A fifth of the demo's rate, by which four updates would do; it stays as it is, so that it does not
# depend on how long a run may be. Nothing is saved.
COMMON: dict[str, Any] = {
    "learning_rate": 2e-4,
    "lr_scheduler_type": "constant",
    "max_train_samples": 0,
    "num_epochs": 20,
    "save_steps": 0,
    "save_every_s": 0.0,
    "save_best": False,
    "log_completions": 0,
}


@dataclass(frozen=True)
class Task:
    """Rows and rewards, the held-out scores that count, and how long a run may try.

    `scores` ascend, and a run ends with the last one. `every`: prompts learnt from between two
    evaluations, the same for large updates and small ones, as many looks find a lucky one sooner.
    `budget_s`: the processor's seconds of training after which a run ends as one that has not
    reached the score. `rows`: by split, where they are not built in; then the model is
    `three_digits`'.
    """

    name: str
    fields: Mapping[str, Any]
    scores: tuple[float, ...]
    every: int
    budget_s: float
    rows: Callable[[], dict[str, list[dict[str, str]]]] | None = None

    @property
    def last(self) -> float:
        """The score with which a run ends."""
        return self.scores[-1]

    def updates_between(self, batch_size: int = BATCH_SIZE) -> int:
        """Updates between two evaluations, where one learns from so many prompts."""
        return max(1, self.every // batch_size)

    def config(self, folder: Path, more: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of one run beside those of the configuration file."""
        every = self.updates_between(more.get("batch_size", BATCH_SIZE))
        made = COMMON | {"eval_steps": every} | dict(self.fields)
        made["learning_rate"] *= more.get(RATE, 1)
        if self.rows is not None:
            files = {"dataset": "train.jsonl", "eval_dataset": "test.jsonl"}
            made |= {name: str(folder / file) for name, file in files.items()}
            made["model_name"] = str(three_digits_model())
        fields = {name: value for name, value in more.items() if name != RATE}
        return made | {"output_dir": str(folder / "run")} | fields

    def make(self, folder: Path) -> None:
        """Write its rows, and make its model where it has one of its own."""
        if self.rows is None:
            return
        for split, rows in self.rows().items():
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")

    def prepare(self) -> None:
        """Make its model, once on this machine."""
        folder = three_digits_model()
        if self.rows is not None and not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            argv = [sys.executable, "-m", "benchmarks._learning.three_digits", folder]
            subprocess.run(argv, check=True, cwd=ROOT)


def three_digits_model() -> Path:
    """Where the model of the harder task is kept, by the text of what makes it."""
    made_by = Path(three_digits.__file__).read_bytes()
    name = f"three-digits-{hashlib.sha256(made_by).hexdigest()[:12]}"
    return Path(platformdirs.user_cache_dir("grpo-sweep")) / "benchmarks" / name


TASKS = (
    Task("two digits", {}, scores=(0.6, 0.7), every=16, budget_s=30.0),
    Task(
        "three digits",
        # Few rows, so that they come again within a run; by the demo's rate.
        {"rewards": ["correctness"], "learning_rate": 1e-3, "max_train_samples": 64},
        # The rise, and where it flattens.
        scores=(0.4, 0.5),
        every=32,
        budget_s=60.0,
        rows=three_digits.rows,
    ),
)

PLAIN, BEST = "plain", "these, 8 to 4 as well"
REFILL = {"zero_variance": "refill"}
PASS_OVER = {"flat_prompt_chance": 0.5}
TWICE = {"steps_per_generation": 4, "num_iterations": 2}
# As many updates from a rollout as it has prompts; what it draws decodes together.
SMALL = {"steps_per_generation": 16, "batch_size": 1}
PAIRS = {"steps_per_generation": 8, "batch_size": 2, "num_iterations": 2}
HALF = {"num_train_generations": 4}
SAMPLED = {"old_logprobs": "sampled"}
CONTENDERS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "twice the rate": {RATE: 2},
    "refill": REFILL,
    "flat prompts passed over": PASS_OVER,
    "early groups of 4": {"early_group_size": 4},
    "down-sampling, 16 to 8": {"num_generations": 16, "num_train_generations": 8},
    "down-sampling, 8 to 4": HALF,
    "4 minibatches a rollout": {"steps_per_generation": 4},
    "4 minibatches, each twice": TWICE,
    "a prompt an update": {"batch_size": 1},
    "16 minibatches of a prompt": SMALL,
    "these, sampler's log-probs": SMALL | SAMPLED,
    BEST: SMALL | SAMPLED | HALF,
    "8 minibatches of two, twice, 8 to 4": PAIRS | SAMPLED | HALF,
    "all together": SMALL | SAMPLED | HALF | PASS_OVER | REFILL | {"resample_rounds": 1},
}


def overrides(fields: Mapping[str, Any]) -> list[str]:
    """Fields as `--set` takes them."""
    return [f"{name}={format_value(value)}" for name, value in fields.items()]
