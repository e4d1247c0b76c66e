"""The exponential of the CPU: the same numbers either way."""

import mlx.core as mx
import numpy as np
import pytest

from grpo_core.model import cpu


@pytest.mark.parametrize("is_slow", [True, False])
def test_exp_is_numpys(is_slow, monkeypatch):
    """To fp32's last digits, from where it vanishes to the top, and 0 for what is ruled out."""
    monkeypatch.setattr(cpu, "has_slow_exp", lambda: is_slow)
    x = np.linspace(-80, 0, 4001, dtype=np.float32)
    np.testing.assert_allclose(cpu.exp(mx.array(x)), np.exp(x.astype(np.float64)), rtol=5e-6)
    assert cpu.exp(mx.array([-mx.inf, 0.0])).tolist() == [0.0, 1.0]
    assert np.isnan(cpu.exp(mx.array([mx.nan])).item())


@pytest.mark.parametrize("is_slow", [True, False])
@pytest.mark.parametrize("temperature", [0.02, 0.0112, 0.001, 1e-6])
def test_a_temperature_near_zero_is_no_overflow(is_slow, temperature, monkeypatch):
    """e^(1 / temperature) is above what fp32 holds, and then above any float; the odds are not."""
    monkeypatch.setattr(cpu, "has_slow_exp", lambda: is_slow)
    below = np.array([0, -0.005, -0.01, -np.inf], dtype=np.float32)
    odds = np.array(cpu.exp(mx.array(below), 1 / temperature))
    wanted = np.exp(below.astype(np.float64) / temperature)
    np.testing.assert_allclose(odds / odds.sum(), wanted / wanted.sum(), rtol=1e-5, atol=1e-37)
