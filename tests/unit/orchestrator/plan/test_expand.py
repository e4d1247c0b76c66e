"""Expansion: order, merging, what rules drop, and the exact --set lines of every run."""

import itertools
import json
import os
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_core.config import MLXGRPOConfig, apply_overrides, config_hash, format_override
from orchestrator.errors import SpecError
from orchestrator.names import name_fault
from orchestrator.plan import expand as expand_module
from orchestrator.plan.expand import MAX_RUNS, expand
from orchestrator.spec.reader import read_spec
from tests.expansion_kit import BASE, SEARCH, expansion, runs


def test_the_last_axis_is_fastest_and_seeds_are_outermost(folder):
    """Every setting runs once before any gets its second seed; explicit runs come first."""
    found = runs(
        "seeds = [1, 0]\n[params]\nlearning_rate = [1e-5, 1e-4]\nnum_generations = [2, 8]\n"
        "[[run]]\nkl_coeff = 0.5\n"
    )
    once = [
        {"kl_coeff": 0.5},
        {"learning_rate": 1e-5, "num_generations": 2},
        {"learning_rate": 1e-5, "num_generations": 8},
        {"learning_rate": 1e-4, "num_generations": 2},
        {"learning_rate": 1e-4, "num_generations": 8},
    ]
    assert [run.overrides for run in found] == once + once
    assert [run.seed for run in found] == [1] * 5 + [0] * 5


def test_a_run_says_everything_that_is_passed_in_order(folder):
    """[set] first, then the axes, then seed, run_name and output_dir, floats by repr."""
    run = runs("seeds = [3]\n[set]\nshuffle = false\n[params]\nlearning_rate = [0.000001]\n")[0]
    assert run.set == (
        "shuffle=false",
        "learning_rate=1e-06",
        "seed=3",
        "run_name=lr1e-6",
        "output_dir=outputs/s/lr1e-6",
    )
    assert run.overrides == {"shuffle": False, "learning_rate": 1e-6}
    assert run.output_dir == "outputs/s/lr1e-6"


def test_the_set_lines_bring_every_value_back(folder):
    """Applied to the base as the trainer does, they give the configuration that was checked."""
    found = runs(
        "[set]\nsystem_prompt = \" a = 'b'\\n\"\n"
        '[params]\nlearning_rate = [1e-7, 0.1]\nrewards = [["int"], ["int", "correctness"]]\n'
    )
    for run in found:
        base = MLXGRPOConfig(num_generations=4, num_iterations=2, learning_rate=2e-5, seed=5)
        config = apply_overrides(base, run.set, strict=True)
        assert {key: getattr(config, key) for key in run.overrides} == run.overrides
        assert config.system_prompt == " a = 'b'\n"
        assert config_hash(config) == run.hash


def test_without_seeds_the_seed_of_the_base_or_the_spec_counts(folder):
    """What the base says is known, but not passed; an axis over seed is passed."""
    assert [(r.seed, r.set[0]) for r in runs("[set]\nbatch_size = 2\n")] == [(5, "batch_size=2")]
    found = runs("[params]\nseed = [7, 8]\n")
    assert [(r.seed, r.set[0], r.name) for r in found] == [(7, "seed=7", "s7"), (8, "seed=8", "s8")]
    assert [r.overrides for r in found] == [{}, {}]


def test_equal_runs_are_merged_with_all_their_tags(folder):
    """Equal is what resolves to the same values, wherever they come from."""
    found = expansion(
        "[params]\nlearning_rate = [2e-5, 1e-4, 0.00002]\n"
        '[[run]]\ntags = ["base"]\n[[run]]\nlearning_rate = 2e-5\nnum_generations = 4\n'
        'tags = ["same"]\n'
    )
    assert found.merged == 3
    assert [(s.overrides, s.tags) for s in found.settings] == [
        ({}, ("base", "same")),
        ({"learning_rate": 1e-4}, ()),
    ]


