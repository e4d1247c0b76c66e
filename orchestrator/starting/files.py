"""The files that `init` writes: a sweep, its base config, a reward to change, and rows to try.

Nothing is overwritten. What is written is checked as a submit checks it, before it is said to be
there.
"""

import json
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from grpo_core.config import format_value
from orchestrator.errors import UsageError
from orchestrator.names import safe_name, sweep_name_fault
from orchestrator.system.paths import shipped

SPEC, BASE, REWARD, ROWS = "sweep.toml", "base.toml", "reward.py", "rows.jsonl"
# A model that comes with the program, and the config whose settings suit it.
BUILTIN = {"builtin/tiny": "tiny", "builtin/smollm2": "real"}
DEFAULT_MODEL = "builtin/tiny"
REWARDS = ("number", "format", "own")
_ROWS_WRITTEN = 48


@dataclass(frozen=True)
class Answers:
    """What was asked: the model, the rows (None: ours, to try), their columns, and the reward."""

    model: str
    rows: Path | None
    prompt_key: str
    answer_key: str
    reward: str

    def __post_init__(self) -> None:
        if self.reward not in REWARDS:
            raise UsageError(f"{self.reward}: no such reward; choose from {', '.join(REWARDS)}")


def texts(answers: Answers, folder: Path) -> dict[str, str]:
    """Name -> text of every file that belongs into `folder`."""
    config = BUILTIN.get(answers.model, "ultra_light")
    found = {
        SPEC: _spec(answers, folder),
        BASE: shipped(f"configs/{config}.toml").read_text(encoding="utf-8"),
        REWARD: _REWARD,
    }
    if answers.rows is None:
        found[ROWS] = _rows()
    return found


def write(files: Mapping[str, str], folder: Path) -> None:
    """Write them, or nothing: UsageError where one is there already."""
    there = [name for name in files if os.path.lexists(folder / name)]
    if there:
        raise UsageError(f"{folder / there[0]}: is there already; name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            with open(folder / name, "x", encoding="utf-8") as file:
                file.write(text)
    except OSError as e:
        raise UsageError(f"{e.filename or folder}: cannot be written: {e.strerror}") from None


def _spec(answers: Answers, folder: Path) -> str:
    rows = ROWS
    if answers.rows is not None:
        rows = os.path.relpath(answers.rows.resolve(), folder.resolve())
    small = answers.model == DEFAULT_MODEL
    name = safe_name(folder.resolve().name).lstrip(".-")
    rates = "[3e-4, 1e-3, 3e-3]" if small else "[1e-5, 3e-5, 1e-4]"
    values = {
        "name": format_value([name if name and not sweep_name_fault(name) else "mine"])[1:-1],
        "model": json.dumps(answers.model, ensure_ascii=False),
        "rows": json.dumps(rows, ensure_ascii=False),
        "prompt": json.dumps(answers.prompt_key, ensure_ascii=False),
        "answer": json.dumps(answers.answer_key, ensure_ascii=False),
        "reward": json.dumps(f"{REWARD}:{answers.reward}"),
        "rates": rates,
    }
    text = _SPEC
    for key, value in values.items():
        text = text.replace(f"<{key}>", value)
    return text


def _rows() -> str:
    """Sums of two numbers below a hundred, the same at every call."""
    draw = random.Random(0)
    pairs = [(draw.randint(10, 99), draw.randint(10, 99)) for _ in range(_ROWS_WRITTEN)]
    rows = ({"question": f"What is {a} + {b}?", "answer": str(a + b)} for a, b in pairs)
    return "".join(json.dumps(row) + "\n" for row in rows)


_SPEC = """\
# A sweep: every setting below, each with every seed. Submit it from this folder:
#   grpo-sweep submit sweep.toml --dry-run     what it would train
#   grpo-sweep submit sweep.toml --start       queue it, and train in the background
name   = <name>
config = "base.toml"
seeds  = [0, 1]

[set]
model_name = <model>
dataset    = <rows>
prompt_key = <prompt>
answer_key = <answer>
# Each line of reward.py that begins with `def` can stand here; their sum counts.
rewards    = [<reward>]

# A list is an axis: three learning rates and two group sizes are six settings.
[params]
learning_rate   = <rates>
num_generations = [4, 8]
"""

_REWARD = '''\
"""Rewards of this sweep: three to begin with; sweep.toml names the one that counts.

Each gets all completions of one prompt and gives a number for each, higher is better. `answers`
holds the reference answer once for each completion; other columns of the rows come by their names.
A group in which all get the same teaches nothing: let a better try get a little more.
"""

import re


def number(completions, answers, **columns):
    """1 for the right number, a part of it for a number that is near; the last number counts."""
    scores = []
    for text, right in zip(completions, answers):
        found = re.findall(r"-?\\d+(?:\\.\\d+)?", text.replace(",", ""))
        if not found:
            scores.append(-0.5)
            continue
        miss = abs(float(found[-1]) - float(right))
        scores.append(1.0 if miss == 0 else 0.5 / (1.0 + miss))
    return scores


def format(completions, **columns):
    """Up to 1 for the form: each tag once, the answer last."""
    tags = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
    scores = []
    for text in completions:
        score = sum(0.2 for tag in tags if text.count(tag) == 1)
        scores.append(score + (0.2 if text.rstrip().endswith("</answer>") else 0.0))
    return scores


def own(completions, answers, **columns):
    """Yours: here 1 where the reference answer stands in the text, less a little for its length.

    Run tests, call a parser, count words: it runs in a process of its own. None leaves one out.
    """
    scores = []
    for text, right in zip(completions, answers):
        score = 1.0 if right.strip().lower() in text.lower() else 0.0
        scores.append(score - len(text) / 10_000)
    return scores
'''
