"""Runs the trainer with a gradient that fails: `fault_at.py N TIMES TEXT ARGS...`.

The N-th call raises RuntimeError(TEXT), as MLX does, and so do those after it until TIMES have.
With TEXT `allocate` it asks MLX for more memory than any process may have.
Metal's errors cannot be had without a Mac, and memory does not run out on demand. A child process
of the tests.
"""

import sys
from typing import Any

import mlx.core as mx

from grpo_core.__main__ import main
from grpo_core.update import learner


def allocate_too_much() -> None:
    # More than there are addresses: refused by every system, whatever it promises.
    mx.eval(mx.ones((2**24, 2**24)) + 1)


def run(at: int, times: int, text: str, args: list[str]) -> int:
    real = learner.gradient
    calls = 0

    def faulty(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if at <= calls < at + times:
            if text == "allocate":
                allocate_too_much()
            raise RuntimeError(text)
        return real(*given, **named)

    learner.gradient = faulty
    return main(args)


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]))
