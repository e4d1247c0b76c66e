"""Mutated specs: each is read or refused with messages of ours, and a refused one queues nothing.

A few hundred by default; ten thousand with -m slow.
"""

import copy
import itertools
import random
from pathlib import Path

import pytest
import tomli

from grpo_core.config import format_value
from orchestrator.cli import main
from orchestrator.errors import SpecError
from orchestrator.plan.expand import expand
from orchestrator.spec.reader import parse_spec
from orchestrator.system.paths import home

ROOT = Path(__file__).resolve().parents[4]
DESIGN = """
name = "all-of-it"
config = "configs/tiny.toml"
output = "outputs/{sweep}/{run}"
run_name = "lr{learning_rate:.0e}-g{num_generations}-s{seed}"
seeds = [0, 1]
[set]
max_train_samples = 200
[params]
learning_rate = [1e-6, 5e-6, 1e-5]
num_generations = [4, 8]
kl_coeff = { dist = "uniform", min = 0.0, max = 0.1 }
clip_eps_high = { dist = "uniform", min = 0.2, max = 0.35, when = "loss_type == 'dapo'" }
[[zip]]
lora_rank = [4, 8]
max_new_tokens = [16, 32]
[[run]]
learning_rate = 1e-5
tags = ["baseline"]
[derive]
lora_scale = "32 / lora_rank"
[[exclude]]
when = "num_generations == 8 and learning_rate > 5e-6"
[[require]]
that = "num_generations * batch_size <= 64"
[search]
method = "random"
runs = 12
seed = 7
[objective]
metric = "em"
goal = "max"
reduce = "last:3"
[stop]
rule = "median"
warmup = "30%"
health = ["nan", "frac_reward_zero_std == 1 for 20"]
[limits]
wall = "12h"
run_wall = "45m"
max_failures = 3
disk = "40GB"
[retry]
max = 2
on = ["crash", "lost"]
[keep]
checkpoints = "best+last"
"""
HOSTILE_TEXTS = [
    "", " ", "..", "../up", "/etc/passwd", "a/b", "-rf", ".hidden", "a\nb", "a\0b", "\x1b[2J",
    "é" * 90, "{", "{}", "{0}", "{seed!r}", "{seed.__class__}", "{learning_rate:99999999d}",
    "con", "x" * 400,
    "__import__('os').system('true')", "9 ** 9 ** 9", "lora_rank + ", "(" * 500, "1 / 0", "seed",
    "lora_scale", "lambda: 1", "learning_rate[0]", "'a' * 10 ** 9", "nan", "1e999", "True",
    "\ud7ff", "kl > nan for 3", "em == 1 for 0", "last:0", "0h", "40", "100%", "3-7", "gpso",
    "learning_rat",
]  # fmt: skip
HOSTILE_VALUES = [
    *HOSTILE_TEXTS, 0, -1, 1, 10**18, -(10**18), 0.0, 1e308, -1e-300, float("inf"), float("nan"),
    True, False, [], {}, [[]], [{}], {"dist": "uniform"}, {"dist": "choice", "values": []},
    {"dist": "normal", "mean": 0, "sd": 0}, {"dist": "loguniform", "min": 0, "max": 1},
    {"dist": "int", "min": 1, "max": 10**18}, list(range(300)), ["a", 1, [2]],
    {"when": "lora_scale > 0"}, {"dist": "uniform", "min": 0, "max": 1, "when": "kl_coeff > 0"},
]  # fmt: skip
KEYS = [
    "seed", "seeds", "output_dir", "run_name", "learning_rate", "learning_rat", "lora_scale",
    "lora_rank", "kl_coeff", "dist", "when", "that", "min", "max", "values", "runs", "method",
    "tags", "log_jsonl", "dry_run", "extra", "__class__", "a b", "é", "", "set", "params",
    "batch_size",
]  # fmt: skip


def documents():
    """The documents that are mutated: everything at once, and what we ship."""
    paths = sorted((ROOT / "sweeps").glob("*.toml"))
    shipped = [tomli.loads(path.read_text()) for path in paths]
    for document in shipped:
        document["config"] = "configs/" + Path(document["config"]).name
    return [tomli.loads(DESIGN), *shipped]


def places(value, found):
    """Every table and list within a document."""
    if isinstance(value, dict | list):
        found.append(value)
        for item in value.values() if isinstance(value, dict) else value:
            places(item, found)
    return found


