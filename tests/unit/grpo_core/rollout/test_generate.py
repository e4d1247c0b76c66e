"""Completions: how they end, what is kept, and that the batch around them does not matter."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from grpo_core.errors import Diverged, Interrupted
from grpo_core.model.random_keys import sample_key
from grpo_core.rollout import generate
from grpo_core.rollout.generate import decode_text, generate_groups
from grpo_core.rollout.sampling import Sampling
from tests.toy import EOS, Letters, toy_policy

PROMPT = (9, 3, 30)


@pytest.fixture(scope="module")
def policy():
    return toy_policy()


def sample(policy, n=16, prompts=(PROMPT,), most_rows=128, **settings):
    keys = [[sample_key(0, 0, p, s) for s in range(n)] for p in range(len(prompts))]
    sampling = Sampling(**{"temperature": 1.0, "max_tokens": 30, **settings})
    return generate_groups(policy, list(prompts), n, keys, sampling, most_rows=most_rows)


def letter(token):
    return chr(ord("A") + token)


# -- how a completion ends --------------------------------------------------------------------


def test_the_text_leaves_the_end_token_out_and_the_ids_keep_it(policy):
    """Every token is a letter here, so text and ids can be compared one by one."""
    (group,) = sample(policy, n=48)
    assert any(group.finished) and not all(group.finished)
    for ids, text, finished in zip(group.completions, group.texts, group.finished, strict=True):
        assert finished == (ids[-1] == EOS)
        assert text == "".join(letter(token) for token in ids if token != EOS)


@pytest.mark.parametrize("look", [1, 3, 8, 64])
def test_a_stop_text_ends_a_completion_at_its_first_place(policy, monkeypatch, look):
    """Tokens up to the one that completes the text, wherever the host happened to look."""
    (free,) = sample(policy)
    stops = (letter(20) + letter(35), letter(12))
    monkeypatch.setattr(generate, "LOOK_EVERY", look)
    (stopped,) = sample(policy, stop=stops)
    ended = 0
    for before, ids, text, finished in zip(
        free.texts, stopped.completions, stopped.texts, stopped.finished, strict=True
    ):
        places = [before.find(stop) + len(stop) for stop in stops if stop in before]
        assert text == (before[: min(places)] if places else before)
        assert finished == (bool(places) or ids[-1] == EOS)
        ended += bool(places)
    assert 0 < ended < 16
    for logprobs, ids in zip(stopped.logprobs, stopped.completions, strict=True):
        assert len(logprobs) == len(ids)


def test_an_end_token_at_the_limit_is_an_end(policy):
    """The same completion with a limit of exactly its length is still finished."""
    (group,) = sample(policy, n=48)
    number = next(
        i for i, ids in enumerate(group.completions) if group.finished[i] and len(ids) > 2
    )
    length = len(group.completions[number])
    (cut,) = sample(policy, n=48, max_tokens=length)
    assert cut.completions[number] == group.completions[number]
    assert cut.finished[number]
    (shorter,) = sample(policy, n=48, max_tokens=length - 1)
    assert shorter.completions[number] == group.completions[number][:-1]
    assert not shorter.finished[number]


def test_one_token_is_a_completion(policy):
    """The smallest limit there is."""
    (group,) = sample(policy, max_tokens=1)
    assert [len(ids) for ids in group.completions] == [1] * 16


# -- what must not matter ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("look", "rows"), [(1, 128), (5, 128), (64, 128), (8, 5), (8, 1), (3, 11), (1, 7)]
)
def test_looks_and_batches_do_not_change_a_token(policy, monkeypatch, look, rows):
    """However often the host looks and however many rows decode together."""
    prompts = [PROMPT, (12, 40, 21, 5, 17, 33), (2,), (1, 2, 3)]
    expected = sample(policy, 5, prompts)
    monkeypatch.setattr(generate, "LOOK_EVERY", look)
    found = sample(policy, 5, prompts, most_rows=rows)
    for one, other in zip(expected, found, strict=True):
        assert one.prompt_ids == other.prompt_ids
        assert one.completions == other.completions
        for a, b in zip(one.logprobs, other.logprobs, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


MANY = [PROMPT, (12, 40, 21, 5, 17, 33), (2,), (1, 2, 3), (7, 7), (30, 31), (5, 6, 7, 8, 9, 10)]


def test_rows_that_have_ended_give_their_places_to_waiting_prompts(policy, monkeypatch):
    """Fewer steps than batch after batch would take, each as long as its longest completion."""
    expected = [sample(policy, 2, MANY)[p].completions for p in range(len(MANY))]
    steps = []

    def counting(*args):
        steps.append(len(args[0]))
        return draw(*args)

    draw = generate.draw
    monkeypatch.setattr(generate, "draw", counting)
    monkeypatch.setattr(generate, "LOOK_EVERY", 2)
    found = sample(policy, 2, MANY, most_rows=4)
    assert [group.completions for group in found] == expected
    assert max(steps) == 4
    by_length = sorted(range(len(MANY)), key=lambda p: len(MANY[p]))
    batches = [by_length[i : i + 2] for i in range(0, len(MANY), 2)]
    one_after_the_other = sum(
        max(len(ids) for p in batch for ids in expected[p]) for batch in batches
    )
    assert len(steps) < one_after_the_other


def test_rows_that_come_in_late_know_their_own_tokens(policy):
    """A penalty for tokens that were seen: those of the row, not those of the place it takes."""
    settings = {"repetition_penalty": 1.5}
    expected = sample(policy, 2, MANY, **settings)
    found = sample(policy, 2, MANY, most_rows=5, **settings)
    assert [group.completions for group in found] == [group.completions for group in expected]


def test_the_batch_follows_from_tokens_alone(policy):
    """Drawn again, as after a kill: the same log-probs to the last bit, rows that came in late too.

    A batch of another size may round otherwise, so which rows are together must not depend on time.
    """
    first, second = (sample(policy, 2, MANY, most_rows=5) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert one.completions == other.completions
        for a, b in zip(one.logprobs, other.logprobs, strict=True):
            assert np.array_equal(a, b)


def test_sharing_a_prompt_does_not_change_a_token(policy):
    """With the model's own caches, a copy of the prompt for each row: the same completions."""
    prompts = [PROMPT, (12, 40, 21, 5, 17, 33), (4, 5, 6), (2,)]
    expected = sample(policy, 5, prompts)
    found = sample(replace(policy, can_share_prefix=False), 5, prompts)
    for one, other in zip(expected, found, strict=True):
        assert one.completions == other.completions
        for a, b in zip(one.logprobs, other.logprobs, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_nothing_is_drawn_from_the_global_state(policy):
    """Sampling neither uses MLX's random state nor moves it."""
    mx.random.seed(1)
    first = sample(policy)[0].completions
    after = mx.random.normal((3,)).tolist()
    mx.random.seed(1)
    assert mx.random.normal((3,)).tolist() == after
    assert sample(policy)[0].completions == first


# -- settings ---------------------------------------------------------------------------------


def test_sampling_needs_keys_and_greedy_does_not(policy):
    """Without keys there would be nothing to make draws repeatable."""
    with pytest.raises(ValueError, match="key"):
        generate_groups(policy, [PROMPT], 2, None, Sampling(1.0, 4))
    (group,) = generate_groups(policy, [PROMPT], 2, None, Sampling(0.0, 4, top_k=3))
    assert group.completions[0] == group.completions[1]
    assert group.sampling_logprobs is None


def test_asked_to_stop_it_stops_and_says_so(policy):
    """At the next look; nothing of the policy has changed."""
    asked = []

    def should_stop():
        asked.append(1)
        return len(asked) == 3

    keys = [[sample_key(0, 0, 0, s) for s in range(4)]]
    with pytest.raises(Interrupted):
        generate_groups(policy, [PROMPT], 4, keys, Sampling(1.0, 64), should_stop)
    assert len(asked) == 3


def test_text_of_nothing_is_nothing(policy):
    """An end token alone, and no token at all."""
    assert decode_text(policy, [EOS]) == ""
    assert decode_text(policy, []) == ""


class Specials(Letters):
    """Some letters are special tokens, one of them pads."""

    pad_token_id = 11

    def decode(self, ids, skip_special_tokens=False, **_):
        """Tokens as text."""
        special = (11, 20, 35) if skip_special_tokens else ()
        return super().decode([token for token in ids if token not in special])


def test_special_tokens_are_part_of_the_text_and_can_be_stop_texts():
    """Tags may be special tokens; rewards saw a text without them, and no stop text matched."""
    policy = toy_policy()
    policy.tokenizer = Specials()
    (free,) = sample(policy)
    for ids, text in zip(free.completions, free.texts, strict=True):
        assert text == "".join(letter(token) for token in ids if token not in (EOS, 11))
    stop = letter(20)
    (stopped,) = sample(policy, stop=(stop,))
    cut = [text.partition(stop)[0] + stop if stop in text else text for text in free.texts]
    assert any(stop in text for text in cut)
    assert stopped.texts == cut


def test_a_policy_that_gives_nan_is_no_policy():
    """NaN logits draw token 0 for ever; greedy decoding, as in evaluation, is no better."""
    broken = toy_policy()
    broken.model.model.layers[1].mlp.up_proj.weight *= mx.inf
    for temperature in (0.0, 1.0):
        with pytest.raises(Diverged, match=r"weights of model\.layers\.1\.mlp\.up_proj\.weight"):
            sample(broken, temperature=temperature)
