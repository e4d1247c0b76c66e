"""Reward plug-ins, `file.py:function` or `package.module:function`: found, called, stopped.

The trainer's side; the function itself runs in a process of its own (`plugin_host.py`), which is
killed where it gives no answer in time. What its values mean is decided in `builtin.py`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grpo_core.config import did_you_mean, named_path, nearest_file
from grpo_core.errors import ExitCode, GRPOError, Interrupted, RewardError
from grpo_core.rewards.plugin_process import PluginProcess

Value = float | dict[str, str] | None


class PluginFault(Exception):
    """A call that gave no list of values; the message says what happened instead."""


class PluginCrashed(GRPOError):
    """A signal has ended the process of a plug-in: a fault of its own, or of the machine."""


class PluginKilled(PluginCrashed):
    """The signal was SIGKILL, as where the system has no memory left."""

    exit_code = ExitCode.KILLED


class Plugin:
    """A user's reward function, ready to be called."""

    def __init__(self, target: str, timeout_s: float, load_timeout_s: float) -> None:
        self.name = target
        self._timeout_s = timeout_s
        self._load_timeout_s = load_timeout_s
        self._target = _locate(target)
        self._host: PluginProcess | None = None
        self._start()

    def __call__(
        self, arguments: Mapping[str, Any], should_stop: Callable[[], bool]
    ) -> list[Value]:
        """The function's values for keyword arguments, of which it gets those it accepts.

        A value is a number, None (missing) or `{"bad": repr}`. Raises PluginFault, after which
        the function may be called again, in a new process if need be; RewardError where it wants
        an argument that there is not, and Interrupted.
        """
        self.check(arguments)
        accepts = self._accepts
        wanted = {k: v for k, v in arguments.items() if accepts is None or k in accepts}
        host = self._host or self._start(should_stop)
        reply = self._ask(host, wanted, self._timeout_s, "reward_timeout_s", should_stop)
        if "error" in reply:
            raise PluginFault(f"{reply['error']}{_at(reply.get('where'))}")
        values: list[Value] = reply["values"]
        return values

    def check(self, arguments: Mapping[str, Any]) -> None:
        """RewardError where the function wants an argument that is not among these."""
        missing = [name for name in self._requires if name not in arguments]
        if missing:
            raise RewardError(
                f"reward {self.name!r}: has a parameter {missing[0]!r}, but the columns and other "
                f"names are {', '.join(arguments)}{did_you_mean(missing[0], arguments)}"
            )

    def close(self) -> None:
        """End the process."""
        if self._host is not None:
            self._host.close()
            self._host = None

    def _start(self, should_stop: Callable[[], bool] = lambda: False) -> PluginProcess:
        self._host = host = PluginProcess()
        try:
            target, limit = asdict(self._target), "reward_load_timeout_s"
            reply = self._ask(host, target, self._load_timeout_s, limit, should_stop)
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
        host: PluginProcess,
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
            code = host.close()
            words = f"its process died ({_exit_text(code)})"
            if code < 0:
                # The machine's doing, or a bug's: no reward is missing, the run is tried again.
                kind = PluginKilled if code == -signal.SIGKILL else PluginCrashed
                raise kind(f"reward {self.name!r}: {words}") from None
            raise PluginFault(words) from None
        except Interrupted:
            self._drop(host)
            raise

    def _drop(self, host: PluginProcess) -> None:
        host.kill()
        self._host = None


def _at(where: str | None) -> str:
    if not where:
        return ""
    near = os.path.relpath(where)
    return f" at {where if near.startswith('..') else near}"


def _exit_text(code: int) -> str:
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
    path = named_path(place)
    if not path.is_file():
        raise RewardError(f"reward {target!r}: no file {place}{_nearest(path)}")
    return Target(str(path.resolve()), None, function, str(path.resolve().parent))


def _nearest(path: Path) -> str:
    near = nearest_file(path, sorted(path.parent.glob("*.py")))
    place = f" (looked from {Path.cwd()})"
    return f"; the nearest is {near}{place}" if near else place
