"""The standby: a trainer that has prepared itself while another one trains, and waits for its turn.

Whoever started it (`--prewarm`) holds the other end of its stdin. A line `go` is its turn. The end
of stdin says that nobody waits for it any more, since the worker has died or has chosen another
run: it ends at once, wherever it is. By then it has touched neither the GPU nor its output folder.
"""

import os
import threading

from grpo_core.errors import ExitCode
from grpo_core.run.protocol import GO


class StandbyInput:
    """Listens to stdin from the beginning, so that nothing is prepared without a reader.

    All others in this process, and what it starts, find stdin empty, as in any other trainer.
    """

    def __init__(self) -> None:
        self._stdin = os.dup(0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        self._called = threading.Event()
        threading.Thread(target=self._listen, name="standby", daemon=True).start()

    def wait_for_turn(self) -> None:
        """Return when the turn has come."""
        self._called.wait()

    def _listen(self) -> None:
        if os.read(self._stdin, len(GO)) != GO:
            os._exit(ExitCode.INTERRUPTED)
        os.close(self._stdin)
        self._called.set()
