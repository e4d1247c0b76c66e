"""One assertion while work is left, with a real process in the place of caffeinate."""

import signal
import subprocess

import pytest

from orchestrator.queue.store import Store
from orchestrator.system.paths import home
from orchestrator.worker import crew
from orchestrator.worker import worker as worker_module
from orchestrator.worker.wakefulness import Wakefulness
from tests.queue_kit import FAKE, is_alive, planned, submit


@pytest.fixture
def started():
    """The processes that were started to keep the machine awake."""
    return []


@pytest.fixture
def awake(started):
    """In the place of caffeinate."""

    def start(_pid):
        started.append(subprocess.Popen(["sleep", "60"]))
        return started[-1]

    return start


def test_one_process_however_often_it_is_asked(started, awake):
    """And none once it is let go; then a new one."""
    wakefulness = Wakefulness(pytest.fail, awake)
    wakefulness.release()
    wakefulness.hold()
    wakefulness.hold()
    assert [is_alive(p.pid) for p in started] == [True]
    wakefulness.release()
    wakefulness.release()
    assert started[0].returncode is not None
    wakefulness.hold()
    assert len(started) == 2
    wakefulness.release()


def test_process_that_died_is_started_anew(started, awake):
    """Somebody ended it: the night is not lost."""
    wakefulness = Wakefulness(pytest.fail, awake)
    wakefulness.hold()
    started[0].kill()
    started[0].wait()
    wakefulness.hold()
    assert is_alive(started[1].pid)
    wakefulness.release()


def test_what_cannot_be_started_is_said_once():
    """The training goes on."""
    said = []

    def missing(_pid):
        raise FileNotFoundError(2, "No such file", "/usr/bin/caffeinate")

    wakefulness = Wakefulness(said.append, missing)
    wakefulness.hold()
    wakefulness.hold()
    wakefulness.release()
    assert said == ["the machine may go to sleep: /usr/bin/caffeinate: No such file"]


def test_worker_holds_it_while_work_is_left(tmp_path, monkeypatch, started, awake):
    """From the first run to the last, without a gap between them, and not a moment longer."""
    held = []
    monkeypatch.setattr(crew, "Wakefulness", lambda say: Wakefulness(say, awake))
    submit(tmp_path, planned("a"), planned("b"))

    def listen(event):
        held.append((str(event.kind), [is_alive(p.pid) for p in started]))

    assert worker_module.work(until_empty=True, on_event=listen, trainer=FAKE, prewarm=False) == 0
    assert [row for row in held if row[0] in ("started", "ended")] == [
        *[("started", [True]), ("ended", [True])] * 2,
    ]
    assert started[0].returncode is not None


def test_a_paused_slot_lets_the_machine_sleep(tmp_path, monkeypatch, started, awake):
    """Though a run could be claimed: that may stay so for days."""
    monkeypatch.setattr(crew, "Wakefulness", lambda say: Wakefulness(say, awake))
    submit(tmp_path, planned("a"))
    with Store.open(home().db) as store:
        store.control.pause_slot("0", ["0"])
    said = []

    def listen(event):
        said.append(event.text)
        signal.raise_signal(signal.SIGTERM)

    assert worker_module.work(on_event=listen, trainer=FAKE, prewarm=False) == 75
    assert said[0] == "slot 0 is paused"
    assert started == []
