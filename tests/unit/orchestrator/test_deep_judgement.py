"""What `doctor --deep` makes of its numbers: tables by hand."""

import math

import pytest

from orchestrator.deep_judgement import (
    judge,
    judge_adoption,
    judge_cache,
    judge_decoding,
    judge_device,
    judge_display,
    judge_gradient,
    judge_peaks,
    judge_prefix,
)

ADOPTED = {"seen": True, "state": "completed", "attempts": 1, "exit_code": 0}


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (judge_device({"device": "gpu", "metal": True, "device_name": "M"}), "ok"),
        (judge_device({"device": "cpu", "metal": False}), "ok"),
        (judge_device({"device": "cpu", "metal": True}), "odd"),
        (judge_gradient({"relative": 2e-6, "same_tokens": 1.0}), "ok"),
        (judge_gradient({"relative": 2e-6, "same_tokens": 0.5}), "odd"),
        (judge_gradient({"relative": 5e-3, "same_tokens": 1.0}), "odd"),
        (judge_gradient({"relative": 0.1, "same_tokens": 1.0}), "bad"),
        (judge_gradient({"relative": math.nan, "same_tokens": 1.0}), "bad"),
        (judge_gradient({"skipped": "no GPU"}), "none"),
        (judge("x", {"a": 0.1, "b": 0.5}, odd=0.9, bad=1.8), "ok"),
        (judge("x", {"a": 0.1, "b": 1.0}, odd=0.9, bad=1.8), "odd"),
        (judge("x", {"a": 2.0, "b": 1.0}, odd=0.9, bad=1.8), "bad"),
        (judge("x", {"a": math.nan}, odd=0.9, bad=1.8), "bad"),
        (judge_prefix({"float32": 1e-5, "bfloat16": 0.05}), "ok"),
        (judge_prefix({"float32": 1e-5, "bfloat16": 0.3}), "odd"),
        (judge_prefix({"float32": 0.1, "bfloat16": 0.05}), "bad"),
        (judge_decoding({"128": 0.94, "512": 0.7}), "ok"),
        (judge_decoding({"128": 0.7, "512": 0.94}), "odd"),
        (judge_decoding({"128": 1.4, "512": 1.3}), "odd"),
        (judge_decoding({"128": 1.4, "512": 2.3}), "bad"),
        (judge_peaks({"rollout": 0.9, "update": 1.2}), "ok"),
        (judge_peaks({"rollout": 0.9, "update": 1.3}), "odd"),
        (judge_peaks({"rollout": 2.5, "update": 1.0}), "bad"),
        (judge_cache({"0.5": 0.1, "2": 0.11, "8": 0.1}), "ok"),
        (judge_cache({"0.5": 0.2, "2": 0.11, "8": 0.1}), "odd"),
        (judge_display("x", {"updates": 9}), "ok"),
        (judge_display("x", {"failed": "ended with -6: GPU_WATCHDOG"}), "bad"),
        (judge_adoption(ADOPTED), "ok"),
        (judge_adoption(ADOPTED | {"attempts": 2}), "bad"),
        (judge_adoption(ADOPTED | {"seen": False}), "bad"),
    ],
)
def test_verdict(row, verdict):
    """As it should be, worth a look, wrong, or nothing on this machine."""
    assert row.verdict == verdict
    assert row.text
    assert row.shape["verdict"] == verdict
