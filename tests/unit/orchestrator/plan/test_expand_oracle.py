"""Expansion against a brute-force oracle: plain loops over a random spec, order included."""

import itertools
import json
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.plan.expand import expand
from orchestrator.spec.reader import parse_spec

BASE = {
    "learning_rate": 2e-5,
    "num_generations": 4,
    "batch_size": 1,
    "lora_rank": 16,
    "kl_coeff": 0.0,
    "loss_type": "dapo",
    "lora_scale": 2.0,
}
VALUES = {
    "learning_rate": [1e-6, 2e-5, 1e-4],
    "num_generations": [2, 4, 8],
    "batch_size": [1, 2, 3],
    "lora_rank": [4, 8, 16],
    "kl_coeff": [0.0, 0.05],
    "loss_type": ["grpo", "dapo"],
}
# The text of a condition, and what it means.
CONDITIONS = {
    "num_generations * batch_size <= 8": lambda e: e["num_generations"] * e["batch_size"] <= 8,
    "learning_rate > 1e-5 and kl_coeff > 0": lambda e: (
        e["learning_rate"] > 1e-5 and e["kl_coeff"] > 0
    ),
    "loss_type in ['grpo']": lambda e: e["loss_type"] == "grpo",
    "lora_scale > 2": lambda e: e["lora_scale"] > 2,
    "not (lora_rank == 16 or batch_size == 3)": lambda e: (
        not (e["lora_rank"] == 16 or e["batch_size"] == 3)
    ),
}


@st.composite
def plans(draw):
    """A random spec as a plain structure."""
    names = draw(st.permutations(list(VALUES)))
    cut = draw(st.integers(0, 2))
    zipped, axes = names[:cut], names[cut : cut + draw(st.integers(0, 3))]
    rows = draw(st.integers(1, 3))
    column = {
        n: draw(st.lists(st.sampled_from(VALUES[n]), min_size=rows, max_size=rows)) for n in zipped
    }
    lists = {n: draw(st.lists(st.sampled_from(VALUES[n]), min_size=1, max_size=3)) for n in axes}
    explicit = draw(
        st.lists(
            st.fixed_dictionaries({}, optional={n: st.sampled_from(v) for n, v in VALUES.items()}),
            max_size=2,
        )
    )
    rules = draw(
        st.lists(st.tuples(st.booleans(), st.sampled_from(sorted(CONDITIONS))), max_size=2)
    )
    derive = draw(st.booleans())
    seeds = draw(st.lists(st.integers(0, 9), max_size=3, unique=True))
    return column, lists, explicit, rules, derive, seeds


def as_toml(column, lists, explicit, rules, derive, seeds):
    """The same as a spec."""
    text = f"seeds = {seeds}\n" if seeds else ""
    if column:
        text += "[[zip]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in column.items())
    for run in explicit:
        text += "[[run]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in run.items())
    if lists:
        text += "[params]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in lists.items())
    if derive:
        text += '[derive]\nlora_scale = "32 / lora_rank"\n'
    for excludes, condition in rules:
        text += f'[[exclude]]\nwhen = "{condition}"\n' if excludes else ""
        text += f'[[require]]\nthat = "{condition}"\n' if not excludes else ""
    return text


def brute_force(column, lists, explicit, rules, derive, seeds):
    """Every run as (all values, seed) in the documented order, and how many settings rules drop."""
    points = [dict(run) for run in explicit]
    if column or lists or not explicit:
        rows = [dict(zip(column, row, strict=True)) for row in zip(*column.values(), strict=True)]
        for row in rows or [{}]:
            for picked in itertools.product(*lists.values()):
                points.append({**row, **dict(zip(lists, picked, strict=True))})
    kept, dropped = [], 0
    for point in points:
        env = {**BASE, **point}
        if derive:
            env["lora_scale"] = 32 / env["lora_rank"]
        if all(CONDITIONS[condition](env) is not excludes for excludes, condition in rules):
            kept += [env] if env not in kept else []
        else:
            dropped += 1
    return [(env, seed) for seed in seeds or [0] for env in kept], dropped


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plans())
def test_expansion_is_what_plain_loops_give(tmp_path_factory, plan):
    """Values, order, seeds, merged and dropped settings; or no run is left, and it says so."""
    expected, dropped = brute_force(*plan)
    folder = tmp_path_factory.mktemp("oracle")
    base = "".join(f"{key} = {json.dumps(value)}\n" for key, value in BASE.items())
    (folder / "base.toml").write_text(base)
    spec = parse_spec('config = "base.toml"\n' + as_toml(*plan), folder / "s.toml")
    if not expected:
        try:
            expand(spec)
        except SpecError as e:
            assert "no run is left" in str(e)
            return
        raise AssertionError("a sweep without runs was made")
    found = expand(spec)
    runs = found.plan("s", "/work").runs
    assert [({**BASE, **run.overrides}, run.seed) for run in runs] == expected
    assert sum(found.dropped.values()) == dropped
    assert len({run.name for run in runs}) == len({run.hash for run in runs}) == len(runs)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plans(), st.sampled_from(["random", "sobol", "tpe"]), st.integers(0, 3))
def test_a_search_over_lists_finds_just_what_the_grid_has(tmp_path_factory, plan, method, seed):
    """Asked for more than there is, it draws every setting of the grid once, and no other."""
    column, lists, _, rules, derive, seeds = plan
    expected, _ = brute_force(column, lists, [], rules, derive, seeds)
    if not (column or lists) or not expected:
        return
    folder = tmp_path_factory.mktemp("search")
    base = "".join(f"{key} = {json.dumps(value)}\n" for key, value in BASE.items())
    (folder / "base.toml").write_text(base)
    search = f'[search]\nmethod = "{method}"\nruns = 200\nseed = {seed}\n'
    text = as_toml(column, lists, [], rules, derive, seeds)
    found = expand(parse_spec('config = "base.toml"\n' + text + search, Path(folder, "s.toml")))
    drawn = [{**BASE, **setting.overrides} for setting in found.settings]
    whole = [env for env, _ in expected[: len(expected) // max(1, len(seeds))]]
    if method == "tpe" and len(whole) > 10:
        assert len(drawn) == 10
        assert all(env in whole for env in drawn)
        return
    assert sorted(map(flat, drawn)) == sorted(map(flat, whole))


def flat(env):
    """A setting as something that can be sorted."""
    return sorted(map(repr, env.items()))
