"""Rollouts on a small random Qwen2, against the numpy oracle's model and numpy's own filters."""

import mlx.core as mx
import numpy as np
import pytest

from grpo_core.model.random_keys import sample_key, to_array
from grpo_core.rollout.generate import generate_groups
from grpo_core.rollout.sampling import Sampling, draw, pick
from tests.oracle_model import forward, token_logps
from tests.toy import EOS, LIMIT, SHAPE, TEMPERATURE, toy_policy, weights_of

PROMPTS = [(9, 3, 30), (12, 40, 21, 5, 17, 33), (2,)]
FILTERS = {
    "none": {},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.6},
    "min_p": {"min_p": 0.2},
    "penalty": {"repetition_penalty": 1.7},
    "reward": {"repetition_penalty": 0.5},
    "all": {"top_k": 12, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.3},
}


def keys_for(prompts, n, seed=0):
    return [[sample_key(seed, 3, p, s) for s in range(n)] for p in range(len(prompts))]


def sample(policy, prompts=PROMPTS, n=6, keys=None, temperature=TEMPERATURE, **filters):
    sampling = Sampling(temperature=temperature, max_tokens=LIMIT, **filters)
    return generate_groups(policy, prompts, n, keys or keys_for(prompts, n), sampling)


def penalised(logits, ids, repetition_penalty=1.0, **_):
    """As transformers' RepetitionPenaltyLogitsProcessor: each token that came before, once."""
    found = np.array(logits)
    for token in set(ids):
        score = found[token]
        found[token] = score / repetition_penalty if score > 0 else score * repetition_penalty
    return found


def allowed(logits, top_k=0, top_p=1.0, min_p=0.0, **_):
    """Indices that are left: top_k best; fewest that reach top_p of those; min_p of the best."""
    left = sorted(range(len(logits)), key=lambda i: -logits[i])
    if top_k:
        left = left[:top_k]
    probs = np.exp(logits[left] - logits[left].max())
    probs /= probs.sum()
    count = next(n for n in range(1, len(left) + 1) if probs[:n].sum() >= top_p - 1e-9)
    left, probs = left[:count], probs[:count]
    return [i for i, p in zip(left, probs, strict=True) if p >= min_p * probs[0]]


@pytest.mark.parametrize("name", FILTERS)
def test_logprobs_of_sampled_tokens_are_the_oracles(name):
    """The policy's at the sampling temperature over the whole vocabulary, and after the filters."""
    policy = toy_policy()
    weights = weights_of(policy)
    for group in sample(policy, **FILTERS[name]):
        assert (group.sampling_logprobs is None) == (name == "none")
        for s, ids in enumerate(group.completions):
            prompt = list(group.prompt_ids)
            expected, _ = token_logps(weights, SHAPE, prompt, ids, TEMPERATURE)
            np.testing.assert_allclose(group.logprobs[s], expected, atol=1e-5)
            if group.sampling_logprobs is None:
                continue
            plain = forward(weights, SHAPE, prompt + ids[:-1])[len(prompt) - 1 :]
            for t, token in enumerate(ids):
                logits = penalised(plain[t], prompt + ids[:t], **FILTERS[name]) / TEMPERATURE
                left = allowed(logits, **FILTERS[name])
                assert token in left
                expected = logits[token] - np.log(np.exp(logits[left]).sum())
                assert group.sampling_logprobs[s][t] == pytest.approx(expected, abs=1e-5)


def test_a_completion_ends_with_its_end_token_or_at_the_limit():
    """The end token is kept, nothing follows it, and `finished` tells the two apart."""
    groups = sample(toy_policy(), n=64)
    ended = 0
    for group in groups:
        for ids, finished in zip(group.completions, group.finished, strict=True):
            assert EOS not in ids[:-1]
            assert finished == (ids[-1] == EOS)
            assert finished or len(ids) == LIMIT
            ended += finished
    assert 0 < ended < 3 * 64


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_tokens_are_drawn_from_the_policy_at_its_temperature(temperature):
    """Frequencies of 8,192 first tokens are the oracle's probabilities.

    The largest deviation of one frequency has a standard error below sqrt(p / 8192) < 0.006.
    """
    policy, n = toy_policy(), 8192
    sampling = Sampling(temperature=temperature, max_tokens=1)
    (group,) = generate_groups(policy, PROMPTS[:1], n, keys_for(PROMPTS[:1], n), sampling)
    counts = np.bincount([ids[0] for ids in group.completions], minlength=48)
    logits = forward(weights_of(policy), SHAPE, list(PROMPTS[0]))[-1] / temperature
    probs = np.exp(logits - logits.max())
    probs /= probs.sum()
    errors = np.sqrt(probs / n)
    assert np.abs(counts / n - probs).max() < 4 * errors.max()
    assert ((counts / n - probs) ** 2 / errors**2).sum() < 48 + 5 * np.sqrt(2 * 48)


def test_draws_depend_on_their_keys_and_on_nothing_else():
    """Alone, together, in another order, with other neighbours: the same tokens."""
    policy, keys = toy_policy(), keys_for(PROMPTS, 6)
    together = [group.completions for group in sample(policy, keys=keys)]
    backwards = sample(policy, PROMPTS[::-1], keys=keys[::-1])[::-1]
    assert [group.completions for group in backwards] == together
    for p, prompt in enumerate(PROMPTS):
        (alone,) = sample(policy, [prompt], n=2, keys=[keys[p][4:]])
        assert alone.completions == together[p][4:]
    other = [group.completions for group in sample(policy, keys=keys_for(PROMPTS, 6, seed=1))]
    assert other != together
    assert len({tuple(ids) for ids in together[1]}) > 1


