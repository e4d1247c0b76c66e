"""A whole run once more in numpy: the same log and the same weights after every update.

The run is a real one, with a real reward plug-in that also writes down what was sampled. From
those tokens, the oracle works out rewards' advantages, the loss, its gradient (finite differences
by each of 192 adapter weights), the clip, AdamW and the learning rate, all in float64.
"""

import json
import subprocess
import sys
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np
import pytest
from tokenizers import Tokenizer

from grpo_core.config import resolve_config
from grpo_core.model.policy import load_policy
from grpo_core.model.tiny import model_path
from tests import oracle
from tests.oracle_model import Shape, finish, of_tokens, start

ROWS, GROUP, LIMIT, BUFFER = 3, 3, 18, 4
TEMPERATURE = 1.3
SHAPE = Shape(layers=2, heads=4, kv_heads=4, lora_scale=3.0)
ADAPTER = "model.layers.1.mlp.down_proj"
SETTINGS = {
    "model_name": "builtin/tiny",
    "dataset": "builtin/arithmetic",
    "output_dir": "out",
    "system_prompt": "",
    "assistant_prefix": "",
    "train_type": "lora",
    "lora_rank": 1,
    "lora_scale": 3.0,
    "lora_layers": 1,
    "lora_keys": ["mlp.down_proj"],
    "quantize_for_rollouts": False,
    "rewards": ["spy.py:spy"],
    "reward_weights": [0.5],
    "overlong_buffer": BUFFER,
    "overlong_penalty": 0.7,
    "loss_type": "grpo",
    "clip_eps": 0.02,
    "kl_coeff": 0.3,
    "num_iterations": 2,
    "num_generations": GROUP,
    "zero_variance": "keep",
    "max_train_samples": ROWS,
    "max_new_tokens": LIMIT,
    "temperature": TEMPERATURE,
    # Two prompts an update, and one in the short last update of the epoch.
    "batch_size": 1,
    "gradient_accumulation_steps": 2,
    "num_epochs": 2,
    "lr_scheduler_type": "linear",
    "learning_rate": 0.5,
    "warmup_ratio": 0.3,
    "max_grad_norm": 0.02,
    "adam_beta1": 0.8,
    "adam_beta2": 0.9,
    # So large that a gradient of nearly 0 does not become a step by its sign.
    "adam_eps": 0.01,
    "weight_decay": 0.1,
    "eval_steps": 0,
    "eval_every_updates": 0,
    "save_steps": 1,
    "save_total_limit": 0,
    "micro_batch_size": 2,
    "seed": 3,
}
UPDATES = 8  # 2 epochs, 2 batches of rollouts in each, each used twice
WARMUP = 3  # 0.3 of 8, upwards

SPY = """
import json

def spy(completions, completion_ids, question, **_):
    rewards = [float(sum(ids) % 7) for ids in completion_ids]
    with open("draws.jsonl", "a") as file:
        line = {"question": question[0], "ids": completion_ids, "rewards": rewards}
        file.write(json.dumps(line) + chr(10))
    return rewards
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "spy.py").write_text(SPY)
    lines = [f"{name} = {json.dumps(value)}" for name, value in SETTINGS.items()]
    (folder / "run.toml").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-P", "-m", "grpo_core", "--config", "run.toml", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


def log_of(folder):
    lines = (folder / "out" / "training_log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def draws_of(folder):
    """One for each prompt, in the order of the rewards' calls."""
    return [json.loads(line) for line in (folder / "draws.jsonl").read_text().splitlines()]


def adapters_after(folder, update):
    """The two weights that are trained, in float64."""
    saved = mx.load(str(folder / "out" / f"checkpoint-{update}" / "adapters.safetensors"))
    return {name: np.array(value, np.float64) for name, value in saved.items()}


@dataclass
class Drawn:
    """A completion and what it earned."""

    ids: list[int]
    advantage: float
    before: tuple[np.ndarray, np.ndarray]
    """What the model has made of it ahead of the adapted layer, where its tokens are predicted."""
    old: np.ndarray | None = None
    ref: np.ndarray | None = None


