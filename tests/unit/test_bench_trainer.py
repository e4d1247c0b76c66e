"""The trainer's benchmark measures what it says: the same work, counted right. No times here."""

import json
import re
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from benchmarks._trainer import aims, engine, operations, ours, peer_venv, plain, work
from benchmarks._trainer.flops import fewest
from benchmarks._trainer.work import COMMON, SHAPES, Setting
from grpo_core.config.fields import MLXGRPOConfig
from grpo_core.model import tiny
from grpo_core.model.base_model import load_tokenizer_of
from grpo_core.trainer import prepare_data
from grpo_core.update.gradient import gradient
from grpo_core.update.logprobs import Head, token_stats

SMALL = {**COMMON, **SHAPES["small"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The small model and its prompts."""
    made = tmp_path_factory.mktemp("work")
    work.make(made, "small", work.problems(3_000))
    return made


@pytest.fixture(scope="module")
def bench(folder):
    """Two completions of eight tokens."""
    return engine.Engine(folder, Setting(2, 8))


# --- the work


def test_the_small_model_has_one_and_a_quarter_million_parameters(bench):
    """The size that all figures are told for."""
    count = sum(w.size for _, w in tree_flatten(bench.policy.model.parameters()))
    assert 1.25e6 < count < 1.35e6


def test_problems_have_right_answers_and_the_wanted_length(folder, bench):
    """Every number of a problem is added up; prompts are close to 116 tokens."""
    for row in work.problems(50):
        numbers = map(int, re.findall(r"\d+", row["question"]))
        assert row["answer"] == f"#### {sum(numbers)}"
    lengths = [len(ids) for ids in bench.prompts]
    assert max(abs(length - work.PROMPT_TOKENS) for length in lengths) <= 3


def test_no_completion_ends_early_but_where_it_is_to(bench):
    """The end token is not in the vocabulary."""
    assert all(len(ids) == 8 for ids in bench.draw()[0].completions)
    with bench.ending():
        assert min(bench.policy.eos_ids) == 0
    assert bench.policy.eos_ids == {bench.policy.vocab_size}


def test_all_ways_to_draw_give_the_same_tokens(bench):
    """What the shares compare is the same work."""
    [together] = bench.draw()
    one_by_one, repeated = bench.draw(1), bench.draw(repeat=True)
    for groups in (one_by_one, repeated):
        assert [group.completions[0] for group in groups] == together.completions


def test_the_update_that_is_timed_is_one(bench):
    """It moves the weights, however the plan is changed for it."""
    name, before = next(iter(bench.policy.trainable().items()))
    bench.learn(micro_batch_size=1)
    assert not mx.array_equal(bench.policy.trainable()[name], before)


def test_a_given_model_gets_the_prompts_that_the_trainer_makes(tmp_path):
    """By its own chat template; its end token is put where no completion can reach it."""
    work.make_given(tmp_path, tiny.model_path(), work.problems(100))
    setting = work.GIVEN_SETTING
    cfg = MLXGRPOConfig(**setting.config(tmp_path))
    known = json.loads((tmp_path / "prompts.json").read_text())
    assert known == [list(prompt.ids) for prompt in prepare_data(cfg).train]
    tokenizer = load_tokenizer_of(cfg)
    assert tokenizer.eos_token_ids == {work.model_config(tmp_path)["vocab_size"]}


# --- the count


def test_caches_that_are_joined_anew_give_the_same_tokens(bench, monkeypatch):
    """The way that the table of techniques compares with."""
    expected = bench.draw()[0].completions
    monkeypatch.setattr("grpo_core.model.decode_cache.DecodeCache.update_and_fetch", engine.joining)
    assert bench.draw()[0].completions == expected


def test_the_peer_gets_adapters_where_ours_has_some():
    """Of our default's rank and scale; none where all weights are trained."""
    cfg = MLXGRPOConfig()
    assert (work.GPU_SETTING.adapter_rank, Setting(8, 64).adapter_rank) == (cfg.lora_rank, 0)
    drivers = {name: peer_venv.Peer(name, Path()).driver.read_text() for name in peer_venv.PEERS}
    assert f'"scale": {cfg.lora_scale}' in drivers["mlx-lm-lora"]
    assert f"lora_alpha={cfg.lora_scale:g} * rank" in drivers["trl"]


def test_fewest_flops_by_hand():
    """3 prompt tokens and 2 x 2 more, of which 1 x 2 run: 5 tokens, 3 heads, 14 pairs."""
    config = {
        "hidden_size": 2,
        "intermediate_size": 3,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "num_hidden_layers": 1,
        "vocab_size": 5,
    }
    found = fewest(config, Setting(2, 2), 3)
    forward = 2 * 5 * (4 * 4 + 3 * 6) + 2 * 3 * 2 * 5 + 2 * 2 * 14 * 2
    assert (found.rollout, found.learning) == (forward, 3 * forward)
    assert fewest(config, Setting(2, 2, prompts=6), 3).total == 6 * 4 * forward


def test_adapters_save_the_base_its_gradient_by_weights():
    """Forward and backward pass of the base, all three of the adapters' products."""
    full, lora = fewest(SMALL, Setting(8, 64), 116), fewest(SMALL, Setting(8, 64), 116, rank=16)
    assert full.rollout < lora.rollout
    assert 2 * full.rollout < lora.learning < full.learning


@pytest.mark.parametrize(("prompt", "group", "tokens"), [(5, 3, 4), (1, 2, 1), (7, 1, 9)])
def test_attention_counts_each_key_that_a_token_sees(prompt, group, tokens):
    """By the masks themselves; sizes that only attention depends on are told apart by hidden 1."""
    config = dict.fromkeys(
        ("hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers"), 1
    ) | {"intermediate_size": 0, "vocab_size": 0}
    pairs = int(np.tril(np.ones((prompt, prompt))).sum())
    for row in range(prompt, prompt + tokens - 1):
        pairs += group * (row + 1)
    linear = 2 * 4 * (prompt + group * (tokens - 1))
    assert fewest(config, Setting(group, tokens), prompt).rollout == 4 * pairs + linear


# --- what is compared


def test_the_plain_batch_is_the_same_update(bench):
    """Both versions of it give our gradient."""
    ids = [sample.prompt_ids + tuple(sample.completion_ids) for sample in bench.samples]
    weights = mx.array([sample.advantage for sample in bench.samples])
    found = gradient(bench.policy, [bench.samples], bench.cfg, bench.plan).grads
    for of in plain.VERSIONS.values():
        step = nn.value_and_grad(bench.policy.model, plain.loss)
        _, grads = step(bench.policy.model, mx.array(ids), weights, len(ids[0]) - 8, of)
        for name, grad in tree_flatten(grads):
            np.testing.assert_allclose(np.array(grad), np.array(found[name]), atol=2e-6)


def test_the_head_by_autograd_is_the_head_by_hand(bench):
    """Log-probs, entropies and the gradient by the hidden states."""
    hidden = mx.random.normal((6, SMALL["hidden_size"]), key=mx.random.key(0))
    ids = mx.arange(6)
    how = Head(temperature=0.7, chunk=100)
    for mine, theirs in zip(
        token_stats(bench.policy.split, hidden, ids, how),
        engine.plain_stats(bench.policy.split, hidden, ids, how),
        strict=True,
    ):
        np.testing.assert_allclose(np.array(mine), np.array(theirs), rtol=1e-5)
    slopes = [
        np.array(mx.grad(lambda h, of=of: of(bench.policy.split, h, ids, how)[0].sum())(hidden))
        for of in (token_stats, engine.plain_stats)
    ]
    np.testing.assert_allclose(*slopes, atol=1e-5)


def test_a_run_is_read_update_by_update(folder):
    """Three updates, all of them real; the first has no line before it."""
    run = ours.train(folder, Setting(2, 4), 3)
    assert [update.line["update"] for update in run.updates] == [2, 3]
    assert all(update.line["grad_norm"] > 0 for update in run.updates)
    assert run.first_rollout_s > 0
    assert ours.summary([run], 2)["updates"] == 1


def test_a_constant_reward_leaves_nothing_to_learn(folder):
    """What a group without variance is measured with."""
    run = ours.train(folder, Setting(2, 4), 2, rewards=[f"{folder / 'reward.py'}:constant"])
    assert run.updates[0].line["grad_norm"] == 0


def test_the_better_number_of_threads_counts():
    """Its first step is left out, which is slow for both."""
    one = {"threads": 1, "steps": [{"total_s": 9.0}, {"total_s": 1.0}]}
    two = {"threads": 2, "steps": [{"total_s": 1.0}, {"total_s": 2.0}]}
    assert peer_venv.better([one, two], warm=1) is one


def test_operations_are_counted_by_kind():
    """Two products and one sum of 2 x 2; each has taken some time."""
    a = mx.ones((2, 2))
    found = operations.profile(lambda: mx.eval((a @ a) @ a + a))
    assert {kind: n for kind, (n, _) in found["kinds"].items()} == {"Matmul": 2, "Add": 1}
    assert all(seconds > 0 for _, seconds in found["kinds"].values())


# --- what is told


def figures(**ratios):
    """A run's figures as far as the table of targets reads them."""
    own = {"mlx_peak_bytes": 50e6, "rss_bytes": 200e6, "update_s": 1.0}
    memory = {"plain_completions": 200e6, "estimate": 60e6, "micro_batch_1": 46e6}
    one = {"setting": "8 x 64", "ours": own, "memory": memory, "floor": {"ratio": 1.5}}
    one["peers"] = {label: {"ratio": ratio} for label, ratio in ratios.items()}
    return {
        "settings": [one | {"apart": {"flat_update_s": 0.001}}],
        "six": None,
        "start_up": {"start_up_s": 0.9},
    }


def test_an_aim_that_is_missed_is_told():
    """46 MB are more than 45; without a peer there is no ratio."""
    met = {what: ok for what, _, _, ok in aims.targets(figures())}
    assert not met.pop("8 x 64: MLX peak with micro_batch_size=1, MB")
    assert all(met.values())
    assert not any("as fast as" in what for what in met)


def test_the_peers_ratio_counts_where_there_is_one():
    """TRL's 2.9 is less than 3; mlx-lm-lora with its own BLAS has no aim."""
    rows = list(aims.targets(figures(trl=2.9, **{"mlx-lm-lora": 1.0})))
    assert [row[3] for row in rows if "as fast as" in row[0]] == [False]


def test_a_line_fits_itself():
    """R^2 of a straight line is 1, of a bent one less."""
    assert aims.fit([(1, 3), (2, 5), (4, 9)]) == pytest.approx(1)
    assert aims.fit([(1, 1), (2, 4), (4, 16)]) < 0.98
