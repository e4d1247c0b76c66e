"""The completions that a run kept."""

from orchestrator.results.samples import (
    first_samples,
    latest_samples,
    read_before_after,
    read_samples,
)
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


def test_of_a_long_file_only_the_ends_are_read(tmp_path):
    """The last update is found though the look begins in the middle of a line."""
    lines = [sample(update, f"at {update} " + "x" * 200) for update in range(1, 4000)]
    write_lines(tmp_path / "samples.jsonl", [*lines, sample(4000, "one"), sample(4000, "two")])
    assert [s.completion for s in latest_samples(tmp_path)] == ["one", "two"]
    assert [s.update for s in first_samples(tmp_path)] == [1]


def test_a_torn_last_line_waits_for_its_end(tmp_path):
    """A trainer is writing it just now."""
    write_lines(tmp_path / "samples.jsonl", [sample(1, "whole")])
    with open(tmp_path / "samples.jsonl", "a") as file:
        file.write('{"update": 2, "completion": "to')
    assert [s.completion for s in latest_samples(tmp_path)] == ["whole"]
    assert latest_samples(tmp_path / "gone") == first_samples(tmp_path / "gone") == ()


def test_a_number_beyond_all_bounds_is_another_programs(tmp_path):
    """JSON has integers of any length, and 1e400: what cannot be read is left out."""
    write_lines(tmp_path / "samples.jsonl", [sample(1, "ours")])
    with open(tmp_path / "samples.jsonl", "a") as file:
        file.write('{"update": 1e400, "completion": "a"}\n')
        file.write('{"update": 2, "completion": "a", "reward": 1' + 400 * "0" + "}\n")
    assert [s.completion for s in latest_samples(tmp_path)] == ["ours"]
    assert [s.completion for s in first_samples(tmp_path)] == ["ours"]


def test_held_out_rows_are_answered_before_and_after_and_stand_apart(tmp_path):
    """First and last evaluation, prompt by prompt; what an update drew is not among them."""

    def answered(update, text, prompt):
        return {**sample(update, text, prompt=prompt), "split": "test"}

    lines = [
        *(answered(0, "dunno", "a"), answered(0, "no", "b"), sample(1, "drawn first")),
        *(answered(2, "hm", "a"), answered(2, "hm", "b"), sample(3, "drawn last")),
        *(answered(4, "25", "a"), answered(4, "26", "b")),
    ]
    write_lines(tmp_path / "samples.jsonl", lines)
    found = [(p.before.prompt, p.before.completion, p.after.completion)
             for p in read_before_after(tmp_path)]  # fmt: skip
    assert found == [("a", "dunno", "25"), ("b", "no", "26")]
    assert [s.completion for s in first_samples(tmp_path)] == ["drawn first"]
    assert [s.completion for s in latest_samples(tmp_path)] == ["drawn last"]
    assert read_before_after(tmp_path / "gone") == ()
