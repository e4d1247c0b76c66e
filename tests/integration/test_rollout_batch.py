"""From prompts to weighed samples on a small random Qwen2: rewards and advantages by the oracle."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from grpo_core.data.examples import Example
from grpo_core.data.prompts import Prompt
from grpo_core.rewards.builtin import Rewards
from grpo_core.update import gradient as update
from grpo_core.update.learner import Learner
from grpo_core.update.memory_plan import MemoryPlan
from grpo_core.update.micro_batches import NOTHING, Count
from grpo_core.update.rollout_batch import draw_batch
from grpo_core.update.schedule import Position
from tests import oracle
from tests.toy import EOS, LIMIT, config, toy_policy, weights_of

PROMPTS = [(9, 3, 30), (12, 40, 21, 5, 17, 33), (2,)]
BUFFER = 3


def prompts():
    found = []
    for index, ids in enumerate(PROMPTS):
        example = Example(index=index, prompt="?", answer="E", row={}, line=f"row {index}")
        found.append(Prompt(example, ids, "?"))
    return found


def early(text, _):
    """How many of the letters come before M."""
    return float(sum(letter < "M" for letter in text))


def same(text, _):
    return 1.0


def rare(text, _):
    """Such that most groups have none, or all the same."""
    return float(text.startswith(("B", "C", "D", "E")))


def rollouts(rewards, weights, number=5, others=(), **more):
    cfg = config(num_generations=8, **more)
    judge = Rewards(rewards, replace(cfg, reward_weights=weights))
    return draw_batch(toy_policy(), judge, prompts(), cfg, number, lambda: False, others=others)


# The one update that learns from the three prompts.
WHOLE = Position(epoch=0, start=0, stop=3, first=0, last=3, iteration=0)


def all_skipped(found):
    return found.minibatch(0, 3)[1]


def expected_rewards(groups, weight, penalty):
    """The weighted reward and the overlong penalty of each sample, from its token ids."""
    total = []
    for group in groups:
        row = []
        for sample in group:
            ids = [token for token in sample.completion_ids if token != EOS]
            letters = "".join(chr(ord("A") + token) for token in ids)
            length = len(sample.completion_ids)
            cost = oracle.overlong_penalty(length, LIMIT, BUFFER, penalty) if penalty else 0.0
            row.append(weight * early(letters, "") + cost)
        total.append(row)
    return np.array(total)


@pytest.mark.parametrize("penalty", [0.0, 0.8])
@pytest.mark.parametrize(
    ("loss_type", "scale", "expected"),
    [
        ("dapo", "auto", lambda r: oracle.advantages(r, "group")),
        ("grpo", "batch", lambda r: oracle.advantages(r, "batch")),
        ("dr_grpo", "auto", lambda r: oracle.advantages(r, "none")),
        ("rloo", "auto", oracle.leave_one_out),
    ],
)
def test_samples_carry_the_oracles_advantages(loss_type, scale, expected, penalty):
    """Each sample's own reward, against its own group: weights, penalty and order included."""
    more = {"overlong_buffer": BUFFER, "overlong_penalty": penalty} if penalty else {}
    found = rollouts(
        {"early": early, "same": same}, [0.5, 0.0], loss_type=loss_type, scale_rewards=scale, **more
    )
    rewards = expected_rewards(found.groups, 0.5, penalty)
    assert rewards.shape == (3, 8)
    got = [[sample.advantage for sample in group] for group in found.groups]
    np.testing.assert_allclose(got, expected(rewards), atol=1e-9)
    assert found.figures["reward_mean"] == pytest.approx(rewards.mean())
    assert found.figures["reward_std"] == pytest.approx(rewards.std(axis=1, ddof=1).mean())
    assert [group[0].prompt_ids for group in found.groups] == PROMPTS


