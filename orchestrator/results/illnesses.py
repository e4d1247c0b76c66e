"""The known illnesses of GRPO, seen in a run's training log while it trains; pure.

Each is judged by the last lines of the log alone, so that it is reported as long as it lasts. The
bounds are rules of thumb, chosen so that runs that learn stay clear of them; nothing is stopped
here (what ends a run is a health rule, `stopping/health.py`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from grpo_core.run.protocol import INTERVALS
from orchestrator.results.stats import mean
from orchestrator.results.training_log import (
    Line,
    finite_number,
    held_out_metric,
    interval_of,
    is_held_out,
)
from orchestrator.text import metric, number

# Logged updates that a judgement rests on; fewer say nothing yet.
WINDOW = 10
# Of completions cut at the limit.
CUT_SHARE = 0.5
# Of the entropy at the start, and nats a token: below both a policy hardly tries anything else.
ENTROPY_SHARE, ENTROPY_LEAST = 0.1, 0.05
# Nats a token from the reference; a policy that keeps its language stays at a tenth of it.
KL_MOST = 0.5
# Of tokens; TRL's and verl's users see some hundredths.
CLIP_MOST = 0.3


class IllnessCode(StrEnum):
    """Which illness it is."""

    ALL_FLAT = "all groups flat"
    ENTROPY = "entropy collapsed"
    LENGTH = "completions cut"
    PARTED = "reward up, held-out down"
    KL = "KL runs off"
    CLIP = "much is clipped"


@dataclass(frozen=True)
class Illness:
    """One illness: what the log shows, and what to try."""

    code: IllnessCode
    evidence: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.code}: {self.evidence}; try {self.remedy}"


def find_illnesses(lines: Sequence[Line]) -> list[Illness]:
    """What ails the run that wrote these lines of a training log, by its last updates."""
    updates = [line for line in lines if "split" not in line and "reward_mean" in line]
    found = [illness for judge in _JUDGES if (illness := judge(updates)) is not None]
    parted = _parted(updates, [line for line in lines if "split" in line and is_held_out(line)])
    return [*found, *([] if parted is None else [parted])]


def _values(updates: Sequence[Line], name: str) -> list[float]:
    values = (finite_number(line.get(name)) for line in updates)
    return [value for value in values if value is not None]


def _last(updates: Sequence[Line], name: str) -> list[float]:
    """The values of the last lines; empty where there are too few."""
    values = _values(updates[-WINDOW:], name)
    return values if len(values) == WINDOW else []


def _flat(updates: Sequence[Line]) -> Illness | None:
    last = _last(updates, "frac_reward_zero_std")
    if not last or min(last) < 1:
        return None
    reward = number(mean(_last(updates, "reward_mean") or [0.0]))
    return Illness(
        IllnessCode.ALL_FLAT,
        f"in the last {WINDOW} updates all rewards of each group were equal (mean {reward})",
        "a reward that gives part of the credit, rows of another difficulty, more "
        'num_generations, a higher temperature, zero_variance = "refill"',
    )


def _collapsed(updates: Sequence[Line]) -> Illness | None:
    first, last = _values(updates, "entropy")[:WINDOW], _last(updates, "entropy")
    if len(updates) < 2 * WINDOW or not last:
        return None
    before, now = mean(first), mean(last)
    if now >= ENTROPY_LEAST or now >= ENTROPY_SHARE * before:
        return None
    # A run that earns all that there is has found its answer.
    if mean(_last(updates, "frac_reward_zero_std") or [1.0]) >= 1:
        return None
    return Illness(
        IllnessCode.ENTROPY,
        f"{number(now)} nats a token, {number(before)} at first",
        "a larger clip_eps_high, entropy_coef above 0, a lower learning_rate",
    )


def _cut(updates: Sequence[Line]) -> Illness | None:
    last = _last(updates, "truncated_frac")
    if not last or mean(last) < CUT_SHARE:
        return None
    length = number(mean(_last(updates, "completion_length") or [0.0]))
    return Illness(
        IllnessCode.LENGTH,
        f"{mean(last):.0%} of the completions hit the limit (mean length {length} tokens)",
        "a larger max_new_tokens, overlong_buffer, a stop text, mask_truncated",
    )


def _run_off(updates: Sequence[Line]) -> Illness | None:
    last = _last(updates, "kl")
    if not last or mean(last) < KL_MOST:
        return None
    return Illness(
        IllnessCode.KL,
        f"{number(mean(last))} nats a token from the reference",
        "a lower learning_rate, a larger kl_coeff, a lower max_grad_norm",
    )


def _clipped(updates: Sequence[Line]) -> Illness | None:
    last = _last(updates, "clip_frac")
    # With iterations every other line may be the first use of its rollouts, where none is clipped.
    if not last or max(last) < CLIP_MOST or mean(last) < CLIP_MOST / 2:
        return None
    return Illness(
        IllnessCode.CLIP,
        f"up to {max(last):.0%} of the tokens in the last {WINDOW} updates",
        "a lower learning_rate, fewer num_iterations, a smaller steps_per_generation",
    )


_JUDGES: tuple[Callable[[Sequence[Line]], Illness | None], ...] = (
    _flat,
    _collapsed,
    _cut,
    _run_off,
    _clipped,
)


@dataclass(frozen=True)
class _Score:
    update: int
    value: float
    low: float
    high: float


def _parted(updates: Sequence[Line], evaluations: Sequence[Line]) -> Illness | None:
    """The reward has risen since the best evaluation, and the last one lies clearly below it."""
    name = held_out_metric({key for line in evaluations for key in line})
    scores = list(_scores(evaluations, name))
    if len(scores) < 3:
        return None
    best, last = max(scores, key=lambda score: score.value), scores[-1]
    before, now = _reward_at(updates, best.update), _reward_at(updates, last.update)
    if before is None or now is None or now <= before or last.high >= best.low:
        return None
    return Illness(
        IllnessCode.PARTED,
        f"reward {number(before)} → {number(now)} since update {best.update}, while {name} went "
        f"{metric(name, best.value)} → {metric(name, last.value)}",
        "reading samples.jsonl for what is rewarded, a reward that cannot be had so, the best "
        "checkpoint, kl_coeff",
    )


def _scores(evaluations: Sequence[Line], name: str) -> Iterator[_Score]:
    for line in evaluations:
        value, ends = finite_number(line.get(name)), interval_of(line.get(INTERVALS[name]))
        if value is not None and ends is not None and isinstance(line.get("update"), int):
            yield _Score(line["update"], value, *ends)


def _reward_at(updates: Sequence[Line], update: int) -> float | None:
    """The mean reward of the updates up to that one, or of the first ones for the start."""
    until = [line for line in updates if line.get("update", 0) <= update]
    values = _values(until[-WINDOW:] or updates[:WINDOW], "reward_mean")
    return mean(values) if values else None
