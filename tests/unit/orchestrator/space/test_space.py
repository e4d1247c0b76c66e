"""The space of a sampled sweep: conditions, order, and every setting of a finite one."""

import itertools

import pytest

from orchestrator.errors import SpecError
from orchestrator.search.draws import random_draw
from orchestrator.space.expressions import parse
from orchestrator.space.space import Parameter, Space, axis, zipped
from tests.search_spaces import BASE, MIXED, parameter, rules, space


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