def test_a_sample_knows_whether_it_was_cut():
    """Truncated is what has no end token: it hit the limit."""
    found = rollouts({"early": early}, [1.0])
    samples = [sample for group in found.groups for sample in group]
    for sample in samples:
        assert sample.truncated == (sample.completion_ids[-1] != EOS)
        assert not sample.truncated or len(sample.completion_ids) == LIMIT
    cut = np.mean([sample.truncated for sample in samples])
    assert found.figures["truncated_frac"] == pytest.approx(cut)


def test_flat_groups_are_left_out_or_kept_without_advantage():
    """Equal rewards say nothing: `skip` drops the group, `keep` keeps it with advantages 0."""
    skipped = rollouts({"same": same}, [1.0], zero_variance="skip")
    assert skipped.groups == []
    assert all_skipped(skipped) == Count(24, skipped.tokens)
    kept = rollouts({"same": same}, [1.0], zero_variance="keep")
    assert [len(group) for group in kept.groups] == [8, 8, 8]
    assert not any(sample.advantage for group in kept.groups for sample in group)
    assert all_skipped(kept) == NOTHING


def test_truncated_completions_of_a_skipped_group_count_without_their_tokens():
    """With `mask_truncated` they are in the means as those of any other group are."""
    found = rollouts({"same": same}, [1.0], zero_variance="skip", mask_truncated=True)
    kept = rollouts({"same": same}, [1.0], zero_variance="keep")
    samples = [sample for group in kept.groups for sample in group]
    ended = [sample for sample in samples if not sample.truncated]
    assert len(samples) > len(ended) > 0
    tokens = sum(len(sample.completion_ids) for sample in ended)
    assert all_skipped(found) == Count(len(samples), tokens)


@pytest.mark.parametrize("mask_truncated", [False, True])
@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo", "gspo", "cispo", "rloo"])
def test_skipping_flat_groups_changes_no_gradient(loss_type, mask_truncated):
    """`skip` saves the cost of groups without advantage: loss and gradient are those of `keep`."""

    def step(zero_variance):
        more = {"loss_type": loss_type, "mask_truncated": mask_truncated}
        found = rollouts({"rare": rare}, [1.0], zero_variance=zero_variance, **more)
        cfg, plan = config(**more), MemoryPlan(8, 64, False, True)
        gradient = update.gradient(
            toy_policy(), found.groups, cfg, plan, skipped=all_skipped(found)
        )
        return len(found.groups), gradient

    (learnt, skipping), (everything, keeping) = step("skip"), step("keep")
    assert 0 < learnt < everything
    for name in ("loss", "policy_reward"):
        assert skipping.stats[name] == pytest.approx(keeping.stats[name], rel=1e-5)
    for name, grad in keeping.grads.items():
        size = np.abs(np.array(grad)).max()
        np.testing.assert_allclose(skipping.grads[name], grad, atol=1e-5 * size, err_msg=name)


def test_a_step_over_skipped_groups_is_the_step_over_kept_ones():
    """The same norm in the log and the same weights afterwards."""
    weights, norms = [], []
    for zero_variance in ("skip", "keep"):
        found = rollouts({"rare": rare}, [1.0], zero_variance=zero_variance)
        policy, plan = toy_policy(), MemoryPlan(8, 64, False, True)
        learner = Learner(policy, config(), plan, lambda: None, print)
        norms.append(learner.step(found, 1, WHOLE, 1e-3, lambda: False).figures["grad_norm"])
        weights.append(weights_of(policy))
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    for name, value in weights[0].items():
        # The first step of Adam is lr wherever a gradient is not nearly 0.
        close = np.isclose(value, weights[1][name], atol=1e-5)
        assert close.mean() > 0.99, name


def test_the_log_of_an_update_is_over_what_was_run():
    """Entropy and ratio are means over the tokens that were run, however many were skipped."""
    found = rollouts({"rare": rare}, [1.0], zero_variance="skip")
    cfg, plan = config(), MemoryPlan(8, 64, False, True)
    with_skipped = update.gradient(
        toy_policy(), found.groups, cfg, plan, skipped=all_skipped(found)
    )
    without = update.gradient(toy_policy(), found.groups, cfg, plan)
    assert all_skipped(found).tokens > 0
    for name in ("entropy", "ratio", "clip_frac"):
        assert with_skipped.stats[name] == pytest.approx(without.stats[name])


