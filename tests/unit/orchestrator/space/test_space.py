"""The space of a sampled sweep: conditions, draws that depend on nothing but their keys."""

import itertools
import json
import os
import subprocess
import sys

import pytest

from orchestrator.errors import SpecError
from orchestrator.space.expressions import parse
from orchestrator.space.space import (
    Parameter,
    Space,
    axis,
    check_dimensions,
    keyed_uniform,
    random_draw,
    read_parameter,
    sobol_draw,
    zipped,
)
from tests.search_spaces import BASE, MIXED, parameter, rules, space

DRAWS = {"random": random_draw, "sobol": sobol_draw}
# What the two samplers give on any machine, pinned: a change here changes every user's sweeps.
GOLDEN = {
    "random": {
        "learning_rate": 9.81982e-06,
        "kl_coeff": 0.039831,
        "lora_rank": 7,
        "temperature": 0.982073,
        "warmup_ratio": 0.0,
        "batch_size": 1,
        "loss_type": "dr_grpo",
        "num_generations": 4,
    },
    "sobol": {
        "learning_rate": 4.53082e-05,
        "kl_coeff": 0.036073,
        "lora_rank": 2,
        "temperature": 0.793858,
        "warmup_ratio": 0.1,
        "batch_size": 4,
        "loss_type": "dapo",
        "clip_eps_high": 0.23754,
        "num_generations": 16,
    },
}


def test_a_keyed_number_is_the_published_digest():
    """SHA-256 of the key's parts, its first 53 bits."""
    # printf a | sha256sum
    assert keyed_uniform("a") == ((0xCA978112CA1BBDCA >> 11) + 0.5) / 2**53


@pytest.mark.parametrize("method", DRAWS)
def test_another_process_with_another_hash_seed_draws_the_same(method):
    """The same file and seed give the same settings in any process."""
    code = (
        "import json, sys; sys.path.insert(0, '.')\n"
        "from tests.unit.orchestrator.space.test_space import DRAWS\n"
        "from tests.search_spaces import MIXED, rules, space\n"
        f"draw = DRAWS[{method!r}]\n"
        "print(json.dumps([draw(space(**MIXED), rules(), 5, i) for i in range(20)]))"
    )
    drawn = [DRAWS[method](space(**MIXED), rules(), 5, i) for i in range(20)]
    for hash_seed in ("0", "12345"):
        out = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )
        assert json.loads(out.stdout) == drawn


@pytest.mark.parametrize("method", DRAWS)
def test_the_draws_of_a_seed_are_pinned(method):
    """A new release must not change what a seed means."""
    drawn = DRAWS[method](space(**MIXED), rules(), 7, 3)
    assert drawn == GOLDEN[method]


def test_a_parameter_more_leaves_the_random_draws_of_the_others():
    """So a sweep can be extended without a new start."""
    fewer = {name: table for name, table in MIXED.items() if name != "kl_coeff"}
    for i in range(20):
        more = random_draw(space(**MIXED), rules(), 1, i)
        more.pop("kl_coeff")
        assert random_draw(space(**fewer), rules(), 1, i) == more


@pytest.mark.parametrize("method", DRAWS)
def test_a_conditional_parameter_counts_only_where_its_condition_holds(method):
    """And else is left to the base."""
    drawn = [DRAWS[method](space(**MIXED), rules(), 2, i) for i in range(100)]
    for setting in drawn:
        assert ("clip_eps_high" in setting) == (setting["loss_type"] == "dapo")
    assert 20 < sum("clip_eps_high" in setting for setting in drawn) < 50


def test_conditions_see_the_base_and_what_was_drawn_before():
    """A field that is not sampled has its base's value."""
    tables = {
        "kl_coeff": {"dist": "uniform", "min": 0, "max": 1, "when": "batch_size == 3"},
        "lora_rank": {"axis": [1, 2]},
    }
    assert "kl_coeff" not in random_draw(space(**tables), rules(), 0, 0)
    assert "kl_coeff" in random_draw(space(**tables), rules(batch_size=3), 0, 0)


def test_parameters_are_drawn_after_what_their_condition_names():
    """Whatever their order in the file."""
    made = space(
        kl_coeff={"dist": "uniform", "min": 0, "max": 1, "when": "lora_rank > 2"},
        batch_size={"axis": [1, 2]},
        lora_rank={"dist": "choice", "values": [1, 4], "when": "batch_size == 2"},
    )
    assert made.names == ("batch_size", "lora_rank", "kl_coeff")


