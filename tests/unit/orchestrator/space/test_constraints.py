"""Derived values, exclude and require: the same for every setting of a sweep."""

import pytest

from grpo_core.config import FIELDS
from orchestrator.errors import SpecError
from orchestrator.space.constraints import Refusal, Rules
from orchestrator.space.expressions import parse
from tests.search_spaces import BASE, rules


def test_formulas_are_computed_in_the_order_of_what_they_need():
    """Whatever their order in the file; what is derived is seen by the next."""
    made = rules(
        derive={"max_new_tokens": "max_completion_length // 2", "max_completion_length": "64 * 4"}
    )
    assert made.complete({"lora_rank": 4}) == {
        "lora_rank": 4,
        "max_completion_length": 256,
        "max_new_tokens": 128,
    }


def test_a_whole_number_fits_a_field_of_numbers_and_not_the_other_way_round():
    """32 // 8 becomes 4.0 where a number is wanted; 8 / 2 is no whole number."""
    whole = rules(derive={"lora_scale": "32 // lora_rank"}).complete({"lora_rank": 8})
    assert (whole["lora_scale"], type(whole["lora_scale"])) == (4.0, float)
    with pytest.raises(
        SpecError, match=r"derive.batch_size: gives 4.0: must be a whole number; //"
    ):
        rules(derive={"batch_size": "8 / 2"}).complete({})


def test_a_circle_of_formulas_is_named():
    """Before any setting is made."""
    with pytest.raises(SpecError, match="derive: lora_rank needs itself: lora_rank <- batch_size"):
        rules(derive={"lora_rank": "batch_size", "batch_size": "lora_rank + 1"})
    with pytest.raises(SpecError, match="derive: lora_rank needs itself: lora_rank <- lora_rank"):
        rules(derive={"lora_rank": "lora_rank * 2"})


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ({"num_generations": 8, "learning_rate": 1e-5}, "exclude[0]"),
        ({"num_generations": 8, "learning_rate": 1e-6}, None),
        ({"num_generations": 8, "batch_size": 9, "learning_rate": 1e-6}, "require[0]"),
        ({"num_generations": 8, "batch_size": 9, "learning_rate": 1e-5}, "exclude[0]"),
        ({"num_generations": 4, "clip_delta": 1.1}, "clip_delta"),
        ({"num_generations": 4, "lora_rank": 0}, "derive.lora_scale"),
    ],
)
def test_the_first_rule_that_forbids_a_setting_is_told(setting, rule):
    """Excluded, not required, a config that contradicts itself, or no derived value."""
    made = rules(
        lora_rank=8,
        derive={"lora_scale": "32 / lora_rank"},
        exclude=["num_generations == 8 and learning_rate > 5e-6"],
        require=["num_generations * batch_size <= 64"],
    )
    admitted = made.admit(setting)
    if rule is None:
        assert admitted == {**setting, "lora_scale": 4.0}
    else:
        assert isinstance(admitted, Refusal)
        assert admitted.rule == rule
        assert admitted.reason.startswith(rule)


def test_rules_see_what_is_derived():
    """Exclude and require come after derive."""
    made = rules(derive={"lora_scale": "32 / lora_rank"}, exclude=["lora_scale > 4"])
    assert isinstance(made.admit({"lora_rank": 4}), Refusal)
    assert made.admit({"lora_rank": 16}) == {"lora_rank": 16, "lora_scale": 2.0}


def test_a_rule_without_a_value_refuses_the_setting_and_says_which():
    """Not every setting can be looked at before a search begins."""
    made = rules(exclude=["1 / kl_coeff > 3"])
    admitted = made.admit({"kl_coeff": 0.0})
    assert admitted == Refusal(
        "exclude[0]",
        "exclude[0]: '1 / kl_coeff > 3', column 1: division by zero (kl_coeff = 0.0)",
    )


def test_two_settings_are_one_exactly_when_they_resolve_to_the_same_values():
    """Naming the base's own value changes nothing; order does not count."""
    made = Rules.of(BASE)
    rank = BASE["lora_rank"]
    assert made.identity({"lora_rank": rank}) == made.identity({}) == ()
    assert made.identity({"kl_coeff": 0.1, "batch_size": 2}) == made.identity(
        {"batch_size": 2, "kl_coeff": 0.1, "lora_rank": rank}
    )
    assert made.identity({"kl_coeff": 0.1}) != made.identity({"kl_coeff": 0.1 + 1e-17 * 2})


def test_what_is_derived_stands_over_what_was_chosen():
    """A formula has the last word (design: explicit run <- derive)."""
    made = Rules.of(BASE, {"lora_scale": parse("32 / lora_rank", FIELDS)})
    assert made.complete({"lora_scale": 1.0, "lora_rank": 8})["lora_scale"] == 4.0