def test_a_penalty_makes_tokens_rarer_that_came_before():
    """Of those of the prompt and of the completion; rows that end leave the others' as they are."""
    policy = toy_policy()

    def repeated(penalty):
        count = 0
        for group in sample(policy, n=16, repetition_penalty=penalty):
            for ids in group.completions:
                before = [{*group.prompt_ids, *ids[:t]} for t in range(len(ids))]
                count += sum(token in seen for token, seen in zip(ids, before, strict=True))
        return count

    assert repeated(1e6) < repeated(1.0) / 4 < repeated(1.0) < repeated(0.3)


@pytest.mark.parametrize("place", ["seed", "update", "prompt", "sample", "round", "step"])
def test_draws_that_differ_in_one_number_are_independent(place):
    """On flat logits two draws agree once in V times, whatever the number that tells them apart."""
    n, size, flat = 8192, 16, Sampling(temperature=1.0, max_tokens=1)
    base = {"seed": 0, "update": 1, "prompt": 2, "sample": 3, "round": 0}

    def drawn(**changes):
        step = changes.pop("step", 0)
        names = {**base, **changes}
        vary = "sample" if place != "sample" else "prompt"
        keys = to_array([sample_key(**{**names, vary: names[vary] + 2 * i}) for i in range(n)])
        return np.array(draw(mx.zeros((n, size)), keys, step, flat)[0])

    first, second = drawn(), drawn(**{place: base.get(place, 0) + 1})
    share = (first == second).mean()
    assert share == pytest.approx(1 / size, abs=5 * np.sqrt(1 / size / n))


def test_greedy_takes_the_likeliest_token_each_time():
    """Temperature 0 follows the oracle's argmax, with log-probs at temperature 1."""
    policy = toy_policy()
    weights = weights_of(policy)
    sampling = Sampling(temperature=0, max_tokens=LIMIT)
    for group in generate_groups(policy, PROMPTS, 1, None, sampling):
        (ids,) = group.completions
        prompt = list(group.prompt_ids)
        logits = forward(weights, SHAPE, prompt + ids[:-1])[len(prompt) - 1 :]
        assert ids == logits.argmax(axis=-1).tolist()
        expected, _ = token_logps(weights, SHAPE, prompt, ids, 1.0)
        np.testing.assert_allclose(group.logprobs[0], expected, atol=1e-5)


def drawn_by_numpy(odds, luck):
    """A block by its sum, then a token of it, each where the sum so far first exceeds its share."""
    width = 8  # 64 tokens are 8 blocks
    blocks = odds.astype(np.float64).reshape(-1, width)
    sums = np.cumsum(blocks.sum(axis=1))
    block = int(np.argmax(sums > luck[0] * sums[-1]))
    within = np.cumsum(blocks[block])
    return block * width + int(np.argmax(within > luck[1] * within[-1]))


def test_tokens_are_drawn_as_numpy_draws_them():
    """By the same two numbers a row: 4,000 draws, a fifth of the tokens ruled out."""
    rows = np.random.default_rng(0)
    logits = np.where(rows.random((4000, 64)) < 0.2, -np.inf, rows.normal(0, 4, (4000, 64)))
    keys = to_array([sample_key(0, 1, 2, s) for s in range(4000)])
    step = mx.array([0, 5], mx.uint32)
    luck = [np.array(mx.random.uniform(shape=(2,), key=key)) for key in keys + step]
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = [drawn_by_numpy(*row) for row in zip(odds, luck, strict=True)]
    found = draw(mx.array(logits, mx.float32), keys, 5, Sampling(1.0, 8))[0].tolist()
    # A share that lies at the very edge of a token may fall to its neighbour in fp32.
    assert sum(a != b for a, b in zip(found, expected, strict=True)) <= 2
    assert all(np.isfinite(logits[row, token]) for row, token in enumerate(found))


@pytest.mark.parametrize("vocab", [1, 7, 64, 101])
def test_each_token_is_drawn_as_often_as_its_odds_say(vocab):
    """20,000 draws from vocabularies that do and do not part into blocks; chi-square to 5 sigma."""
    n = 20_000
    odds = np.random.default_rng(1).exponential(size=vocab)
    odds[::5] = 0 if vocab > 1 else 1
    shares = odds / odds.sum()
    keys = to_array([sample_key(0, 1, 3, s) for s in range(n)])
    found = pick(mx.array(np.broadcast_to(odds, (n, vocab)), mx.float32), keys)
    counts = np.bincount(np.array(found), minlength=vocab)
    there = shares > 0
    assert counts[~there].sum() == 0
    chi = ((counts - n * shares)[there] ** 2 / (n * shares[there])).sum()
    freedom = there.sum() - 1
    assert chi <= freedom + 5 * np.sqrt(2 * freedom)


def test_a_share_that_drowns_in_the_sum_is_drawn_all_the_same():
    """Each of 40,000 tokens at 2.5e-8 of the first adds nothing to 1 in fp32; together they do."""
    n, vocab = 4_000, 40_000
    odds = np.full(vocab, 2.5e-8, np.float32)
    odds[0] = 1
    share = odds[1:].astype(np.float64).sum() / odds.astype(np.float64).sum()
    keys = to_array([sample_key(0, 1, 4, s) for s in range(n)])
    rows = mx.array(np.tile(odds, (500, 1)))
    parts = [np.array(pick(rows, keys[s : s + 500])) for s in range(0, n, 500)]
    found = np.concatenate(parts)
    assert (found > 0).sum() == pytest.approx(n * share, abs=5 * np.sqrt(n * share))
