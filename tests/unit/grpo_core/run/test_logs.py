"""Log lines are whole, and a run that goes on finds each update once."""

import json
import os

import pytest

from grpo_core.run.logs import JsonLines, Result, is_measure, log_faults, stands_at


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_line_is_in_the_file_when_write_returns(tmp_path):
    """No buffer is lost by a kill."""
    log = JsonLines(tmp_path / "log.jsonl")
    log.write({"update": 1, "loss": 0.5})
    assert lines_of(log.path) == [{"update": 1, "loss": 0.5}]


def test_numbers_survive_to_the_last_bit(tmp_path):
    """What is read back is what was measured; what is not finite is null, as JSON has no NaN."""
    log = JsonLines(tmp_path / "log.jsonl")
    log.write({"x": 0.1 + 0.2, "nan": float("nan"), "inf": [float("-inf")]})
    assert lines_of(log.path) == [{"x": 0.1 + 0.2, "nan": None, "inf": [None]}]


def test_disabled_log_makes_no_file(tmp_path):
    """`log_jsonl=false` means it."""
    log = JsonLines(tmp_path / "log.jsonl", enabled=False)
    log.write({"update": 1})
    assert not log.path.exists()


@pytest.mark.parametrize("replaced", [True, False])
def test_a_sign_of_life_goes_to_the_file_that_is_written(tmp_path, replaced):
    """A folder moved under the run: no error, and nothing is made where another stands by now."""
    folder, moved = tmp_path / "run", tmp_path / "moved"
    folder.mkdir()
    log = JsonLines(folder / "log.jsonl")
    log.touch()
    assert log.path.read_bytes() == b""
    folder.rename(moved)
    if replaced:
        folder.mkdir()
    os.utime(moved / "log.jsonl", (0, 0))
    log.touch()
    assert (moved / "log.jsonl").stat().st_mtime > 0
    assert not log.path.exists()
    assert not log.in_place


def test_cut_keeps_each_update_once(tmp_path):
    """Going on after update 2, of whose evaluations only `test` was done."""
    log = JsonLines(tmp_path / "log.jsonl")
    kept = [
        {"update": 0, "em": 0.1, "split": "test"},
        {"update": 1, "loss": 1},
        {"update": 2, "loss": 2},
        {"update": 2, "em": 0.2, "split": "test"},
    ]
    for line in [*kept, {"update": 2, "em": 0.3, "split": "train"}, {"update": 3, "loss": 3}]:
        log.write(line)
    log.cut(stands_at(2, ["test"]))
    assert lines_of(log.path) == kept
    log.write({"update": 3, "loss": 3})
    assert lines_of(log.path)[-1] == {"update": 3, "loss": 3}


@pytest.mark.parametrize("torn", [b'{"update": 2, "lo', b'{"update": 2}', b"\xff\xfe\n", b"[1]\n"])
def test_torn_last_line_is_cut(tmp_path, torn):
    """A line counts only if it is whole: its newline is its seal."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"update": 1}\n' + torn)
    JsonLines(path).cut(lambda line: True)
    assert path.read_bytes() == b'{"update": 1}\n'


def test_cut_of_nothing_is_nothing(tmp_path):
    """No log yet: nothing is made."""
    JsonLines(tmp_path / "log.jsonl").cut(lambda line: True)
    assert not list(tmp_path.iterdir())


def test_full_disk_names_the_file(monkeypatch):
    """/dev/full is a disk without space."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    from pathlib import Path

    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        JsonLines(Path("/dev/full")).write({"update": 1})


@pytest.mark.parametrize(
    ("name", "measure"),
    [("rollout_s", True), ("tokens_per_s", True), ("peak_bytes", True), ("loss", False)],
)
def test_measures_are_told_by_their_ending(name, measure):
    """The contract of the log's names."""
    assert is_measure(name) is measure


def test_result_holds_what_the_design_says(tmp_path):
    """Keys word for word."""
    result = Result(
        "completed", 0, "", {"em": 0.5}, {"em": 0.6}, 4, 100, 1.5, 0.5, 10, "h", "cpu", "B 1", 2
    )
    result.write(tmp_path)
    assert json.loads((tmp_path / "result.json").read_text()) == {
        "status": "completed",
        "exit_code": 0,
        "reason": "",
        "final": {"em": 0.5},
        "best": {"em": 0.6},
        "updates": 4,
        "tokens": 100,
        "wall_s": 1.5,
        "attempt_s": 0.5,
        "peak_bytes": 10,
        "config_hash": "h",
        "device": "cpu",
        "blas": "B 1",
        "threads": 2,
    }


@pytest.mark.parametrize(
    ("updates", "until", "every", "faults"),
    [
        ([1, 2, 3], 3, 1, []),
        ([], 0, 1, []),
        ([2, 4, 6], 7, 2, []),
        ([10, 20, 21, 22], 22, 1, []),
        ([1, 2, 12, 22], 25, 10, []),
        ([1, 2, 4], 4, 1, ["nothing stands there between updates 2 and 4"]),
        ([1, 2, 2, 3], 3, 1, ["update 2 stands there again after 2"]),
        ([1, 2, 3, 2, 4], 4, 1, ["update 2 stands there again after 3"]),
        ([3, 4, 5], 5, 1, ["nothing stands there between updates 0 and 3"]),
        ([3], 3, 1, ["nothing stands there between updates 0 and 3"]),
        ([1], 3, 1, ["nothing stands there after update 1, up to 3"]),
        ([], 3, 1, ["nothing stands there after update 0, up to 3"]),
    ],
)
def test_a_log_that_somebody_has_spoilt_is_told(updates, until, every, faults):
    """Holes and doubled lines, and where; evaluations count for nothing."""
    lines = [line for u in updates for line in ({"update": u}, {"update": u, "split": "test"})]
    assert log_faults(lines, until, every) == faults


def test_a_line_of_nuls_is_a_hole(tmp_path):
    """As a power cut leaves in the middle of a file."""
    path = tmp_path / "log"
    path.write_bytes(b'{"update": 1}\n\0\0\0\0\n{"update": 3}\n')
    kept = JsonLines(path).cut(lambda line: True)
    assert log_faults(kept, 3, 1) == ["nothing stands there between updates 1 and 3"]
