"""What is read back of an attempt's log."""

from orchestrator.worker.attempt_log import read_tail


def test_tail_of_a_log(tmp_path):
    """The end, without our header, whatever bytes it holds; a missing log is empty."""
    log = tmp_path / "log"
    log.write_bytes(b"== attempt 1\n" + b"x" * 100 + b"\nl\xe9st\n")
    assert read_tail(log, 20) == "x" * 14 + "\nl�st"
    assert read_tail(tmp_path / "none") == ""