def test_resampled_groups_are_drawn_with_other_keys():
    """A flat group is drawn again, and other groups stay as they are."""

    def tokens(zero_variance, **more):
        found = rollouts({"rare": rare}, [1.0], zero_variance=zero_variance, **more)
        return {g[0].prompt_ids: [s.completion_ids for s in g] for g in found.groups}, found

    (skipped, _), (drawn, again) = tokens("skip"), tokens("resample", resample_rounds=8)
    assert len(skipped) < len(drawn) <= 3
    assert {prompt: drawn[prompt] for prompt in skipped} == skipped
    assert again.tokens > sum(len(ids) for group in drawn.values() for ids in group)


def ids_of(group):
    return [sample.completion_ids for sample in group]


def spare(*numbers):
    """Prompts that an update does not have, each a token of its own."""
    for number in numbers:
        example = Example(100 + number, "?", "E", {}, f"row {100 + number}")
        yield Prompt(example, (number, 3), "?")


def test_a_refill_puts_useful_groups_of_other_prompts_in_the_place_of_flat_ones():
    """What was useful stays where it was, and no group that is learnt from is flat."""
    plain = rollouts({"rare": rare}, [1.0], zero_variance="skip")
    own = {group[0].group: ids_of(group) for group in plain.groups}
    assert 0 < len(own) < 3
    filled = rollouts(
        {"rare": rare}, [1.0], zero_variance="refill", resample_rounds=9, others=spare(*range(20))
    )
    assert [group[0].group for group in filled.groups] == [0, 1, 2]
    for group in filled.groups:
        place = group[0].group
        assert ids_of(group) == own.get(place, ids_of(group))
        assert (group[0].prompt_ids in PROMPTS) == (place in own)
        assert any(sample.advantage for sample in group)
    assert filled.figures["useful_groups"] == 3
    assert filled.tokens == plain.tokens + filled.figures["redrawn_tokens"]
    assert all_skipped(filled) == NOTHING


def test_a_refill_that_finds_nothing_useful_ends_with_its_bound():
    """Then it is as if there had been none, but for what it cost."""
    others = spare(*range(20))
    found = rollouts(
        {"same": same}, [1.0], zero_variance="refill", resample_rounds=2, others=others
    )
    assert found.groups == []
    assert all_skipped(found).sequences == 24
    assert len(list(others)) == 20 - 2 * 3
    assert found.figures["useful_groups"] == 0


def test_a_refill_without_other_prompts_leaves_the_batch_as_it_is():
    """A data set may have no more rows than an update takes."""
    plain = rollouts({"rare": rare}, [1.0], zero_variance="skip")
    found = rollouts({"rare": rare}, [1.0], zero_variance="refill")
    assert [ids_of(group) for group in found.groups] == [ids_of(group) for group in plain.groups]
    assert found.tokens == plain.tokens


def rewards_of(group):
    """What `rare` gives to each completion, from its token ids."""
    letters = ["".join(chr(ord("A") + t) for t in ids if t != EOS) for ids in ids_of(group)]
    return [rare(text, "") for text in letters]


