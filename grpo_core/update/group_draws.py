"""The groups that one update draws: each prompt's, and further ones where those teach nothing.

How tokens are drawn is in `rollout/`, what they earn in `judged_groups.py`. Every draw has keys
made of seed, update, row, sample and round alone, so that a run that is killed draws the same
again.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import islice

from grpo_core.config import MLXGRPOConfig
from grpo_core.data.prompts import Prompt
from grpo_core.model.policy import Policy
from grpo_core.model.random_keys import sample_key
from grpo_core.rewards.builtin import Rewards
from grpo_core.rollout.generate import generate_groups
from grpo_core.rollout.sampling import Sampling
from grpo_core.run.signals import ShouldStop
from grpo_core.update.judged_groups import JudgedGroup, judge_groups


class GroupDraws:
    """The draws of one update, with the tokens and the seconds that they took.

    `flat` says of each row that was drawn whether its first group was flat.
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
        self.rollout_s = 0.0
        self.reward_s = 0.0
        self._policy = policy
        self._rewards = rewards
        self._cfg = cfg
        self._update = update
        self._should_stop = should_stop
        self._most_rows = most_rows

    def draw(self, prompts: Sequence[Prompt], round: int) -> list[JudgedGroup]:
        """A group for each prompt, judged. Raises RewardError, and Interrupted."""
        cfg = self._cfg
        size = range(cfg.num_generations)
        keys = [
            [sample_key(cfg.seed, self._update, p.example.index, sample, round) for sample in size]
            for p in prompts
        ]
        start = time.perf_counter()
        groups = generate_groups(
            self._policy,
            [prompt.ids for prompt in prompts],
            len(size),
            keys,
            Sampling.of(cfg),
            self._should_stop,
            self._most_rows,
        )
        drawn = time.perf_counter()
        judged = judge_groups(self._rewards, prompts, groups, cfg, self._should_stop)
        self.rollout_s += drawn - start
        self.reward_s += time.perf_counter() - drawn
        self.tokens += sum(len(ids) for group in groups for ids in group.completions)
        for each in judged:
            self.flat.setdefault(each.prompt.example.index, each.is_flat)
        return judged

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
