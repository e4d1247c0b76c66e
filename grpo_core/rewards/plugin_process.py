"""The child process of one reward plug-in, seen by the trainer: requests, replies, where it hangs.

What runs in the child is `plugin_host.py`; which function it loads is decided in `plugins.py`.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo_core.errors import Interrupted
from grpo_core.rewards import plugin_host

# How often a wait looks at the stop flag.
TICK_S = 0.1
# What a process gets to say where it hangs, and to end by itself.
GRACE_S = 1.0
READ_BYTES = 1 << 16


class PluginProcess:
    """The child process and its pipes: requests, replies, stacks, and one that ends with us."""

    def __init__(self) -> None:
        self._stacks, stack_end = os.pipe()
        life_end, life = os.pipe()
        os.set_inheritable(stack_end, True)
        os.set_inheritable(life_end, True)
        script = str(Path(plugin_host.__file__))
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", script, str(os.getpid()), str(stack_end), str(life_end)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # All that is inheritable: the pipe, and the run's lock, which a worker passes on so
                # that it is held as long as any process of the run lives.
                close_fds=False,
                bufsize=0,
            )
        finally:
            os.close(stack_end)
            os.close(life_end)
        assert self._process.stdin and self._process.stdout
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        self._end = weakref.finalize(self, _end_process, self._process, self._stacks, life)

    def ask(
        self, request: Mapping[str, Any], timeout_s: float, should_stop: Callable[[], bool]
    ) -> dict[str, Any]:
        """One request, one reply. Raises TimeoutError, EOFError if it died, Interrupted."""
        deadline = time.monotonic() + timeout_s
        # Parquet and hub rows hold values that JSON does not know, such as dates: sent as text.
        out = memoryview(json.dumps(request, default=str).encode() + b"\n")
        reply = bytearray()
        while not reply.endswith(b"\n"):
            readable, writable = self._wait(bool(out), deadline, should_stop)
            if writable:
                out = out[self._write(out) :]
            if readable:
                part = os.read(self._out, READ_BYTES)
                if not part:
                    raise EOFError
                reply += part
        answer: dict[str, Any] = json.loads(reply)
        return answer

    def _wait(
        self, has_output: bool, deadline: float, should_stop: Callable[[], bool]
    ) -> tuple[bool, bool]:
        while True:
            if should_stop():
                raise Interrupted("stopped while a reward was at work")
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            readable, writable, _ = select.select(
                [self._out], [self._in] if has_output else [], [], min(TICK_S, left_s)
            )
            if readable or writable:
                return bool(readable), bool(writable)

    def _write(self, data: memoryview) -> int:
        try:
            return os.write(self._in, data)
        except BrokenPipeError:
            raise EOFError from None

    def where(self, file: str) -> str | None:
        """`file:line` at which the process is just now, by its own dump of the stack."""
        self._process.send_signal(plugin_host.WHERE_SIGNAL)
        dump, wait_s = b"", GRACE_S
        while select.select([self._stacks], [], [], wait_s)[0]:
            part = os.read(self._stacks, READ_BYTES)
            if not part:
                break
            dump, wait_s = dump + part, TICK_S
        return _stack_place(dump.decode(errors="replace"), file)

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self.close()

    def close(self) -> int:
        """End the process, by force if need be; its exit code."""
        self._end()
        return self._process.returncode


def _end_process(process: subprocess.Popen[bytes], stacks: int, life: int) -> None:
    assert process.stdin and process.stdout
    process.stdin.close()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
    os.close(stacks)
    os.close(life)


def _stack_place(dump: str, file: str) -> str | None:
    """The innermost frame of `file` in faulthandler's dump, else the innermost of all."""
    frames: Sequence[tuple[str, str]] = re.findall(r'File "(.*)", line (\d+) in ', dump)
    own = [frame for frame in frames if Path(frame[0]).name == file]
    path, line = (own or frames or [("", "")])[0]
    return f"{path}:{line}" if path else None
