"""Which completions of a group are learnt from, where fewer are than were drawn. Pure.

PODS: "Not All Rollouts are Useful", arXiv 2504.13818. The update is the larger part of the time,
and completions in the middle of a group's rewards say little. Mean and deviation of an advantage
are those of the completions that are learnt from.
"""

import numpy as np


def most_varied(rewards: np.ndarray, count: int) -> list[int]:
    """The places, ascending, of `count` of a group's rewards [G] that vary the most.

    Max-variance down-sampling (PODS, theorem 1): for some k these are the k highest rewards and the
    `count` - k lowest, so that count + 1 choices are to be compared. Of equally good ones that with
    more of the highest. A missing reward (NaN) is taken only where there are too few others.
    """
    missing = np.flatnonzero(np.isnan(rewards)).tolist()
    known = [i for i in range(len(rewards)) if i not in set(missing)]
    if len(known) <= count:
        return sorted([*known, *missing[: count - len(known)]])
    order = sorted(known, key=lambda i: float(rewards[i]))
    # From the lowest, or large equal parts of the rewards would round their differences away.
    values = np.array([rewards[i] for i in order]) - rewards[order[0]]
    choices = (
        [*range(count - high), *range(len(order) - high, len(order))]
        for high in range(count, -1, -1)
    )
    best = max(choices, key=lambda places: _spread(values[places]))
    return sorted(order[place] for place in best)


def _spread(values: np.ndarray) -> float:
    """The variance times the square of how many there are."""
    return float(len(values) * (values**2).sum() - values.sum() ** 2)
