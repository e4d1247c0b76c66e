"""When a worker says that a run has become slow, by a clock that the test moves."""

import pytest

from orchestrator.worker.slowness import SlownessWatch
from tests.sweep_kit import write_lines

MINUTE = 60.0


class Night:
    """A watch over a run whose log the test writes, looked at every half minute."""

    def __init__(self, folder):
        self.now, self.folder, self.asked = 0.0, folder, []
        self.watch = SlownessWatch(
            folder, lambda: [7, 8], lambda: self.now, self._others, lambda: None
        )

    def _others(self, pids):
        self.asked.append(pids)
        return "Blender (pid 9) uses 63% of the GPU"

    def log(self, *rates):
        """An update of 30 seconds for each of these tokens a second."""
        lines = [{"update": n, "tokens_per_s": r, "update_s": 30.0} for n, r in enumerate(rates, 1)]
        write_lines(self.folder / "training_log.jsonl", lines)

    def pass_(self, minutes):
        """All that is said in so many minutes."""
        said = []
        for _ in range(round(2 * minutes)):
            self.now += MINUTE / 2
            said.append(self.watch.look())
        return [words for words in said if words is not None]


@pytest.fixture
def night(tmp_path):
    return Night(tmp_path)


def test_a_slow_run_is_said_once_with_who_is_busy(night):
    """However long it lasts; nobody is looked for while all is well."""
    night.log(*[1000] * 8)
    assert (night.pass_(5), night.asked) == ([], [])
    night.log(*[1000] * 8, *[250] * 4)
    (words,) = night.pass_(5)
    assert words.startswith("4.0 times slower than usual since ")
    assert words.endswith("(250 tokens/s, usually 1,000); Blender (pid 9) uses 63% of the GPU")
    night.log(*[1000] * 8, *[250] * 40)
    assert night.pass_(30) == []
    assert night.asked == [[7, 8]]


def test_it_is_news_again_after_some_minutes_at_full_speed(night):
    """Not where it only went up for a moment."""
    slow = [*[1000] * 8, *[250] * 4]
    night.log(*slow)
    assert len(night.pass_(1)) == 1
    night.log(*slow, 1000)
    assert night.pass_(2) == []
    night.log(*slow, 1000, *[250] * 4)
    assert night.pass_(1) == []
    night.log(*slow, *[1000] * 8)
    assert night.pass_(3) == []
    night.log(*slow, *[1000] * 20, *[250] * 4)
    assert len(night.pass_(1)) == 1


def test_a_log_that_is_not_there_says_nothing(night):
    """The first minutes of every run."""
    assert night.pass_(3) == []
