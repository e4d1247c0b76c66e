"""Exact match is what reading the answers one by one gives, and its interval is Wilson's."""

import mlx.core as mx
import mlx_lm
import pytest

from grpo_core.config import MLXGRPOConfig
from grpo_core.data.answers import is_correct
from grpo_core.data.splits import load_data
from grpo_core.evaluate import Evaluation, evaluate, truncation_warning, wilson
from grpo_core.model.policy import load_policy


def config(**fields):
    base = {
        "model_name": "builtin/tiny",
        "dataset": "builtin/arithmetic",
        "system_prompt": "",
        "assistant_prefix": "",
        "quantize_for_rollouts": False,
        "eval_max_new_tokens": 32,
        "eval_samples": 24,
    }
    return MLXGRPOConfig(**{**base, **fields})


@pytest.fixture(scope="module")
def tiny():
    cfg = config()
    policy = load_policy(cfg)
    return policy, load_data(cfg, policy.tokenizer).test


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        # Newcombe 1998, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_interval_is_that_of_the_paper(right, n, low, high):
    """To the digits printed there."""
    assert wilson(right, n) == pytest.approx((low, high), abs=5e-5)


def test_exact_match_is_that_of_mlx_lm_row_by_row(tiny):
    """Greedy, one row at a time, through mlx-lm's own generate."""
    policy, prompts = tiny
    cfg = config()
    solved = 0
    for prompt in prompts:
        text = mlx_lm.generate(
            policy.model, policy.tokenizer, prompt=list(prompt.ids), max_tokens=32
        )
        solved += is_correct(text, prompt.example.answer)
    done = evaluate(policy, prompts, cfg, "test")
    assert (done.right, done.n) == (solved, 24)
    assert 0 < solved < 24


def test_rows_in_other_company_give_the_same(tiny):
    """Whatever else is in the batch."""
    policy, prompts = tiny
    whole = evaluate(policy, prompts, config(), "test").right
    parts = [evaluate(policy, prompts[i : i + 5], config(), "test").right for i in range(0, 24, 5)]
    assert sum(parts) == whole


def test_pass_at_k_counts_a_row_once(tiny):
    """With four answers a row is right if one is; more answers never solve fewer rows."""
    policy, prompts = tiny
    found = [
        evaluate(policy, prompts, config(eval_num_generations=k, eval_temperature=1.0), "test")
        for k in (1, 4, 8)
    ]
    assert [done.n for done in found] == [24, 24, 24]
    assert found[0].right <= found[1].right <= found[2].right <= 24
    assert found[0].right < found[2].right


def test_sampled_answers_do_not_depend_on_the_seed(tiny):
    """Runs of a sweep are compared on the same draws."""
    policy, prompts = tiny
    sampled = {"eval_num_generations": 2, "eval_temperature": 0.8}
    one = evaluate(policy, prompts, config(seed=0, **sampled), "test")
    mx.random.seed(99)
    assert evaluate(policy, prompts, config(seed=7, **sampled), "test") == one


def test_cut_answers_are_counted_and_warned_of(tiny):
    """At 3 tokens nearly none can end; more than a tenth cut earns a line."""
    policy, prompts = tiny
    cfg = config(eval_max_new_tokens=3)
    done = evaluate(policy, prompts, cfg, "test")
    assert done.truncated_frac > 0.9
    assert "eval_max_new_tokens = 3" in truncation_warning(done, cfg)


@pytest.mark.parametrize(("share", "warns"), [(0.0, False), (0.1, False), (0.11, True)])
def test_a_tenth_is_let_pass(share, warns):
    """More than a tenth, not a tenth."""
    assert bool(truncation_warning(Evaluation("test", 100, 50, share), config())) is warns


def test_line_has_the_names_of_the_design():
    """em, split, n and the interval."""
    line = Evaluation("test", 20, 10, 0.0).line()
    assert (line["em"], line["split"], line["n"]) == (0.5, "test", 20)
    assert line["ci95"] == pytest.approx([0.2993, 0.7007], abs=5e-5)
