"""What the slots of a worker share, and how one of them ends all."""

import threading

import pytest

from orchestrator.errors import QueueBusy, QueueError
from orchestrator.worker.crew import serve_each
from orchestrator.worker.slots import Slot
from orchestrator.worker.termination import Stops
from tests.queue_kit import eventually


@pytest.mark.parametrize("first", ["0", "1"])
def test_a_wait_that_the_user_ended_hides_no_error_of_another_slot(first):
    """Whichever comes first: the worker ends well after the one, and must not after the other."""
    stops, begun = Stops(), {}
    stops.count = 1

    def serve(slot):
        begun[slot.name] = threading.current_thread()
        if slot.name != first:
            eventually(lambda: first in begun and not begun[first].is_alive())
        raise QueueBusy("busy") if slot.name == "0" else QueueError("moved")

    with pytest.raises(QueueError, match="moved"):
        serve_each([Slot("0"), Slot("1")], stops, serve)
