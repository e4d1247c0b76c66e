"""The completions that a run kept."""

from orchestrator.results.samples import read_samples
from tests.sweep_kit import sample, write_lines


def test_equal_completions_are_shown_once(tmp_path):
    """And a file of one update has no late part."""
    write_lines(tmp_path / "samples.jsonl", [sample(3, "a"), sample(3, "a"), sample(3, "b")])
    samples = read_samples(tmp_path)
    assert [s.completion for s in samples.early] == ["a", "b"]
    assert samples.late == ()


def test_what_lies_between_the_first_and_the_last_update_is_left_out(tmp_path):
    """However few samples the first update kept."""
    lines = [sample(update, f"at {update}") for update in (2, 3, 4)]
    write_lines(tmp_path / "samples.jsonl", lines)
    samples = read_samples(tmp_path)
    assert [s.completion for s in samples.early] == ["at 2"]
    assert [s.completion for s in samples.late] == ["at 4"]