def test_settings_that_differ_only_in_memory_fields_are_not_merged(folder):
    """Who sweeps micro_batch_size wants to see both, though they train the same."""
    assert len(runs("[params]\nmicro_batch_size = [1, 2]\n")) == 2


def test_a_grid_beyond_all_reason_is_refused_with_its_size(folder):
    """And at once, without building it."""
    axes = "".join(f"{key} = {list(range(1, 101))}\n" for key in ("batch_size", "num_epochs"))
    with pytest.raises(SpecError, match=r"params: makes 1,000,000 combinations; a sweep can"):
        expansion(f"[params]\n{axes}lora_rank = {list(range(1, 101))}\n")
    pairs = f"batch_size = {list(range(1, 202))}\nlora_rank = {list(range(1, 101))}\n"
    with pytest.raises(SpecError, match=r"params: makes 20,100 runs; a sweep can have 10,000"):
        expansion(f"[params]\n{pairs}")
    assert MAX_RUNS == 10_000


RANDOM = (
    '[search]\nmethod = "{}"\nruns = {}\n'
    '[params]\nlearning_rate = {{ dist = "loguniform", min = 1e-6, max = 1e-4 }}\n'
)
MANY = ", ".join(map(str, range(1, 20_001)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (RANDOM.format("random", 10**9), "search: makes 1,000,000,000 runs"),
        (RANDOM.format("sobol", 10**9), "search: makes 1,000,000,000 runs"),
        (RANDOM.format("tpe", 10**9), "search: makes 1,000,000,000 runs"),
        ("seeds = [0, 1]\n" + RANDOM.format("random", 6000), "search: makes 12,000 runs"),
        (f"seeds = [{MANY}]\n", "seeds: makes 20,000 runs"),
        (f"[params]\nbatch_size = [{MANY}]\n", "params.batch_size: makes 20,000 runs"),
        (f"[[zip]]\nbatch_size = [{MANY}]\n", r"zip\[0\].batch_size: makes 20,000 runs"),
        ("[[run]]\nbatch_size = 2\n" * 10_001, "run: makes 10,001 runs"),
    ],
    ids=["random", "sobol", "tpe", "with seeds", "seeds", "axis", "zip", "runs"],
)
def test_more_runs_than_a_sweep_can_have_are_refused_before_they_are_made(folder, text, said):
    """At once: a billion draws, or a look for equal ones among 200,000 seeds, take hours."""
    began = time.process_time()
    with pytest.raises(SpecError, match=f"{said}; a sweep can have 10,000"):
        expansion(text)
    assert time.process_time() - began < 20


def test_zip_rows_move_together_and_cross_with_the_axes(folder):
    """Rows before axes, in the order of the file; several zips cross with each other."""
    found = runs(
        "[[zip]]\nbatch_size = [1, 2]\ngradient_accumulation_steps = [8, 4]\n"
        "[[zip]]\nlora_rank = [4, 8]\n[params]\nkl_coeff = [0.0, 0.1]\n"
    )
    assert [tuple(run.overrides.values()) for run in found] == [
        (1, 8, 4, 0.0), (1, 8, 4, 0.1), (1, 8, 8, 0.0), (1, 8, 8, 0.1),
        (2, 4, 4, 0.0), (2, 4, 4, 0.1), (2, 4, 8, 0.0), (2, 4, 8, 0.1),
    ]  # fmt: skip


def test_what_is_derived_is_computed_for_every_run(folder):
    """From the base, [set], axes and explicit runs alike, also from another derived value."""
    found = runs(
        "[set]\nlora_dropout = 0.5\n[params]\nlora_rank = [8, 16]\n[[run]]\nlora_rank = 4\n"
        '[derive]\nlora_scale = "alpha_free * 1.0"\n'.replace("alpha_free", "kl_coeff * 10")
        + 'kl_coeff = "lora_dropout / lora_rank"\n'
    )
    assert [r.overrides for r in found] == [
        {"lora_dropout": 0.5, "lora_rank": rank, "kl_coeff": 0.5 / rank, "lora_scale": 5 / rank}
        for rank in (4, 8, 16)
    ]
    assert found[0].set[:4] == (
        "lora_dropout=0.5", "lora_rank=4", "kl_coeff=0.125", "lora_scale=1.25",
    )  # fmt: skip


