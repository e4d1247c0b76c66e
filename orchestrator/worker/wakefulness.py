"""Keeps the Mac awake while work is left: one assertion for the whole queue.

Between two runs, and while one waits for its back-off, no trainer holds the machine awake.
"""

import os
import subprocess
from collections.abc import Callable

from grpo_core.run.macos import stay_awake

Awake = Callable[[int], "subprocess.Popen[bytes] | None"]
"""Starts what keeps the machine awake until the process of that pid ends."""


class Wakefulness:
    """Held while work is left, let go while none is; both may be asked again and again."""

    def __init__(self, report: Callable[[str], None], awake: Awake = stay_awake) -> None:
        self._report = report
        self._awake = awake
        self._process: subprocess.Popen[bytes] | None = None
        self._failed = False

    def hold(self) -> None:
        """Keep the machine awake from now on; said once where that fails."""
        if self._failed or (self._process is not None and self._process.poll() is None):
            return
        try:
            self._process = self._awake(os.getpid())
        except OSError as e:
            self._failed = True
            self._report(f"the machine may go to sleep: {e.filename}: {e.strerror}")

    def release(self) -> None:
        """Let the machine sleep."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None
