"""The completions that a report shows."""

from tests.report_kit import THREE, read
from tests.sweep_kit import finished_sweep


def test_samples_are_the_first_and_the_last_of_the_best_and_the_worst_run(tmp_path):
    """Early and late, each with its reward and what was expected."""
    words = read(finished_sweep(tmp_path, THREE)).words("samples")
    best, _, worst = words.partition("Worst run")
    assert "s-1-s0, em" in best
    assert "s-0-s0, em" in worst
    for part, gain in ((best, 0.9), (worst, 0.1)):
        early, _, late = part.partition("Late update 20")
        assert "Early update 1" in early
        assert f"<answer>35</answer> gain {gain}" in early
        assert "reward 1 = correctness 1 · expected 25" in early
        assert "<answer>25</answer>" in late
