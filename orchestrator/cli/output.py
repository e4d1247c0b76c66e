"""Where the commands print: data on stdout, messages on stderr; and a spinner for long waits."""

import contextlib
import functools
import gc
import json
import re
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from grpo_core.run.atomic import finite
from grpo_core.terminal import tell, unfiltered
from orchestrator.views.json_text import JsonText

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

# What takes longer is shown to go on.
_PATIENCE_S = 0.7
_LATE_CONTROL = re.compile(r"[\x7f-\x9f]")
# From here on JSON is written a line an item.
_LONG = 1000
# A table in a pipe is for programs and files: no line is folded.
_PIPE_WIDTH = 10_000
# From here on a table has room for what is nice to know.
WIDE = 100


def say(text: str) -> None:
    """A message for a person, on stderr."""
    tell(text)


def print_json(value: Any) -> None:
    """Data as JSON on stdout, readable by people too; NaN and infinity become null.

    A long list that stands at the top of the value gets a line an item: Python lays out JSON a
    hundred times slower than it writes it.
    """
    if isinstance(value, dict) and any(map(_is_long, value.values())):
        print("{")
        for number, (key, item) in enumerate(value.items(), start=1):
            comma = "," if number < len(value) else ""
            if _is_long(item):
                lines = _escaped(",\n    ".join(map(_dumped, item)))
                print(f"  {json.dumps(key)}: [\n    {lines}\n  ]{comma}")
            else:
                text = _json(item, indent=2).replace("\n", "\n  ")
                print(f"  {json.dumps(key)}: {text}{comma}")
        print("}")
    else:
        print(_json(value, indent=2))


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No garbage is collected within it.

    A command that reads a long queue makes objects by the million, and needs them until it ends:
    each collection would walk through all of them, for a third of its time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _is_long(value: Any) -> bool:
    return isinstance(value, list) and len(value) > _LONG


def _json(value: Any, indent: int | None = None) -> str:
    return _escaped(_dumped(value, indent))


def _escaped(text: str) -> str:
    # Of what a terminal obeys JSON escapes by itself only what is older than DEL. Most texts have
    # none of the others either, which is seen much sooner than it is searched for.
    if text.isascii() and "\x7f" not in text:
        return text
    return _LATE_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _dumped(value: Any, indent: int | None = None) -> str:
    if isinstance(value, JsonText):
        return value.text
    dumps = functools.partial(
        json.dumps, indent=indent, ensure_ascii=False, allow_nan=False, default=_parsed
    )
    try:
        return dumps(value)
    except ValueError:
        return dumps(finite(value))


def _parsed(value: JsonText) -> Any:
    return json.loads(value.text)


def console(stderr: bool = False) -> "Console":
    """A rich console: colour only in a terminal, and there only without NO_COLOR."""
    # Not at the top: --help and --json need none of it.
    from orchestrator.views.console import VisibleConsole

    stream = unfiltered(sys.stderr if stderr else sys.stdout)
    width = None if stream.isatty() else _PIPE_WIDTH
    # What users write, such as a prompt with [/INST] in it, is never markup.
    return VisibleConsole(
        file=stream, width=width, markup=False, emoji=False, highlight=False, soft_wrap=False
    )


@contextlib.contextmanager
def busy(what: str) -> Iterator[None]:
    """Show a person at a terminal that something takes its time, with the seconds it has taken.

    Nothing is shown of what is over at once, nor in a pipe.
    """
    if not sys.stderr.isatty():
        yield
        return
    shown: list[Progress] = []

    def show() -> None:
        # Not before it is needed: it takes a moment to load.
        from rich import progress as bars

        words = bars.TextColumn("{task.description}", markup=False)
        columns = (bars.SpinnerColumn(), words, bars.TimeElapsedColumn())
        progress = bars.Progress(*columns, console=console(stderr=True), transient=True)
        progress.add_task(what)
        progress.start()
        shown.append(progress)

    timer = threading.Timer(_PATIENCE_S, show)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        for progress in shown:
            progress.stop()
