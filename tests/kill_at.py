"""Runs the trainer and kills it by SIGKILL at its n-th touch of the disk: `kill_at.py N ARGS...`.

Each rename, flush, removal and appended line is a touch. The process dies before the touch, or, if
`half` is appended to N, in its midst where it has one: half a line written, half a folder removed.
With N = 0 it lives, and prints how many touches there were. A child process of the tests.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grpo_core.__main__ import main


class Killer:
    """Counts touches and dies at one of them."""

    def __init__(self, at: int, half: bool) -> None:
        self.at = at
        self.half = half
        self.touches = 0

    def wrap(self, module: Any, name: str, midst: Callable[..., None] | None = None) -> None:
        """Let each call of `module.name` count; `midst` does half of it."""
        real = getattr(module, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.touches += 1
            if self.touches == self.at:
                if self.half and midst is not None:
                    midst(real, *args)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(module, name, counted)


def half_a_line(write: Callable[[int, bytes], int], fd: int, content: bytes) -> None:
    write(fd, content[: len(content) // 2])


def half_a_folder(_: Callable[..., None], folder: Path) -> None:
    for path in sorted(Path(folder).iterdir())[::2]:
        path.unlink()


def run(n: str, args: list[str]) -> int:
    killer = Killer(int(n.removesuffix("half")), n.endswith("half"))
    killer.wrap(os, "replace")
    killer.wrap(os, "rename")
    killer.wrap(os, "fsync")
    killer.wrap(os, "write", half_a_line)
    killer.wrap(shutil, "rmtree", half_a_folder)
    code = main(args)
    print(killer.touches)
    return code


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]))
