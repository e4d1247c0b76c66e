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
    assert replace(chosen, rollout_rows=128, eval_rows=128) == MemoryPlan(6, 99, False, False)
    assert plan(1e6, grad_checkpoint="on", micro_batch_size=100).micro_batch_size == 8


# Qwen2.5-7B on a Mac of 16 GB, which advises 11.4 GB: what configs/medium.toml would take.
QWEN_7B = QWEN | {
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}
MEDIUM = {
    **{"num_generations": 8, "gradient_accumulation_steps": 4, "max_new_tokens": 256},
    **{"eval_steps": 200, "eval_samples": 200, "eval_every_updates": 0},
    **{"eval_max_new_tokens": 256, "quantize_for_rollouts": True},
}


def peak_of(phase, cfg, rows):
    """Estimated bytes of a phase with so many rows at once, on the longest prompts."""
    shape = model_shape(QWEN_7B, cfg)
    found = estimate(shape, cfg, cfg.max_prompt_length, rollout_rows=rows, eval_rows=rows)
    return sum(part.bytes for part in found.standing + getattr(found, phase))


@pytest.mark.parametrize(
    ("phase", "rows_of"), [("evaluation", "eval_rows"), ("rollout", "rollout_rows")]
)
def test_so_many_rows_decode_together_as_fit(phase, rows_of):
    """All 128 would take more than there is; as many as fit are fewer, and one more is too many."""
    cfg, budget = config(**MEDIUM, batch_size=16), round(7.5 * GB)
    assert peak_of(phase, cfg, 128) > budget
    chosen = choose_plan(model_shape(QWEN_7B, cfg), cfg, budget)
    rows = getattr(chosen, rows_of)
    assert 1 < rows < 128
    # One prompt more at a time: of a rollout, eight rows.
    assert peak_of(phase, cfg, rows) <= budget
    assert peak_of(phase, cfg, rows + 1) > budget


def test_evaluation_is_the_peak_where_it_is_the_largest():
    """And it is nothing where the run never evaluates."""
    smallest = {"micro_batch_size": 1, "grad_checkpoint": "on"}
    cfg = config(**MEDIUM | smallest | {"eval_max_new_tokens": 1024})
    found = estimate(model_shape(QWEN_7B, cfg), cfg, 512)
    assert found.phase == "evaluation"
    assert found.evaluation[0].name == "keys and values of 128 completions"
    off = replace(cfg, eval_steps=0)
    assert estimate(model_shape(QWEN_7B, off), off, 512).evaluation == []


def test_rows_are_those_that_there_are():
    """40 rows with three answers each decode as 120; three of them alone as nine."""
    shape = model_shape(QWEN, config())
    for samples, n, rows in ((40, 3, 120), (3, 3, 9), (100, 3, 126), (5, 200, 128)):
        cfg = config(eval_steps=1, eval_samples=samples, eval_num_generations=n)
        cfg = replace(cfg, eval_every_updates=0)
        name = estimate(shape, cfg, 100).evaluation[0].name
        assert name == f"keys and values of {rows} completions"


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
