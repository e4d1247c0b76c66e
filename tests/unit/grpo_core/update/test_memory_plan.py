"""The plan of an update: the configuration's word first, then what fits."""

from dataclasses import replace

import pytest

from grpo_core.config.fields import MLXGRPOConfig
from grpo_core.update.memory_estimate import estimate, model_shape
from grpo_core.update.memory_plan import MemoryPlan, budget_bytes, choose_plan

QWEN = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
GB = 10**9


def config(**more):
    return MLXGRPOConfig(
        **{"num_generations": 8, "max_new_tokens": 32, "dtype": "bfloat16", **more}
    )


def plan(budget, **more):
    cfg = config(**more)
    return choose_plan(model_shape(QWEN, cfg), cfg, round(budget))


def need(chosen, cfg):
    """Estimated bytes of the update with that plan, on the longest prompts."""
    settled = replace(cfg, **chosen.settings)
    found = estimate(model_shape(QWEN, cfg), settled, cfg.max_prompt_length)
    return sum(part.bytes for part in found.standing + found.update)


def test_with_room_for_all_nothing_is_recomputed():
    """256 tokens of completions at once on the CPU: all eight of 32."""
    chosen = plan(1000 * GB)
    assert (chosen.micro_batch_size, chosen.grad_checkpoint) == (8, False)
    assert chosen.prefix_sharing


@pytest.mark.parametrize(("limit", "size"), [(32, 8), (64, 4), (128, 2), (256, 1), (2000, 1)])
def test_a_micro_batch_is_counted_in_tokens(limit, size):
    """Twice as long, half as many."""
    assert plan(1000 * GB, max_new_tokens=limit).micro_batch_size == size


def test_less_memory_makes_smaller_plans_that_fit():
    """What the largest plan needs is enough for it; with less the plan shrinks until it fits."""
    cfg = config()
    most = need(plan(1000 * GB), cfg)
    least = need(MemoryPlan(1, 16, True, True), cfg)
    assert least < most
    assert need(plan(most), cfg) <= most
    needs = []
    for share in (0.75, 0.5, 0.25, 0.1):
        budget = least + share * (most - least)
        needs.append(need(plan(budget), cfg))
        assert needs[-1] <= budget
    assert plan(budget).micro_batch_size < 8 or plan(budget).grad_checkpoint


def test_the_configuration_has_the_last_word():
    """Set by hand it stays, whatever the estimate says."""
    chosen = plan(
        1e6,
        micro_batch_size=6,
        logprob_chunk_tokens=99,
        grad_checkpoint="off",
        prefix_sharing=False,
    )
    assert chosen == MemoryPlan(6, 99, False, False)
    assert plan(1e6, grad_checkpoint="on", micro_batch_size=100).micro_batch_size == 8


def test_a_model_that_cannot_be_estimated_still_gets_a_plan():
    """Nothing is known of it, so nothing is shrunk; and what it cannot share it does not."""
    chosen = choose_plan(None, config(), 10 * GB, can_share_prefix=False)
    assert chosen.micro_batch_size == 8
    assert not chosen.prefix_sharing
    assert 16 <= chosen.logprob_chunk_tokens < 10**5


def test_the_budget_is_what_the_configuration_says_or_a_part_of_the_machine():
    """In units of 10^9 bytes."""
    assert budget_bytes(config(memory_limit_gb=1.5)) == 1.5 * GB
    assert budget_bytes(config()) > 10**8
