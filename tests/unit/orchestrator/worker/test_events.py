"""How the events of several threads reach whoever listens."""

import threading

from orchestrator.worker.events import Event, EventKind, one_at_a_time


def test_two_threads_never_tell_at_the_same_time():
    """A view and a file of notices know of one thread."""
    inside, go_on, told = threading.Event(), threading.Event(), []

    def slow(event):
        told.append(f"{event.text} begins")
        inside.set()
        go_on.wait(30)
        told.append(f"{event.text} ends")

    tell = one_at_a_time(slow)
    events = [Event(EventKind.WAITING, text) for text in ("a", "b")]
    threads = [threading.Thread(target=tell, args=(event,)) for event in events]
    threads[0].start()
    inside.wait(30)
    threads[1].start()
    threads[1].join(0.2)
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert told == ["a begins", "a ends", "b begins", "b ends"]