def mutate(draw, document):
    """One to four changes, each at a place drawn from the document."""
    for _ in range(draw.choice([1, 1, 2, 4])):
        place = draw.choice(places(document, []))
        if isinstance(place, list):
            _mutate_list(draw, place)
        else:
            _mutate_table(draw, place)
    if draw.random() < 0.1:
        a, b = draw.sample(["lora_rank", "lora_scale", "kl_coeff", "batch_size", "warmup_ratio"], 2)
        document["derive"] = {a: f"{b} + 1", b: f"{a} * 2"}
    return document


def _mutate_list(draw, place):
    how = draw.randrange(4)
    if how == 0 and place:
        place.pop(draw.randrange(len(place)))
    elif how == 1 and place:
        place.append(copy.deepcopy(draw.choice(place)))
    elif how == 2 and place:
        place[draw.randrange(len(place))] = copy.deepcopy(draw.choice(HOSTILE_VALUES))
    else:
        place.insert(0, copy.deepcopy(draw.choice(HOSTILE_VALUES)))


def _mutate_table(draw, place):
    key = draw.choice(sorted(place)) if place else draw.choice(KEYS)
    how = draw.randrange(5)
    if how == 0:
        place.pop(key, None)
    elif how == 1:
        place[draw.choice(KEYS)] = copy.deepcopy(place.get(key, 1))
    elif how == 2 and key:
        at = draw.randrange(len(key))
        place[key[:at] + draw.choice("xX_ .") + key[at + 1 :]] = place.pop(key, 1)
    else:
        place[key] = copy.deepcopy(draw.choice(HOSTILE_VALUES))


def as_toml(value):
    """A value as TOML, tables inline: the form in which any nesting can be written."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{quoted(k)} = {as_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return quoted(value) if isinstance(value, str) else format_value(value)


def quoted(text):
    """A basic string, what TOML does not take bare escaped."""
    return (
        '"' + "".join(c if c.isprintable() and c not in '"\\' else escaped(c) for c in text) + '"'
    )


def escaped(c):
    return f"\\u{ord(c):04x}"


def mutants(seed):
    """Endless mutated specs as text; some are broken as TOML too."""
    draw = random.Random(seed)
    originals = documents()
    while True:
        document = mutate(draw, copy.deepcopy(draw.choice(originals)))
        text = "".join(f"{quoted(key)} = {as_toml(value)}\n" for key, value in document.items())
        if draw.random() < 0.1:
            at = draw.randrange(len(text))
            text = text[:at] + draw.choice('"[]{}=\n,\\\x00') + text[at + draw.randrange(3) :]
        if draw.random() < 0.03:
            text += text[: text.index("\n") + 1]  # A key that stands twice.
        yield text


def check(text):
    """The number of runs, or None where the spec is refused; any other error escapes."""
    try:
        expansion = expand(parse_spec(text, Path("fuzzed.toml")))
        return len(expansion.plan("fuzzed", "/work").runs)
    except SpecError as e:
        assert e.exit_code == 2
        assert e.faults and all(fault.strip() for fault in e.faults)
        assert not any("Traceback" in fault for fault in e.faults)
        return None


def fuzz(count, seed, monkeypatch):
    """(specs that are refused, specs that still make runs)."""
    monkeypatch.chdir(ROOT)
    found = [check(text) for text in itertools.islice(mutants(seed), count)]
    return found.count(None), sum(runs is not None for runs in found)


def test_three_hundred_mutants_are_read_or_refused(monkeypatch):
    """No mutant escapes with another error; both outcomes happen."""
    refused, made = fuzz(300, 0, monkeypatch)
    assert refused > 100
    assert made > 20


@pytest.mark.slow
def test_ten_thousand_mutants_are_read_or_refused(monkeypatch):
    """The figure that the issue asks for."""
    refused, made = fuzz(10_000, 1, monkeypatch)
    print(f"{refused} refused, {made} made runs")
    assert refused + made == 10_000


def test_a_refused_mutant_exits_with_2_and_queues_nothing(monkeypatch, capfd):
    """Through the command itself: one message, no traceback, no database."""
    monkeypatch.chdir(ROOT)
    bad = [text for text in itertools.islice(mutants(2), 60) if check(text) is None]
    path = home().root.parent / "fuzzed.toml"
    for text in bad[:25]:
        path.write_text(text)
        assert main(["submit", str(path)]) == 2, text
        err = capfd.readouterr().err
        assert err.startswith("error: ")
        assert "Traceback" not in err
    assert not home().db.exists()
