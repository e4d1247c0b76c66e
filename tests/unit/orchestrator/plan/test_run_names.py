"""Names of runs and their folders: by what differs, by template, and never leading elsewhere."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.config import MLXGRPOConfig
from orchestrator.names import name_fault, safe_name
from orchestrator.plan.run_names import fill
from orchestrator.text import short_number
from tests.expansion_kit import SEARCH, names, runs


@given(st.text())
def test_no_text_makes_a_name_that_leads_elsewhere(text):
    """Separators, dots and control characters of a value never reach the path."""
    config = MLXGRPOConfig(model_name=text)
    name = fill("m{model_name}", config)
    assert name_fault(name) == ""
    assert os.path.basename(name) == name
    assert "/" not in safe_name(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[params]\nlearning_rate = [1e-5, 0.0003]\n", ["lr1e-5", "lr3e-4"]),
        ("[params]\nlearning_rate = [1e-5]\nbatch_size = [1, 2]\n", ["bs1", "bs2"]),
        ("[params]\nlearning_rate = [1e-5]\n", ["lr1e-5"]),
        ("seeds = [0, 1]\n", ["s0", "s1"]),
        ("[set]\nbatch_size = 2\n", ["run"]),
        ("[params]\nbatch_size = [1, 2]\n[[run]]\nkl_coeff = 0.1\n",
         ["kl0.1", "bs1", "bs2"]),
        ('[params]\nlearning_rate = [2e-5, 1e-4]\n[[run]]\nrewards = ["int"]\n',
         ["rewards=int", "lr2e-5", "lr1e-4"]),
        ("[params]\nbatch_size = [1, 2]\n[[run]]\ntags = ['baseline']\n[set]\nkl_coeff = 0.1\n"
         "[[run]]\nkl_coeff = 0.0\n", ["base", "kl0", "bs2"]),
        ("seeds = [0, 1]\n[params]\nbatch_size = [1, 2]\n[[run]]\nkl_coeff = 0.1\n",
         ["kl0.1-s0", "bs1-s0", "bs2-s0", "kl0.1-s1", "bs1-s1", "bs2-s1"]),
        ('[params]\nloss_type = ["grpo", "dapo"]\n', ["loss_type=grpo", "loss_type=dapo"]),
        ('[params]\nmodel_name = ["Qwen/a b", "x/a/b"]\n', ["model_name=a-b", "model_name=b"]),
        ('[params]\nmodel_name = ["x/a", "y/A"]\n', ["model_name=a", "model_name=A-2"]),
        ("[params]\nlora_layers = [-1, 1]\n", ["lora_layers=-1", "lora_layers=1"]),
        ("[params]\nuse_compile = [true, false]\n", ["use_compile=true", "use_compile=false"]),
        ('[params]\nrewards = [["int"], ["int", "correctness"]]\n',
         ["rewards=int", "rewards=int+correctness"]),
        ("[params]\nchat_template_kwargs = [{short = true}, {short = false, a = 1}]\n",
         ["short=true", "short=false+a=1"]),
    ],
)  # fmt: skip
def test_a_run_is_named_by_what_differs(folder, text, expected):
    """Short, readable, safe in a path, and unique even where case does not count."""
    assert names(text) == expected


def test_long_values_make_short_names(folder):
    """A prompt does not become a file name of a kilobyte."""
    long = [f'"{c * 3000}"' for c in "äb"] + [f'"{"b" * 3001}"']
    found = names(f"[params]\nsystem_prompt = [{', '.join(long)}]\n")
    assert len(set(found)) == 3
    assert all(len(name.encode()) < 100 for name in found)


def test_a_long_name_keeps_its_ends(folder):
    """Of a value the beginning and the end, of a name whole parts: no figure is cut in two."""
    rewards = [f'"{kind}.py:judge_{kind}"' for kind in ("correctness", "second")]
    wanted = ["rewards=correctne..rrectness", "rewards=second.py..ge_second"]
    assert names(f"[params]\nrewards = [[{rewards[0]}], [{rewards[1]}]]\n") == wanted
    many = {
        "learning_rate": [1e-05, 0.0001],
        "num_generations": [4, 8],
        "temperature": [0.7, 1.0],
        "kl_coeff": [0.01, 0.04],
        "warmup_ratio": [0.1, 0.2],
        "lora_rank": [8, 16],
    }
    rows = "".join(f"{key} = {values}\n" for key, values in many.items())
    found = names(f"seeds = [0, 1]\n[[zip]]\n{rows}")
    assert found[:2] == ["lr1e-5-g4-t0.7..r8-s0", "lr1e-4-g8-t1..r16-s0"]
    assert all(len(name) <= 32 for name in found)


def test_templates_make_names_and_folders(folder):
    """The design's own example, and values that would lead elsewhere."""
    text = (
        'run_name = "lr{learning_rate:.0e}-g{num_generations}-{model_name}"\n'
        'output = "o/{sweep}/seed{seed:03d}/{run}"\n'
        '[set]\nmodel_name = "../../x/y"\n[params]\nlearning_rate = [1e-5]\n'
    )
    run = runs(text, name="other")[0]
    assert run.name == "lr1e-05-g4-..-..-x-y"
    assert run.output_dir == "o/other/seed005/lr1e-05-g4-..-..-x-y"


def test_an_output_folder_may_lie_on_another_disk(folder, monkeypatch):
    """Absolute paths and the home folder are the user's to choose."""
    monkeypatch.setenv("HOME", "/home/me")
    assert runs('output = "/Volumes/My Disk/{run}"\n')[0].output_dir == "/Volumes/My Disk/run"
    assert runs('output = "~/runs/{run}/"\n')[0].output_dir == "/home/me/runs/run"


def test_a_draw_is_named_by_what_it_has_drawn_to_three_digits(folder):
    """Six digits, and parameters that do not count, would only make names long."""
    for run in runs(SEARCH.format(method="sobol", runs=8)):
        short = short_number(float(f"{run.overrides['learning_rate']:.3g}"))
        assert run.name.startswith(f"lr{short}-g")
        assert run.name.endswith(f"loss_type={run.overrides['loss_type']}")
        # What it sets is too much for a name; what does not count is not in it.
        assert (".." in run.name) == ("clip_eps_high" in run.overrides)
