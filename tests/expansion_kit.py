"""Specs over a small base config, expanded."""

from pathlib import Path

from orchestrator.plan.expand import expand
from orchestrator.spec.reader import read_spec

# Two iterations: with one there is no clip, and a sweep over its width is refused.
BASE = "num_generations = 4\nnum_iterations = 2\nlearning_rate = 2e-5\nseed = 5\n"
SEARCH = """
[search]
method = "{method}"
runs = {runs}
seed = 7
[params]
learning_rate = {{ dist = "loguniform", min = 1e-6, max = 1e-4 }}
num_generations = [4, 8]
clip_eps_high = {{ dist = "uniform", min = 0.2, max = 0.35, when = "loss_type == 'dapo'" }}
loss_type = ["grpo", "dapo"]
[[require]]
that = "num_generations == 4 or learning_rate < 2e-5"
"""


def expansion(text):
    """The expansion of a spec over base.toml, both in the working folder."""
    Path("s.toml").write_text(f'config = "base.toml"\n{text}')
    return expand(read_spec(Path("s.toml")))


def runs(text, name="s"):
    """Its runs, in a sweep of that name."""
    return expansion(text).plan(name, "/work").runs


def names(text):
    """Their names."""
    return [run.name for run in runs(text)]
