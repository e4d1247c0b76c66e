"""How tokens are drawn: settings and filters; the draws themselves are held to numpy elsewhere."""

import mlx.core as mx
import numpy as np

from grpo_core.config.fields import MLXGRPOConfig
from grpo_core.rollout.sampling import Sampling, filtered


def test_a_configuration_gives_the_smaller_of_its_two_limits():
    """And the filters as they stand there."""
    cfg = MLXGRPOConfig(
        max_new_tokens=7, max_completion_length=5, temperature=0.6, top_k=4, stop=["a", "b"]
    )
    assert Sampling.of(cfg) == Sampling(0.6, 5, top_k=4, stop=("a", "b"))


def test_filters_keep_ties_and_the_best_token():
    """Two equal tokens at the edge both stay; top_p below the best one's share leaves that one."""
    logits = mx.log(mx.array([[0.4, 0.2, 0.2, 0.1, 0.1]]))

    def kept(**settings):
        return np.isfinite(np.array(filtered(logits, Sampling(1.0, 1, **settings))))[0].tolist()

    assert kept(top_k=2) == [True, True, True, False, False]
    assert kept(top_p=0.01) == [True, False, False, False, False]
    assert kept(top_p=0.5) == [True, True, True, False, False]
    assert kept(min_p=0.3) == [True, True, True, False, False]
    assert kept(top_k=99, top_p=1.0) == [True] * 5
