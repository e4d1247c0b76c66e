"""Scores are what reading the answers one by one gives; intervals are Wilson's and Student's."""

from dataclasses import replace

import mlx.core as mx
import mlx_lm
import pytest

from grpo_core.config import MLXGRPOConfig
from grpo_core.data.answers import is_correct
from grpo_core.data.splits import load_data
from grpo_core.evaluate import (
    Evaluation,
    evaluate,
    mean_interval,
    truncation_warning,
    wilson,
)
from grpo_core.model.policy import load_policy
from grpo_core.rewards.builtin import load_rewards


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


def score(policy, prompts, cfg):
    with load_rewards(cfg) as rewards:
        return evaluate(policy, prompts, cfg, "test", rewards)


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
    done = score(policy, prompts, cfg)
    assert (done.right, done.n) == (solved, 24)
    assert 0 < solved < 24


def test_rows_in_other_company_give_the_same(tiny):
    """Whatever else is in the batch."""
    policy, prompts = tiny
    whole = score(policy, prompts, config()).right
    parts = [score(policy, prompts[i : i + 5], config()).right for i in range(0, 24, 5)]
    assert sum(parts) == whole


def test_pass_at_k_counts_a_row_once(tiny):
    """With four answers a row is right if one is; more answers never solve fewer rows."""
    policy, prompts = tiny
    found = [
        score(policy, prompts, config(eval_num_generations=k, eval_temperature=1.0))
        for k in (1, 4, 8)
    ]
    assert [done.n for done in found] == [24, 24, 24]
    assert found[0].right <= found[1].right <= found[2].right <= 24
    assert found[0].right < found[2].right


def test_sampled_answers_do_not_depend_on_the_seed(tiny):
    """Runs of a sweep are compared on the same draws."""
    policy, prompts = tiny
    sampled = {"eval_num_generations": 2, "eval_temperature": 0.8}
    one = score(policy, prompts, config(seed=0, **sampled))
    mx.random.seed(99)
    assert score(policy, prompts, config(seed=7, **sampled)) == one


def test_the_reward_of_held_out_rows_is_that_of_their_texts(tiny, tmp_path):
    """Each reward by name, and their weighted sum; a weight of 0 is a metric alone."""
    policy, prompts = tiny
    (tmp_path / "letters.py").write_text(
        "def count(completions, **columns):\n    return [len(text) for text in completions]\n"
    )
    names = ["correctness", f"{tmp_path / 'letters.py'}:count"]
    done = score(policy, prompts, config(rewards=names, reward_weights=[0.5, 0.0]))
    texts = [
        mlx_lm.generate(policy.model, policy.tokenizer, prompt=list(prompt.ids), max_tokens=32)
        for prompt in prompts
    ]
    line = done.line()
    assert line["eval_reward"] == pytest.approx(done.em)  # half of 2 for each that is right
    assert line["eval_reward/correctness"] == pytest.approx(2 * done.em)
    assert line[f"eval_reward/{names[1]}"] == pytest.approx(sum(map(len, texts)) / 24)
    assert line["eval_reward_ci95"][0] < line["eval_reward"] < line["eval_reward_ci95"][1]


def test_rows_without_answers_have_a_reward_and_no_exact_match(tiny):
    """The score by which a best checkpoint is chosen then."""
    policy, prompts = tiny
    bare = [replace(p, example=replace(p.example, answer=None)) for p in prompts]
    done = score(policy, bare, config(answer_key="", rewards=["int"]))
    assert "em" not in done.line()
    assert done.score("em") == {}
    assert list(done.score("eval_reward")) == ["eval_reward", "n", "eval_reward_ci95"]


def test_several_answers_to_a_row_count_by_their_mean(tiny):
    """A row is one observation of the interval, whatever it is asked."""
    policy, prompts = tiny
    cfg = config(eval_num_generations=4, eval_temperature=1.0, rewards=["correctness"])
    done = score(policy, prompts, cfg)
    assert len(done.rewards[""]) == done.n == 24
    assert set(done.rewards[""]) <= {0.0, 0.5, 1.0, 1.5, 2.0}
    assert done.line()["eval_reward"] < 2 * done.em  # pass@4 counts more


@pytest.mark.parametrize(
    ("values", "off"),
    [
        # By hand, with 2.365 and 2.093 of the printed table for 7 and 19 degrees of freedom.
        ([0.0, 1.0] * 4, 2.365 * (2 / 7) ** 0.5 / 8**0.5),
        ([0.0, 2.0] * 10, 2.093 * (20 / 19) ** 0.5 / 20**0.5),
    ],
)
def test_the_interval_of_a_mean_is_students(values, off):
    """Mean and half width."""
    low, high = mean_interval(values)
    mean = sum(values) / len(values)
    assert (low + high) / 2 == pytest.approx(mean)
    assert (high - low) / 2 == pytest.approx(off, rel=1e-3)


def test_one_row_has_no_interval():
    """And a reward that is missing everywhere no mean."""
    assert mean_interval([1.0]) is None
    line = Evaluation("test", 1, None, 0.0, {"": [float("nan")]}).line()
    assert line["eval_reward"] is line["eval_reward_ci95"] is None


def test_cut_answers_are_counted_and_warned_of(tiny):
    """At 3 tokens nearly none can end; more than a tenth cut earns a line."""
    policy, prompts = tiny
    cfg = config(eval_max_new_tokens=3)
    done = score(policy, prompts, cfg)
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