def test_a_group_goes_on_only_where_its_first_completions_differ():
    """What is drawn are the completions of a whole draw; a flat part is all there is of a group."""
    whole = rollouts({"rare": rare}, [1.0], zero_variance="keep")
    found = rollouts({"rare": rare}, [1.0], early_group_size=4, overlong_buffer=BUFFER)
    goes_on = [g for g in whole.groups if len(set(rewards_of(g)[:4])) > 1]
    broken_off = [g[:4] for g in whole.groups if len(set(rewards_of(g)[:4])) == 1]
    assert goes_on and broken_off
    assert [ids_of(group) for group in found.groups] == [ids_of(group) for group in goes_on]
    lengths = [[len(ids) for ids in ids_of(group)] for group in (*goes_on, *broken_off)]
    assert found.tokens == sum(map(sum, lengths))
    assert all_skipped(found) == Count(4 * len(broken_off), sum(map(sum, lengths[len(goes_on) :])))
    assert found.figures["broken_off_groups"] == len(broken_off)
    assert found.figures["saved_tokens"] == sum(map(sum, lengths[len(goes_on) :]))
    assert found.figures["frac_reward_zero_std"] == pytest.approx(len(broken_off) / 3)


def test_the_log_speaks_of_what_was_drawn_of_every_group():
    """What is drawn behind that is a choice: groups that go on would count twice as much."""
    whole = rollouts({"rare": rare}, [1.0], zero_variance="keep")
    found = rollouts({"rare": rare}, [1.0], early_group_size=4)
    rewards = np.array([rewards_of(group)[:4] for group in whole.groups])
    lengths = [len(ids) for group in whole.groups for ids in ids_of(group)[:4]]
    assert found.figures["reward_mean"] == pytest.approx(rewards.mean())
    assert found.figures["reward/rare"] == pytest.approx(rewards.mean())
    assert found.figures["reward_std"] == pytest.approx(rewards.std(axis=1, ddof=1).mean())
    assert found.figures["completion_length"] == pytest.approx(np.mean(lengths))


@pytest.mark.parametrize("more", [{"num_train_generations": 3}, {"scale_rewards": "batch"}])
def test_a_group_that_goes_on_teaches_what_it_teaches_when_drawn_at_once(more):
    """Its advantages are of all its rewards, whatever is missing in the others."""
    whole = rollouts({"early": early}, [1.0], **more)
    found = rollouts({"early": early}, [1.0], early_group_size=2, **more)
    assert found.figures["broken_off_groups"] == 0
    for group, other in zip(found.groups, whole.groups, strict=True):
        assert ids_of(group) == ids_of(other)
        assert [s.advantage for s in group] == [s.advantage for s in other]
        pairs = zip(group, other, strict=True)
        assert all(np.array_equal(a.sampling_logprobs, b.sampling_logprobs) for a, b in pairs)


@pytest.mark.parametrize("loss_type", ["dapo", "dr_grpo", "rloo"])
def test_fewer_completions_are_learnt_from_than_were_drawn(loss_type):
    """PODS: the subset of greatest variance, and the mean and deviation are those of the subset.

    By numpy over every subset, from the rewards of all that was drawn.
    """
    whole = rollouts({"early": early}, [1.0], loss_type=loss_type)
    some = rollouts({"early": early}, [1.0], loss_type=loss_type, num_train_generations=3)
    rewards = expected_rewards(whole.groups, 1.0, 0.0)
    chosen = expected_rewards(some.groups, 1.0, 0.0)
    assert chosen.shape == (3, 3)
    for all_of, few in zip(rewards, chosen, strict=True):
        best = max(np.var(each) for each in combinations(all_of, 3))
        assert np.var(few) == pytest.approx(best)
    centred = chosen - chosen.mean(axis=1, keepdims=True)
    expected = {
        "dapo": centred / (chosen.std(axis=1, ddof=1, keepdims=True) + 1e-4),
        "dr_grpo": centred,
        "rloo": centred * 3 / 2,
    }[loss_type]
    got = [[sample.advantage for sample in group] for group in some.groups]
    np.testing.assert_allclose(got, expected, atol=1e-9)
    assert some.tokens == whole.tokens
    assert some.figures["reward_mean"] == whole.figures["reward_mean"]


def test_completions_that_are_left_out_are_shown_without_an_advantage():
    """What people read is the whole group."""
    found = rollouts({"early": early}, [1.0], num_train_generations=2, log_completions=8)
    known = [line["advantage"] for line in found.shown if not np.isnan(line["advantage"])]
    assert len(found.shown) == 8
    assert known == [sample.advantage for sample in found.groups[0]]


