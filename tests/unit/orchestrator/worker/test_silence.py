"""When a trainer has been silent for too long, by a clock that the test moves."""

import os

import pytest

from orchestrator.worker.silence import SilenceWatch, file_signs


class Night:
    """A watch over two files, looked at twice a second."""

    def __init__(self, folder):
        self.now = 0.0
        self.output, self.log = folder / "1.log", folder / "training_log.jsonl"
        self.output.touch()
        self.watch = SilenceWatch(900.0, file_signs(self.output, self.log), lambda: self.now)

    def pass_(self, seconds, longest_s=1.0, waits=False):
        """So much time; the silence that was found too long at its end, if it was."""
        found = None
        for _ in range(round(seconds / 5)):
            self.now += 5.0
            found = self.watch.look(longest_s, waits=waits)
        return found


@pytest.fixture
def night(tmp_path):
    return Night(tmp_path)


@pytest.mark.parametrize(
    ("longest_s", "most"),
    [
        # At least a quarter of an hour, else ten times the longest so far.
        (1.0, 900), (90.0, 900), (91.0, 910), (600.0, 6000),
        # Nothing measured yet: an hour.
        (None, 3600),
    ],
)  # fmt: skip
def test_silence_is_too_long(night, longest_s, most):
    """Not a moment earlier."""
    assert night.pass_(most, longest_s) is None
    assert night.pass_(5, longest_s) == most + 5


def test_any_word_starts_it_anew(night):
    """A line of output, a line of the log, a log that was touched."""
    for speak in (
        lambda: night.output.write_text("loading\n"),
        lambda: night.log.write_text("{}\n"),
        lambda: os.utime(night.log, (1, 1)),
    ):
        assert night.pass_(900) is None
        speak()
    assert night.pass_(900) is None
    assert night.pass_(10) is not None


def test_waiting_for_the_gpu_is_no_silence(night):
    """Another trainer may have it for hours."""
    assert night.pass_(9000, waits=True) is None
    assert night.pass_(900) is None


def test_worker_that_stood_still_has_not_listened(night):
    """A machine that slept, or a worker that was suspended."""
    assert night.pass_(890) is None
    night.now += 50_000.0
    assert night.watch.look(1.0, waits=False) is None
    assert night.pass_(10) is None
    assert night.pass_(5) is not None
