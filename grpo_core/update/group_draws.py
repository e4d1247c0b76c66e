"""The groups that one update draws: each prompt's, and further ones where those teach nothing.

How tokens are drawn is in `rollout/`, what they earn in `judged_groups.py`. Every draw has keys
made of seed, update, row, sample and round alone, so that a run that is killed draws the same
again.

With `early_group_size` a group is drawn in two parts, the second one only where the first has
variance: by Metal's measures of mlx-rl 45 to 48% of all completions were drawn for groups that
taught nothing. What is lost are groups that would have differed in the second part alone.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from grpo_core.config import MLXGRPOConfig
from grpo_core.data.prompts import Prompt
from grpo_core.model.policy import Policy
from grpo_core.model.random_keys import sample_key
from grpo_core.rewards.builtin import Rewards
from grpo_core.rollout.generate import Group, generate_groups
from grpo_core.rollout.sampling import Sampling
from grpo_core.run.signals import ShouldStop
from grpo_core.update.judged_groups import JudgedGroup, judge_groups


class GroupDraws:
    """The draws of one update, with the tokens and the seconds that they took.

    `flat` says of each row that was drawn whether its first group was flat; `broken_off` counts the
    groups of which only a part was drawn, `saved_tokens` what the rest would have taken at the
    length of that part. `sample` is what was drawn of each prompt at first, whatever it earned: all
    that is drawn behind it is a choice, by which groups with variance would count for more.
    """

    def __init__(
        self,
        policy: Policy,
        rewards: Rewards,
        cfg: MLXGRPOConfig,
        update: int,
        should_stop: ShouldStop,
        most_rows: int,
    ) -> None:
        self.tokens = 0
        self.flat: dict[int, bool] = {}
        self.sample: list[JudgedGroup] = []
        self.broken_off = 0
        self.saved_tokens = 0
        self.rollout_s = 0.0
        self.reward_s = 0.0
        self._policy = policy
        self._rewards = rewards
        self._cfg = cfg
        self._update = update
        self._should_stop = should_stop
        self._most_rows = most_rows

    def draw(self, prompts: Sequence[Prompt], round: int) -> list[JudgedGroup]:
        """A group for each prompt, judged. Raises RewardError, and Interrupted.

        Of a group that is broken off, the rewards that were not drawn are missing (NaN).
        """
        size, early = self._cfg.num_generations, self._cfg.early_group_size
        groups = self._generate(prompts, range(early or size), round)
        judged = self._judge(prompts, groups)
        if round == 0:
            self.sample = list(judged)
        if early:
            goes_on = [p for p, each in enumerate(judged) if not each.is_flat]
            chosen = [prompts[p] for p in goes_on]
            rest = self._generate(chosen, range(early, size), round)
            whole = [joined(groups[p], more) for p, more in zip(goes_on, rest, strict=True)]
            judged = [self._broken_off(each) if each.is_flat else each for each in judged]
            # As a whole, not the rest alone: a reward may compare the completions of a group.
            for p, each in zip(goes_on, self._judge(chosen, whole), strict=True):
                judged[p] = each
        for each in judged:
            self.flat.setdefault(each.prompt.example.index, each.is_flat)
        return judged

    def _generate(self, prompts: Sequence[Prompt], samples: range, round: int) -> list[Group]:
        cfg, start = self._cfg, time.perf_counter()
        keys = [
            [
                sample_key(cfg.seed, self._update, p.example.index, sample, round)
                for sample in samples
            ]
            for p in prompts
        ]
        groups = generate_groups(
            self._policy,
            [prompt.ids for prompt in prompts],
            len(samples),
            keys,
            Sampling.of(cfg),
            self._should_stop,
            self._most_rows,
        )
        self.rollout_s += time.perf_counter() - start
        self.tokens += sum(len(ids) for group in groups for ids in group.completions)
        return groups

    def _judge(self, prompts: Sequence[Prompt], groups: Sequence[Group]) -> list[JudgedGroup]:
        if not groups:
            return []
        start = time.perf_counter()
        judged = judge_groups(self._rewards, prompts, groups, self._cfg, self._should_stop)
        self.reward_s += time.perf_counter() - start
        return judged

    def _broken_off(self, judged: JudgedGroup) -> JudgedGroup:
        drawn = [len(ids) for ids in judged.group.completions]
        missing = self._cfg.num_generations - len(drawn)
        self.broken_off += 1
        self.saved_tokens += round(missing * sum(drawn) / len(drawn))

        def filled(rewards: np.ndarray) -> np.ndarray:
            room = np.full((*rewards.shape[:-1], missing), np.nan)
            return np.concatenate([rewards, room], axis=-1)

        return replace(
            judged,
            values=filled(judged.values),
            total=filled(judged.total),
            teaching=filled(judged.teaching),
        )

    def replace_flat(
        self, first: Sequence[JudgedGroup], others: Iterator[Prompt]
    ) -> list[JudgedGroup]:
        """The groups with better ones in the place of flat ones, in at most `resample_rounds`.

        `resample` draws the same prompts again. `refill` draws as many of the `others` and takes
        those that are not flat (dynamic sampling: DAPO, arXiv 2503.14476, section 3.2, eq. 11).
        """
        refills = self._cfg.zero_variance == "refill"
        again = self._cfg.zero_variance in ("resample", "refill")
        rounds = self._cfg.resample_rounds if again else 0
        final = list(first)
        for round in range(1, rounds + 1):
            flat = [p for p, judged in enumerate(final) if judged.is_flat]
            own = [final[p].prompt for p in flat]
            prompts = list(islice(others, len(flat))) if refills else own
            if not prompts:
                break
            drawn = self.draw(prompts, round)
            better = [judged for judged in drawn if not judged.is_flat] if refills else drawn
            for p, judged in zip(flat, better, strict=False):
                final[p] = judged
        return final


def joined(first: Group, more: Group) -> Group:
    """One group of the completions of two, which are of the same prompt."""
    filtered = first.sampling_logprobs is not None and more.sampling_logprobs is not None
    return replace(
        first,
        completions=first.completions + more.completions,
        logprobs=first.logprobs + more.logprobs,
        sampling_logprobs=(
            [*(first.sampling_logprobs or []), *(more.sampling_logprobs or [])]
            if filtered
            else None
        ),
        finished=first.finished + more.finished,
        texts=first.texts + more.texts,
    )