def late(text, _):
    """The mirror of `early`, so that both together are the same for texts of one length."""
    return float(sum(letter >= "M" for letter in text))


def test_each_reward_may_be_normalised_by_itself():
    """GDPO over the rewards of the very completions, the overlong penalty as one of them."""
    found = rollouts(
        {"early": early, "late": late, "same": same}, [1.0, 0.5, 0.0],
        multi_objective_aggregation="normalize_then_sum", overlong_buffer=BUFFER,
    )  # fmt: skip
    texts = [
        ["".join(chr(ord("A") + t) for t in s.completion_ids if t != EOS) for s in group]
        for group in found.groups
    ]
    lengths = [[len(s.completion_ids) for s in group] for group in found.groups]
    values = np.array(
        [
            [[early(text, "") for text in group] for group in texts],
            [[late(text, "") for text in group] for group in texts],
            [[oracle.overlong_penalty(n, LIMIT, BUFFER, 1.0) for n in g] for g in lengths],
        ]
    )
    centred = values - values.mean(axis=2, keepdims=True)
    by_group = centred / (values.std(axis=2, ddof=1, keepdims=True) + 1e-4)
    total = np.tensordot([1.0, 0.5, 1.0], by_group, axes=1)
    expected = (total - total.mean()) / (total.std(ddof=1) + 1e-4)
    got = [[sample.advantage for sample in group] for group in found.groups]
    np.testing.assert_allclose(got, expected, atol=1e-9)


def test_a_minibatch_is_its_prompts_groups_and_what_they_skipped():
    """By the places of the prompts, whichever of them are flat."""
    found = rollouts({"rare": rare}, [1.0], zero_variance="skip")
    kept = rollouts({"rare": rare}, [1.0], zero_variance="keep")
    for first, last in ((0, 1), (1, 3), (0, 3)):
        groups, skipped = found.minibatch(first, last)
        assert all(first <= group[0].group < last for group in groups)
        assert 8 * len(groups) + skipped.sequences == 8 * (last - first)
        tokens = sum(len(s.completion_ids) for group in groups for s in group)
        everything = sum(len(s.completion_ids) for g in kept.groups[first:last] for s in g)
        assert tokens + skipped.tokens == everything


def test_another_update_draws_other_completions():
    """The same rows in a later epoch are not answered with the same draws."""
    first, second = (
        [[s.completion_ids for s in g] for g in rollouts({"early": early}, [1.0], number=u).groups]
        for u in (5, 6)
    )
    assert first != second


@pytest.mark.parametrize("top_k", [0, 4])
def test_each_sample_knows_what_it_was_drawn_with(top_k):
    """The log says how far that is from the policy: nothing but rounding without a filter."""
    found = rollouts({"early": early}, [1.0], top_k=top_k)
    for sample in (s for group in found.groups for s in group):
        assert len(sample.sampling_logprobs) == len(sample.completion_ids)
    cfg, plan = config(top_k=top_k), MemoryPlan(8, 64, False, True)
    apart = update.gradient(toy_policy(), found.groups, cfg, plan).stats["sampling_logp_difference"]
    assert apart > 0.01 if top_k else apart < 1e-4


def test_the_log_knows_the_spread_of_rewards_and_lengths():
    """By numpy over the samples that were drawn."""
    found = rollouts({"early": early, "same": same}, [0.5, 0.0])
    lengths = [len(sample.completion_ids) for group in found.groups for sample in group]
    assert found.figures["completion_length_min"] == min(lengths)
    assert found.figures["completion_length_max"] == max(lengths)
    rewards = expected_rewards(found.groups, 1.0, 0.0)
    spread = rewards.std(axis=1, ddof=1).mean()
    assert found.figures["reward_std/early"] == pytest.approx(spread)
    assert found.figures["reward_std/same"] == 0
