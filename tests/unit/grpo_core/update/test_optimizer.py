"""AdamW is the papers' AdamW, in float32 whatever the weights are."""

import mlx.core as mx
import numpy as np
import pytest

from grpo_core.config import MLXGRPOConfig
from grpo_core.update.optimizer import AdamW, clip, global_norm

CFG = MLXGRPOConfig(adam_beta1=0.8, adam_beta2=0.95, adam_eps=1e-6, weight_decay=0.1)


def adamw_by_the_paper(cfg, p, gradients, rates):
    """Loshchilov and Hutter, algorithm 2 (their schedule and rate in one), in float64."""
    m = v = np.zeros_like(p)
    for t, (g, lr) in enumerate(zip(gradients, rates, strict=True), start=1):
        m = cfg.adam_beta1 * m + (1 - cfg.adam_beta1) * g
        v = cfg.adam_beta2 * v + (1 - cfg.adam_beta2) * g * g
        m_hat = m / (1 - cfg.adam_beta1**t)
        v_hat = v / (1 - cfg.adam_beta2**t)
        p = p - lr * (m_hat / (np.sqrt(v_hat) + cfg.adam_eps) + cfg.weight_decay * p)
    return p


def draws(count, shape=(4, 3), seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for _ in range(count)]


def test_steps_are_those_of_the_paper():
    """Five steps at changing rates, with decay and our own betas and eps."""
    start, *gradients = draws(6)
    rates = [1e-3, 2e-3, 1e-3, 5e-4, 1e-4]
    optimizer = AdamW(CFG, {"w": mx.array(start.astype(np.float32))})
    for g, lr in zip(gradients, rates, strict=True):
        masters = optimizer.step({"w": mx.array(g.astype(np.float32))}, lr)
    wanted = adamw_by_the_paper(CFG, start, gradients, rates)
    np.testing.assert_allclose(np.array(masters["w"]), wanted, atol=2e-7)


def test_first_step_has_the_size_of_the_rate():
    """Bias correction: sign(g) x lr, not 3.2 times that."""
    cfg = MLXGRPOConfig()
    optimizer = AdamW(cfg, {"w": mx.zeros(3)})
    moved = optimizer.step({"w": mx.array([0.5, -2.0, 1e-3])}, 1e-6)["w"]
    np.testing.assert_allclose(np.array(moved), [-1e-6, 1e-6, -1e-6], rtol=1e-4)


def test_low_precision_weights_do_not_swallow_small_steps():
    """100 steps of 1e-6 move a bfloat16 weight's master by 1e-4."""
    cfg = MLXGRPOConfig()
    weights = {"w": mx.full((8,), 0.02).astype(mx.bfloat16)}
    optimizer = AdamW(cfg, weights)
    for _ in range(100):
        masters = optimizer.step({"w": mx.ones(8)}, 1e-6)
    start = float(weights["w"][0].item())
    np.testing.assert_allclose(np.array(masters["w"]), start - 1e-4, rtol=1e-4)


def test_restored_optimizer_goes_on_to_the_last_bit():
    """The same steps as one that was never stopped."""
    start, *gradients = [mx.array(d.astype(np.float32)) for d in draws(7)]
    whole, first, second = (AdamW(CFG, {"w": start}) for _ in range(3))
    for g in gradients[:3]:
        whole.step({"w": g}, 1e-3)
        first.step({"w": g}, 1e-3)
    second.restore(first.parts(), first.steps)
    for g in gradients[3:]:
        a, b = whole.step({"w": g}, 1e-3), second.step({"w": g}, 1e-3)
    assert mx.array_equal(a["w"], b["w"]).item()


def test_norm_and_clip_by_hand():
    """3-4-5: the norm is over all arrays together."""
    gradients = {"a": mx.array([3.0]), "b": mx.array([[0.0, 4.0]])}
    assert global_norm(gradients) == 5.0
    clipped = clip(gradients, 5.0, 1.0)
    assert clipped["a"].item() == pytest.approx(0.6)
    assert clipped["b"][0, 1].item() == pytest.approx(0.8)
    assert clip(gradients, 5.0, 0) is gradients
    assert clip(gradients, 5.0, 5.0) is gradients


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_norm_tells_what_is_not_finite(bad):
    """One bad number in one array is enough."""
    norm = global_norm({"a": mx.ones(3), "b": mx.array([1.0, bad])})
    assert not np.isfinite(norm)
