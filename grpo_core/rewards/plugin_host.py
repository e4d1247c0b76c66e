"""The process in which one reward plug-in runs. Started by its path; imports nothing of ours.

    python -P plugin_host.py PARENT_PID STACK_FD LIFE_FD

A process of its own, since a thread cannot be stopped: a regular expression that backtracks
without end holds the interpreter's lock, and the trainer would hang with it. Reads one JSON object
a line from stdin and answers each with one; what the plug-in prints goes to stderr. The first line
says what to load, the following ones are calls. It ends with its stdin, and at once when its parent
dies, whatever the plug-in does: LIFE_FD is a pipe that ends then.
"""

import faulthandler
import importlib
import importlib.util
import inspect
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

WHERE_SIGNAL = signal.SIGUSR1  # answered with the stack of the moment
MAX_REPR_CHARS = 80
# More than a trainer has open.
MOST_FILES = 1 << 16

Reply = dict[str, Any]


def main() -> None:
    """Load the plug-in, then answer calls until stdin ends."""
    _die_with(parent=int(sys.argv[1]), life=int(sys.argv[3]))
    requests, replies = _take_pipes()
    # A terminal sends Ctrl-C to the whole group, but the trainer decides. A handler that does
    # nothing, unlike SIG_IGN, is not inherited by the programs that a plug-in starts.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    faulthandler.register(WHERE_SIGNAL, file=int(sys.argv[2]), all_threads=False)
    function: Callable[..., Any] | None = None
    for line in requests:
        request = json.loads(line)
        if function is None:
            function, reply = _load(**request)
        else:
            reply = _call(function, request)
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.flush()


def _die_with(parent: int, life: int) -> None:
    """Be killed when the trainer dies: a thread of ours could not end us.

    It would not run while a plug-in holds the interpreter's lock.
    """
    if sys.platform == "linux":
        import ctypes  # Costs what only Linux needs.

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # It died before we asked.
            os._exit(1)
    elif os.fork() == 0:
        _kill_at_the_end_of(life, os.getppid())
    os.close(life)


def _kill_at_the_end_of(life: int, host: int) -> None:
    """Wait for the trainer's end in a process of its own, which holds nothing else open."""
    os.closerange(0, life)
    os.closerange(life + 1, MOST_FILES)
    # A terminal sends Ctrl-C to the whole group.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.read(life, 1)
    # Its pid is its own as long as it is our parent.
    if os.getppid() == host:
        os.kill(host, signal.SIGKILL)
    os._exit(0)


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Our own copies of stdin and stdout, so that a plug-in may read and print as it likes."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, replies


# -- loading ----------------------------------------------------------------------------------


def _load(
    file: str | None, module: str | None, function: str, folder: str
) -> tuple[Callable[..., Any] | None, Reply]:
    # Last, so that a plug-in finds its neighbours but none of them shadows what is installed.
    sys.path.append(folder)
    try:
        loaded = _import_file(Path(file)) if file else importlib.import_module(module or "")
    # An import runs the user's code, which may raise anything, sys.exit() included.
    except BaseException as e:  # noqa: BLE001
        return None, _raised(e, file)
    found = getattr(loaded, function, None)
    if found is None:
        return None, {"missing": [name for name, value in vars(loaded).items() if callable(value)]}
    if not callable(found):
        return None, {"not_callable": type(found).__name__}
    return found, _signature(found)


class _Uncached(SourceFileLoader):
    """Compiles the file at each load, and leaves nothing beside it.

    Python's cache knows a source by its size and the second of its last change; a reward that is
    edited within a second would be the old one.
    """

    def path_stats(self, path: str) -> Mapping[str, Any]:
        """Raise OSError, by which Python neither reads nor writes a cache."""
        raise OSError(f"{path}: not cached")


def _import_file(path: Path) -> ModuleType:
    # Under a name of its own: a file called json.py must not become everyone's json.
    name = f"reward_plugin_{path.stem}"
    loader = _Uncached(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None and spec.loader is not None, path  # the parent checked for .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _signature(function: Callable[..., Any]) -> Reply:
    """The names a call may use (`accepts`; null: any) and those that it must (`requires`)."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some functions written in C do not say
        return {"accepts": None, "requires": [], "positional": []}
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return {
        "accepts": None if takes_all else [p.name for p in named],
        "requires": [p.name for p in named if p.default is p.empty],
        "positional": [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY],
    }


# -- calling ----------------------------------------------------------------------------------


def _call(function: Callable[..., Any], arguments: dict[str, Any]) -> Reply:
    try:
        result = function(**arguments)
        if inspect.iscoroutine(result):
            # Not at the top: few rewards are coroutines, and it takes a while to load.
            import asyncio

            result = asyncio.run(result)
        if isinstance(result, str | bytes | Mapping) or not isinstance(result, Iterable):
            return {"error": f"returned {_short(result)}, not a list of numbers"}
        return {"values": [_value(item) for item in result]}
    # A plug-in may raise anything; the trainer decides what comes of it.
    except BaseException as e:  # noqa: BLE001
        return _raised(e, _source_file(function))


def _value(item: Any) -> float | Reply | None:
    """None is missing; NumPy's, MLX's and PyTorch's scalars are numbers; a text is not."""
    if item is None:
        return None
    if not isinstance(item, str | bytes):
        try:
            return float(item)
        except (TypeError, ValueError, OverflowError):
            pass
    return {"bad": _short(item)}


def _raised(error: BaseException, file: str | None) -> Reply:
    return {"error": f"raised {_one_line(error)}", "where": _where(error, file)}


def _one_line(error: BaseException) -> str:
    lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
    # A syntax error's first lines show the source; any other's first line is the message.
    return lines[-1 if isinstance(error, SyntaxError) else 0]


def _where(error: BaseException, file: str | None) -> str | None:
    """`file:line` of the plug-in where the error came from, else of the innermost frame."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    ours = ("<frozen importlib", __file__, importlib.__file__)
    places = [
        (frame.filename, f"{frame.filename}:{frame.lineno}")
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(ours)
    ]
    own = [place for name, place in places if file and Path(name) == Path(file)]
    innermost = own[-1:] or [place for _, place in places[-1:]]
    return innermost[0] if innermost else None


def _source_file(function: Callable[..., Any]) -> str | None:
    try:
        return inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:  # an object with __call__, or a function written in C
        return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_REPR_CHARS else f"{text[:MAX_REPR_CHARS]}..."


if __name__ == "__main__":
    main()
