"""What a worker reports as it goes, to whoever listens."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.run import Progress, Run


class EventKind(StrEnum):
    """What a worker did or saw."""

    SUGGESTED = "suggested"
    CHANGED = "changed"
    STARTED = "started"
    ADOPTED = "adopted"
    PROGRESS = "progress"
    PREPARED = "prepared"
    SLOWED = "slowed"
    STOPPING = "stopping"
    ENDED = "ended"
    WAITING = "waiting"
    EMPTY = "empty"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Event:
    """Something that the worker did or saw, of a run or of the whole queue."""

    kind: EventKind
    text: str
    run: Run | None = None
    progress: Progress | None = None


Listener = Callable[[Event], None]


def one_at_a_time(listen: Listener) -> Listener:
    """The same listener for several threads: it hears one event after the other."""
    lock = threading.RLock()

    def tell(event: Event) -> None:
        with lock:
            listen(event)

    return tell