def test_rules_drop_settings_and_are_counted(folder):
    """The first rule that refuses a setting gets it; what is left keeps its order."""
    found = expansion(
        "[params]\nnum_generations = [2, 4, 8]\nbatch_size = [1, 8]\n"
        '[[exclude]]\nwhen = "num_generations == 2"\n'
        '[[require]]\nthat = "num_generations * batch_size <= 32"\n'
    )
    assert [tuple(s.overrides.values()) for s in found.settings] == [(4, 1), (4, 8), (8, 1)]
    assert found.dropped == {
        "exclude[0]: num_generations == 2": 2,
        "require[0]: num_generations * batch_size <= 32": 1,
    }


def test_rules_that_leave_nothing_are_named(folder):
    """Which rule excluded how many."""
    with pytest.raises(
        SpecError, match=r"no run is left of 2: exclude\[0\]: batch_size > 0 drops 2"
    ):
        expansion('[params]\nbatch_size = [1, 2]\n[[exclude]]\nwhen = "batch_size > 0"\n')


def test_the_same_spec_gives_the_same_runs_in_another_process(folder):
    """Nothing depends on the hash seed or on the order of a set."""
    text = (
        '[params]\nlearning_rate = [1e-5, 1e-4]\nloss_type = ["grpo", "dapo"]\nkl_coeff = [0.1]\n'
    )
    here = repr(expansion(text).plan("s", "/work"))
    code = (
        "from pathlib import Path; from orchestrator.plan.expand import expand\n"
        "from orchestrator.spec.reader import read_spec\n"
        "print(repr(expand(read_spec(Path('s.toml'))).plan('s', '/work')))"
    )
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        out = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        assert out.stdout.strip() == here


FLOATS = st.lists(st.floats(1e-9, 1.0), min_size=1, max_size=4)
INTS = st.lists(st.integers(2, 99), min_size=1, max_size=4)


@settings(deadline=None)  # It writes files.
@given(FLOATS, INTS, st.lists(st.integers(0, 9), max_size=3, unique=True), st.booleans())
def test_any_grid_is_the_plain_product_without_doubles(tmp_path_factory, lrs, gens, seeds, base):
    """Against a product written down independently, order and all."""
    folder = tmp_path_factory.mktemp("grid")
    (folder / "base.toml").write_text(BASE)
    explicit = "[[run]]\nlearning_rate = 2e-5\n" if base else ""
    (folder / "s.toml").write_text(
        f'config = "base.toml"\n{f"seeds = {seeds}" if seeds else ""}\n'
        f"[params]\nlearning_rate = {lrs}\nnum_generations = {gens}\n{explicit}"
    )
    expected = []
    for seed in seeds or [5]:
        points = [(2e-5, 4)] if base else []
        points += list(itertools.product(lrs, gens))
        expected += [(lr, g, seed) for lr, g in dict.fromkeys(points)]
    found = expand(read_spec(folder / "s.toml")).plan("s", "/work").runs
    resolved = [
        (r.overrides.get("learning_rate", 2e-5), r.overrides.get("num_generations", 4), r.seed)
        for r in found
    ]
    assert resolved == expected
    assert len({run.name.casefold() for run in found}) == len(found)
    assert not any(name_fault(run.name) for run in found)


def test_overrides_are_written_as_the_trainer_reads_them():
    """The one function that both sides use."""
    assert format_override("learning_rate", 1e-6) == "learning_rate=1e-06"


# --- searches


