"""What the table of void fields says is so: another value gives the same objective or schedule."""

from dataclasses import replace

import numpy as np
import pytest

from grpo_core.config import FIELDS, MLXGRPOConfig, advice, void_fields
from grpo_core.config.void_fields import VOID_RULES

# A configuration in which each rule holds, and one in which none of its fields is void.
CASES = [
    ("lora_rank", {"train_type": "full"}, {}),
    ("lora_keys", {"adapter_path": "earlier/final"}, {}),
    ("adapter_path", {"train_type": "full"}, {"train_type": "dora"}),
    ("quantize_for_rollouts", {"train_type": "full"}, {}),
    ("model_revision", {"model_name": "builtin/tiny"}, {}),
    ("dataset_config", {"dataset": "builtin/arithmetic"}, {}),
    ("dataset_split", {"dataset": "rows.jsonl"}, {"dataset": "builtin/arithmetic"}),
    ("eval_split", {"eval_dataset": "rows.parquet"}, {}),
    ("reward_timeout_s", {"rewards": ["int"]}, {"rewards": ["int", "mine.py:f"]}),
    ("overlong_penalty", {}, {"overlong_buffer": 10}),
    ("max_completion_length", {}, {"max_completion_length": 100}),
    ("max_new_tokens", {"max_completion_length": 100}, {"max_new_tokens": 1024}),
    ("clip_eps_high", {}, {"num_iterations": 2}),
    (
        "clip_eps",
        {"loss_type": "cispo", "num_iterations": 2, "clip_eps_high": 0.3},
        {"loss_type": "cispo", "num_iterations": 2},
    ),
    ("clip_delta", {"loss_type": "sapo", "num_iterations": 2}, {"num_iterations": 2}),
    (
        "clip_eps",
        {"loss_type": "vespo", "num_iterations": 2},
        {"loss_type": "sapo", "num_iterations": 2},
    ),
    ("off_policy_mask_threshold", {}, {"steps_per_generation": 8}),
    ("old_logprobs", {}, {"num_iterations": 2}),
    ("scale_rewards", {"multi_objective_aggregation": "normalize_then_sum"}, {}),
    ("kl_estimator", {}, {"kl_coeff": 0.1}),
    ("sync_ref_model", {}, {"kl_coeff": 0.1}),
    ("ref_model_sync_steps", {"kl_coeff": 0.1}, {"kl_coeff": 0.1, "sync_ref_model": True}),
    ("resample_rounds", {}, {"zero_variance": "resample"}),
    ("rollout_is", {}, {"top_k": 5}),
    ("rollout_is_max", {"top_p": 0.9}, {"top_p": 0.9, "rollout_is": "token_mask"}),
    ("warmup_ratio", {"lr_scheduler_type": "constant"}, {}),
    ("save_best", {"eval_steps": 0}, {}),
    ("eval_subset_size", {"eval_every_updates": 0}, {}),
    ("eval_temperature", {"eval_every_updates": 0, "eval_steps": 0}, {"eval_steps": 0}),
]


@pytest.mark.parametrize(("field", "void", "alive"), CASES, ids=[case[0] for case in CASES])
def test_a_field_is_void_where_another_one_says_so_only(field, void, alive):
    """Written by hand, not read from the table."""
    assert field in void_fields(MLXGRPOConfig(**void))
    assert field not in void_fields(MLXGRPOConfig(**alive))


def test_every_rule_has_a_case():
    """And names fields that there are."""
    cases = {
        (field, rule)
        for field, void, _ in CASES
        for rule in range(len(VOID_RULES))
        if field in VOID_RULES[rule].fields and VOID_RULES[rule].when(MLXGRPOConfig(**void))
    }
    assert {rule for _, rule in cases} == set(range(len(VOID_RULES)))
    assert all(name in FIELDS for rule in VOID_RULES for name in rule.fields)


def test_what_was_set_for_nothing_is_said_and_defaults_are_not():
    """One line each, with the value and the reason."""
    quiet = MLXGRPOConfig(learning_rate=1e-5)
    assert advice(quiet) == []
    (line,) = advice(replace(quiet, clip_eps=0.3))
    assert line.startswith("clip_eps = 0.3 has no effect: num_iterations = 1")
    lines = advice(replace(quiet, train_type="full", adapter_path="gone", lora_rank=8))
    assert [line.split(" ")[0] for line in lines] == [
        "quantize_for_rollouts",
        "lora_rank",
        "adapter_path",
    ]


@pytest.mark.parametrize("loss_type", FIELDS["loss_type"].choices)
def test_no_clip_acts_where_the_policy_is_the_one_that_sampled(loss_type):
    """Why the clip is void with num_iterations = 1: ratio 1, the same loss and gradient."""
    mx = pytest.importorskip("mlx.core")
    from grpo_core.update.loss import Batch, Objective, Totals, objective

    draw = np.random.default_rng(0)
    logps = mx.array(draw.normal(-2, 1, (4, 6)), mx.float32)
    batch = Batch(mx.ones((4, 6)), mx.array(draw.normal(0, 1, (4, 1)), mx.float32))

    def found(**fields):
        how = Objective.of(MLXGRPOConfig(loss_type=loss_type, **fields))
        totals = Totals(4, 24, 24, 24)

        def loss(x):
            return objective(x, mx.ones((4, 6)), batch, how, totals)[0]

        value, grad = mx.value_and_grad(loss)(logps)
        return float(value), np.array(grad)

    plain = found()
    for fields in ({"clip_eps": 0.01}, {"clip_eps_high": 2.0}, {"clip_delta": 5.0}):
        value, grad = found(**fields)
        assert value == plain[0]
        assert np.array_equal(grad, plain[1])
    assert not np.array_equal(plain[1], np.zeros((4, 6)))
