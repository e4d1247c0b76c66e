"""Time trained: what the trainer says, less what only the worker has seen."""

import pytest

from orchestrator.worker import trained_time
from orchestrator.worker.trained_time import TrainedTime


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    found = Clock()
    monkeypatch.setattr(trained_time, "time", found)
    return found


def look(time, clock, seconds, *, trains=True):
    """Let seconds pass, then look."""
    clock.now += seconds
    time.look(trains=trains)


def test_only_the_time_of_training_counts(clock):
    """Neither a wait, nor a gap in which the worker itself stood still."""
    time = TrainedTime(0.0, from_start=True)
    look(time, clock, 2.0)
    look(time, clock, 3.0, trains=False)
    look(time, clock, 3600.0)
    look(time, clock, 1.0)
    assert time.seconds == 3.0


@pytest.mark.parametrize(
    ("from_start", "result", "trained"),
    [
        (True, {"attempt_s": 4.0}, 4.0),  # It started up for a second, and waited for a lock.
        (True, {"attempt_s": 90.0}, 5.0),  # It was suspended, which its own clock has not seen.
        (True, None, 5.0),  # Killed: it has said nothing.
        (True, {"attempt_s": None}, 5.0),
        (False, {"attempt_s": 90.0}, 90.0),  # Adopted: this worker has seen its end only.
    ],
)
def test_the_trainer_s_own_measure_is_what_is_recorded(clock, from_start, result, trained):
    """As far as it was seen, no more than what was seen."""
    time = TrainedTime(0.0, from_start=from_start)
    look(time, clock, 5.0)
    assert time.settled(result) == trained


def test_a_worker_that_stood_still_believes_the_trainer(clock):
    """What went on meanwhile it cannot know."""
    time = TrainedTime(0.0, from_start=True)
    look(time, clock, 3600.0)
    assert time.settled({"attempt_s": 3590.0}) == 3590.0