class Replay:
    """The run's arithmetic in float64; everything but the tokens drawn is worked out here."""

    def __init__(self, folder):
        self.tokenizer = Tokenizer.from_file(str(model_path() / "tokenizer.json"))
        base = mx.load(str(model_path() / "model.safetensors"))
        self.base = {name: np.array(value, np.float64) for name, value in base.items()}
        self.adapted = dict(self.base)
        self.adapted[f"{ADAPTER}.linear.weight"] = self.adapted.pop(f"{ADAPTER}.weight")
        first = load_policy(resolve_config(str(folder / "run.toml"), [])).trainable()
        self.adapters = {name: np.array(value, np.float64) for name, value in first.items()}
        self.m = {name: np.zeros_like(value) for name, value in self.adapters.items()}
        self.v = {name: np.zeros_like(value) for name, value in self.adapters.items()}
        self.options = oracle.Options(loss_type="grpo", clip_eps=0.02, kl_coeff=0.3, limit=LIMIT)
        self.steps = 0

    def stats(self, drawn, adapters):
        """Log-probs and entropies of a completion under the base with these adapters, or bare."""
        weights = self.base if adapters is None else {**self.adapted, **adapters}
        return of_tokens(finish(weights, SHAPE, *drawn.before), drawn.ids, TEMPERATURE)

    def draw(self, draws):
        """Samples of one batch of rollouts, as the policy is now."""
        rewards = np.array([draw["rewards"] for draw in draws]) * 0.5
        for p, draw in enumerate(draws):
            for s, ids in enumerate(draw["ids"]):
                rewards[p, s] += oracle.overlong_penalty(len(ids), LIMIT, BUFFER, 0.7)
        self.rewards, weights = rewards, oracle.advantages(rewards, "group")
        return [
            self.sample(draw["question"], ids, weights[p, s])
            for p, draw in enumerate(draws)
            for s, ids in enumerate(draw["ids"])
        ]

    def sample(self, question, ids, advantage):
        """A completion with the log-probs that stay as they are now."""
        text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        prompt = self.tokenizer.encode(text).ids
        before = start(self.base, SHAPE, prompt + ids[:-1])
        drawn = Drawn(ids, advantage, tuple(part[len(prompt) - 1 :] for part in before))
        old, ref = self.stats(drawn, self.adapters)[0], self.stats(drawn, None)[0]
        return replace(drawn, old=old, ref=ref)

    def completions(self, drawn, adapters):
        """What the oracle sees of them, with these adapters."""
        stats = [self.stats(d, adapters) for d in drawn]
        return [
            oracle.Completion(logps, d.advantage, old=d.old, ref=d.ref, entropies=entropies)
            for d, (logps, entropies) in zip(drawn, stats, strict=True)
        ]

    def update(self, drawn, lr):
        """One step; the figures that the log should have."""
        here = self.completions(drawn, self.adapters)
        figures = oracle.statistics(here, self.options)
        grads = {name: self.slopes(drawn, here, name) for name in self.adapters}
        norm = np.sqrt(sum((grad**2).sum() for grad in grads.values()))
        self.steps += 1
        for name, grad in grads.items():
            self.adam(name, grad * min(1, 0.02 / norm), lr)
        return {**figures, "grad_norm": norm, "lr": lr}

    def slopes(self, drawn, here, name, step=1e-5):
        """d loss / d weight for every element of an adapter's array."""
        found = np.zeros_like(self.adapters[name])
        for index in np.ndindex(found.shape):
            ends = []
            for sign in (1, -1):
                moved = self.adapters[name].copy()
                moved[index] += sign * step
                there = self.completions(drawn, {**self.adapters, name: moved})
                batch = [replace(c, moved=t.logps) for c, t in zip(here, there, strict=True)]
                ends.append(oracle.loss(batch, self.options))
            found[index] = (ends[0] - ends[1]) / (2 * step)
        return found

    def adam(self, name, grad, lr):
        """Kingma and Ba 2015, algorithm 1, with decoupled decay (Loshchilov and Hutter 2019)."""
        self.m[name] = 0.8 * self.m[name] + 0.2 * grad
        self.v[name] = 0.9 * self.v[name] + 0.1 * grad**2
        m, v = self.m[name] / (1 - 0.8**self.steps), self.v[name] / (1 - 0.9**self.steps)
        decayed = self.adapters[name] * (1 - lr * 0.1)
        self.adapters[name] = decayed - lr * m / (np.sqrt(v) + 0.01)


def rate(update):
    """Linear: to the peak with update 3, then down to 0 one update after the last."""
    if update <= WARMUP:
        return 0.5 * update / WARMUP
    return 0.5 * (UPDATES + 1 - update) / (UPDATES + 1 - WARMUP)


def test_each_epoch_takes_every_row_once_and_in_another_order(run):
    """Two prompts, then one; the next epoch has the same rows in an order of its own."""
    questions = [draw["question"] for draw in draws_of(run)]
    first, second = questions[:ROWS], questions[ROWS:]
    assert len(set(first)) == ROWS
    assert sorted(first) == sorted(second)
    assert first != second


def test_log_and_weights_are_those_of_the_same_run_in_numpy(run):
    """Update by update: what is logged, and the adapters in each checkpoint.

    A gradient that is good to 1e-5 of its norm (0.02, the clip) moves a weight by at most lr / eps
    (50) times as much, which makes 1e-5 in each update; a step is a hundred to a thousand times it.
    """
    draws, log, replay = draws_of(run), log_of(run), Replay(run)
    assert [line["update"] for line in log] == list(range(1, UPDATES + 1))
    batches = [draws[0:2], draws[2:3], draws[3:5], draws[5:6]]
    for update, line in enumerate(log, start=1):
        if update % 2:
            drawn = replay.draw(batches[update // 2])
        figures = replay.update(drawn, rate(update))
        figures["reward_mean"] = replay.rewards.mean()
        figures.pop("ratio")
        logged = {name: line[name] for name in figures}
        assert logged == pytest.approx(figures, rel=1e-4, abs=1e-5), update
        for name, value in adapters_after(run, update).items():
            expected = replay.adapters[name]
            np.testing.assert_allclose(value, expected, atol=1e-5 * update, err_msg=str(update))


def test_options_of_the_run_take_part(run):
    """The settings above are felt: the clip of gradient and ratio, KL, penalty, a short batch."""
    log = log_of(run)
    assert min(line["grad_norm"] for line in log) < 0.02 < max(line["grad_norm"] for line in log)
    assert any(line["clip_frac"] > 0 for line in log)
    assert all(line["kl"] > 0 for line in log[1:])
    lengths = [len(ids) for draw in draws_of(run) for ids in draw["ids"]]
    assert min(lengths) < LIMIT == max(lengths)
    assert any(LIMIT - BUFFER < length < LIMIT for length in lengths)
    assert [line["batch_step"] for line in log] == [2, 4, 5, 6, 8, 10, 11, 12]
