"""Runs the trainer with a gradient that fails: `fault_at.py N TIMES TEXT ARGS...`.

The N-th call raises RuntimeError(TEXT), as MLX does, and so do those after it until TIMES have.
Metal's errors cannot be had without a Mac, and memory does not run out on demand. A child process
of the tests.
"""

import sys
from typing import Any

from grpo_core.__main__ import main
from grpo_core.update import learner


def run(at: int, times: int, text: str, args: list[str]) -> int:
    real = learner.gradient
    calls = 0

    def faulty(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if at <= calls < at + times:
            raise RuntimeError(text)
        return real(*given, **named)

    learner.gradient = faulty
    return main(args)


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]))