@pytest.mark.parametrize(
    ("parameters", "derived", "words"),
    [
        (
            [("kl_coeff", "batch_size > 1"), ("batch_size", "kl_coeff > 0")],
            (),
            "params: when: kl_coeff needs itself: kl_coeff <- batch_size <- kl_coeff",
        ),
        ([("kl_coeff", "kl_coeff > 0")], (), "kl_coeff needs itself"),
        ([("kl_coeff", None), ("kl_coeff", None)], (), "params.kl_coeff: is sampled twice"),
        ([("kl_coeff", None)], ("kl_coeff",), "params.kl_coeff: stands under [derive] too"),
        (
            [("kl_coeff", "lora_scale > 1")],
            ("lora_scale",),
            "params.kl_coeff.when: lora_scale is derived, which comes after the parameters",
        ),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(parameters, derived, words):
    """With the keys that stand against each other."""
    made = [
        Parameter((name,), axis(name, [1, 2]).domain, parse(when, BASE) if when else None)
        for name, when in parameters
    ]
    with pytest.raises(SpecError) as caught:
        Space.of(made, derived)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"when": 3}, "('when',): 3: must be text"),
        ({"when": "loss_typ == 'dapo'"}, "unknown name loss_typ; did you mean loss_type?"),
        ({"when": "("}, "cannot be read"),
    ],
)
def test_a_condition_that_cannot_be_read_is_a_fault_of_its_key(table, words):
    """Beside the faults of the distribution."""
    faults = []
    read = read_parameter(
        "kl_coeff",
        {"dist": "uniform", "min": 0, "max": 1, **table},
        lambda path, text: faults.append(f"{path}: {text}"),
    )
    assert read is None
    assert words in faults[0]


def test_a_condition_without_a_value_says_whose_it_is():
    """It shows only in a setting."""
    made = space(lora_rank={"dist": "int", "min": 1, "max": 4, "when": "1 / kl_coeff > 2"})
    with pytest.raises(SpecError, match=r"params.lora_rank.when: .* division by zero"):
        random_draw(made, rules(kl_coeff=0.0), 0, 0)


def test_every_setting_of_a_finite_space_is_listed_once():
    """Against a product with the conditions applied by hand."""
    made = Space.of(
        [
            parameter("lora_rank", axis=[1, 2, 4]),
            parameter("kl_coeff", dist="quniform", min=0, max=0.2, step=0.1, when="lora_rank > 1"),
            zipped({"batch_size": [1, 2], "num_generations": [8, 4]}),
        ]
    )
    expected = [
        {
            "lora_rank": r,
            **({} if r == 1 else {"kl_coeff": k}),
            "batch_size": b,
            "num_generations": g,
        }
        for r, k, (b, g) in itertools.product([1, 2, 4], [0.0, 0.1, 0.2], [(1, 8), (2, 4)])
        if r > 1 or k == 0.0
    ]
    assert list(made.every_setting(BASE)) == expected
    assert made.size == 18  # At most: conditions are not counted.
    assert space(**MIXED).size is None


def test_rows_of_a_zip_move_together():
    """One row is drawn, never a mixture."""
    rows = {"model_name": ["a", "b"], "max_new_tokens": [128, 256]}
    made = Space.of([zipped(rows)])
    drawn = {tuple(random_draw(made, rules(), 0, i).values()) for i in range(50)}
    assert drawn == {("a", 128), ("b", 256)}
    assert zipped({"lora_rank": [1, 2]}) == axis("lora_rank", [1, 2])


def test_sobol_says_how_far_it_reaches():
    """Joe and Kuo's numbers that we ship end somewhere."""
    fields = [name for name, value in BASE.items() if type(value) is float]
    made = Space.of(axis(name, [0.1, 0.2]) for name in fields[:21])
    check_dimensions(made)
    wider = Space.of([*made.parameters, axis("lora_rank", [1, 2])])
    with pytest.raises(SpecError, match="reaches 21 parameters, and this spec samples 22; use"):
        check_dimensions(wider)


def test_sobol_spreads_every_parameter_evenly():
    """Each of 8 slices of each axis holds 8 of 64 points."""
    made = space(
        kl_coeff={"dist": "uniform", "min": 0, "max": 1},
        learning_rate={"dist": "loguniform", "min": 1e-8, "max": 1},
        lora_rank={"dist": "int", "min": 0 + 1, "max": 8},
    )
    drawn = [sobol_draw(made, rules(), 3, i) for i in range(64)]
    slices = [int(setting["kl_coeff"] * 8) for setting in drawn]
    assert [slices.count(i) for i in range(8)] == [8] * 8
    ranks = [setting["lora_rank"] for setting in drawn]
    assert [ranks.count(i) for i in range(1, 9)] == [8] * 8
