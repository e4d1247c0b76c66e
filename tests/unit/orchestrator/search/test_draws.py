"""Draws from a space, which depend on nothing but their keys."""

import json
import os
import subprocess
import sys

import pytest

from orchestrator.errors import SpecError
from orchestrator.search.draws import check_dimensions, keyed_uniform, random_draw, sobol_draw
from orchestrator.space.space import Space, axis
from tests.search_spaces import BASE, MIXED, rules, space

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
        "from tests.unit.orchestrator.search.test_draws import DRAWS\n"
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
