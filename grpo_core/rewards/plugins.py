"""Reward plug-ins, `file.py:function` or `package.module:function`: found, called, stopped.

The trainer's side; the function itself runs in a process of its own (`plugin_host.py`), which is
killed where it gives no answer in time. What its values mean is decided in `builtin.py`.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grpo_core.config import did_you_mean, nearest_file
from grpo_core.errors import Interrupted, RewardError
from grpo_core.rewards import plugin_host

# An import may bring a framework along; a call is bounded by reward_timeout_s.
LOAD_TIMEOUT_S = 120.0
# How often a wait looks at the stop flag.
TICK_S = 0.1
# What a process gets to say where it hangs, and to end by itself.
GRACE_S = 1.0
READ_BYTES = 1 << 16

Value = float | dict[str, str] | None


class PluginFault(Exception):
    """A call that gave no list of values; the message says what happened instead."""


class Plugin:
    """A user's reward function, ready to be called."""

    def __init__(self, target: str, timeout_s: float) -> None:
        self.name = target
        self._timeout_s = timeout_s
        self._target = _locate(target)
        self._host: _Host | None = None
        self._start()

    def __call__(
        self, arguments: Mapping[str, Any], should_stop: Callable[[], bool]
    ) -> list[Value]:
        """The function's values for keyword arguments, of which it gets those it accepts.

        A value is a number, None (missing) or `{"bad": repr}`. Raises PluginFault, after which
        the function may be called again, in a new process if need be; RewardError where it wants
        an argument that there is not, and Interrupted.
        """
        missing = [name for name in self._requires if name not in arguments]
        if missing:
            raise RewardError(
                f"reward {self.name!r}: has a parameter {missing[0]!r}, but the columns and other "
                f"names are {', '.join(arguments)}{did_you_mean(missing[0], arguments)}"
            )
        accepts = self._accepts
        wanted = {k: v for k, v in arguments.items() if accepts is None or k in accepts}
        host = self._host or self._start(should_stop)
        reply = self._ask(host, wanted, self._timeout_s, "reward_timeout_s", should_stop)
        if "error" in reply:
            raise PluginFault(f"{reply['error']}{_at(reply.get('where'))}")
        values: list[Value] = reply["values"]
        return values

    def close(self) -> None:
        """End the process."""
        if self._host is not None:
            self._host.close()
            self._host = None

    def _start(self, should_stop: Callable[[], bool] = lambda: False) -> _Host:
        self._host = host = _Host()
        try:
            reply = self._ask(host, asdict(self._target), LOAD_TIMEOUT_S, "the limit", should_stop)
            fault = self._load_fault(reply)
        except PluginFault as e:
            fault = str(e)
        if fault:
            self.close()
            raise RewardError(f"reward {self.name!r}: {fault}")
        self._accepts: list[str] | None = reply["accepts"]
        self._requires: list[str] = reply["requires"]
        return host

    def _load_fault(self, reply: Mapping[str, Any]) -> str:
        function = self._target.function
        if "error" in reply:
            return f"cannot be loaded: {reply['error']}{_at(reply.get('where'))}"
        if "missing" in reply:
            names = [name for name in reply["missing"] if not name.startswith("_")]
            known = f"it has {', '.join(names)}" if names else "it has none"
            return f"no function {function!r} there; {known}{did_you_mean(function, names)}"
        if "not_callable" in reply:
            return f"{function} is not a function but of type {reply['not_callable']}"
        if reply["positional"]:
            return f"{function} must take its arguments by name, but for {reply['positional'][0]!r}"
        return ""

    def _ask(
        self,
        host: _Host,
        request: Mapping[str, Any],
        timeout_s: float,
        limit: str,
        should_stop: Callable[[], bool],
    ) -> dict[str, Any]:
        try:
            return host.ask(request, timeout_s, should_stop)
        except TimeoutError:
            where = host.where(self._target.file_name)
            self._drop(host)
            raise PluginFault(f"gave no answer in {timeout_s:g} s ({limit}){_at(where)}") from None
        except EOFError:
            self._host = None
            raise PluginFault(f"its process died ({_exit_words(host.close())})") from None
        except Interrupted:
            self._drop(host)
            raise

    def _drop(self, host: _Host) -> None:
        host.kill()
        self._host = None


def _at(where: str | None) -> str:
    if not where:
        return ""
    near = os.path.relpath(where)
    return f" at {where if near.startswith('..') else near}"


def _exit_words(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


# -- finding ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """What the host loads: `file`, or else `module`, and what it appends to the import path."""

    file: str | None
    module: str | None
    function: str
    folder: str

    @property
    def file_name(self) -> str:
        """The plug-in's own file, guessed from its name."""
        return Path(self.file).name if self.file else f"{str(self.module).rpartition('.')[2]}.py"


def _locate(target: str) -> Target:
    """Where `target` is; RewardError where its file is not there."""
    place, _, function = target.rpartition(":")
    if not place or not function.isidentifier():
        raise RewardError(f"reward {target!r}: write file.py:function or package.module:function")
    if not place.endswith(".py"):
        return Target(None, place, function, os.getcwd())
    path = Path(place).expanduser()
    if not path.is_file():
        raise RewardError(f"reward {target!r}: no file {place}{_nearest(path)}")
    return Target(str(path.resolve()), None, function, str(path.resolve().parent))


def _nearest(path: Path) -> str:
    near = nearest_file(path, sorted(path.parent.glob("*.py")))
    place = f" (looked from {Path.cwd()})"
    return f"; the nearest is {near}{place}" if near else place


# -- the process ------------------------------------------------------------------------------


class _Host:
    """The child process and its three pipes: requests, replies and stacks."""

    def __init__(self) -> None:
        self._stacks, stack_end = os.pipe()
        script = str(Path(plugin_host.__file__))
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", script, str(os.getpid()), str(stack_end)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(stack_end,),
                bufsize=0,
            )
        finally:
            os.close(stack_end)
        assert self._process.stdin and self._process.stdout
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        self._end = weakref.finalize(self, _end_process, self._process, self._stacks)

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


def _end_process(process: subprocess.Popen[bytes], stacks: int) -> None:
    assert process.stdin and process.stdout
    process.stdin.close()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
    os.close(stacks)


def _stack_place(dump: str, file: str) -> str | None:
    """The innermost frame of `file` in faulthandler's dump, else the innermost of all."""
    frames: Sequence[tuple[str, str]] = re.findall(r'File "(.*)", line (\d+) in ', dump)
    own = [frame for frame in frames if Path(frame[0]).name == file]
    path, line = (own or frames or [("", "")])[0]
    return f"{path}:{line}" if path else None