@pytest.mark.parametrize("method", ["random", "sobol"])
def test_a_search_draws_what_its_rules_allow(folder, method):
    """As many settings as asked for, each different, conditions and constraints kept."""
    found = expansion("[set]\nbatch_size = 2\n" + SEARCH.format(method=method, runs=20))
    assert len(found.settings) == len({json.dumps(s.overrides) for s in found.settings}) == 20
    for setting in found.settings:
        drawn = setting.overrides
        assert next(iter(drawn)) == "batch_size"
        assert 1e-6 <= drawn["learning_rate"] <= 1e-4
        assert drawn["num_generations"] == 4 or drawn["learning_rate"] < 2e-5
        assert ("clip_eps_high" in drawn) == (drawn["loss_type"] == "dapo")
    assert list(found.dropped) == ["require[0]: num_generations == 4 or learning_rate < 2e-5"]
    assert (found.to_ask, found.shortfall) == (0, "")


def test_tpe_draws_a_first_batch_and_leaves_the_rest_for_later(folder):
    """Ten settings to begin with, as Optuna has it; the others are asked for as results come."""
    found = expansion(SEARCH.format(method="tpe", runs=14))
    assert (len(found.settings), found.to_ask) == (10, 4)
    assert expansion(SEARCH.format(method="tpe", runs=3)).to_ask == 0


def test_a_search_gives_each_setting_every_seed_breadth_first(folder):
    """Runs of the search are settings; seeds multiply them, outermost."""
    found = runs("seeds = [5, 6]" + SEARCH.format(method="random", runs=3))
    assert [run.seed for run in found] == [5, 5, 5, 6, 6, 6]
    assert [run.overrides for run in found[:3]] == [run.overrides for run in found[3:]]


def test_a_search_never_repeats_an_explicit_run(folder):
    """They come first and count as tried; runs are drawn on top of them."""
    text = '[search]\nmethod = "random"\nruns = 2\n[params]\nbatch_size = [1, 2, 3]\n'
    found = expansion(text + "[[run]]\nbatch_size = 2\n")
    assert found.settings[0].overrides == {"batch_size": 2}
    assert sorted(s.overrides["batch_size"] for s in found.settings) == [1, 2, 3]


def test_a_search_that_has_tried_all_says_so(folder):
    """Three settings there are, ten were asked for."""
    text = '[search]\nmethod = "sobol"\nruns = 10\n[params]\nbatch_size = [1, 2, 3]\n'
    found = expansion(text)
    assert len(found.settings) == 3
    assert found.shortfall == "all 3 settings that there are have been tried"


def test_a_million_combinations_are_refused_with_their_size_unless_runs_caps_them(folder):
    """A grid of that size is a mistake; the first of it, or a draw from it, is not."""
    axes = "[params]\n" + "".join(
        f"{name} = [{', '.join(str(v / 200) for v in range(1, 101))}]\n"
        for name in ("temperature", "top_p", "kl_coeff")
    )
    with pytest.raises(SpecError, match=r"s.toml:2:1: params: makes 1,000,000 combinations"):
        expansion(axes)
    capped = expansion(axes + "[search]\nruns = 3\n")
    assert [s.overrides["kl_coeff"] for s in capped.settings] == [0.005, 0.01, 0.015]
    assert capped.size == 1_000_000
    assert len(expansion(axes + '[search]\nmethod = "sobol"\nruns = 50\n').settings) == 50


def test_the_runs_are_named_once_unless_the_sweep_gets_another_name(folder, monkeypatch):
    """Naming ten thousand runs takes seconds, and the last time would be in a transaction."""
    named = []
    real = expand_module.planned_runs

    def spy(spec, settings, differing, sweep, faults):
        named.append(sweep)
        return real(spec, settings, differing, sweep, faults)

    monkeypatch.setattr(expand_module, "planned_runs", spy)
    found = expansion("[params]\nlearning_rate = [1e-5, 1e-4]\n")
    assert found.plan("s", "/a").runs == found.plan("s", "/b").runs
    assert [run.output_dir for run in found.plan("s-2", "/a").runs] == [
        "outputs/s-2/lr1e-5",
        "outputs/s-2/lr1e-4",
    ]
    assert named == ["s", "s-2"]
