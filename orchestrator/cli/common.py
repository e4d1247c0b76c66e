"""What the commands share: output, how they open the queue, common options."""

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from orchestrator.errors import NothingAffected, SweepError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem
    from rich.console import Console
    from rich.progress import Progress

    from orchestrator.queue.store import Store
    from orchestrator.run import Run, Sweep

# What takes longer is shown to go on.
_PATIENCE_S = 0.7
# From here on JSON is written a line an item.
_LONG = 1000
# More names than this help nobody to choose.
_OFFERED = 100

F = TypeVar("F", bound=Callable[..., Any])

# A table in a pipe is for programs and files: no line is folded.
_PIPE_WIDTH = 10_000
# From here on a table has room for what is nice to know.
WIDE = 100


def say(text: str) -> None:
    """Talk: what a person wants to know, on stderr."""
    print(text, file=sys.stderr, flush=True)


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
                lines = ",\n    ".join(_json(one) for one in item)
                print(f"  {json.dumps(key)}: [\n    {lines}\n  ]{comma}")
            else:
                text = _json(item, indent=2).replace("\n", "\n  ")
                print(f"  {json.dumps(key)}: {text}{comma}")
        print("}")
    else:
        print(_json(value, indent=2))


def _is_long(value: Any) -> bool:
    return isinstance(value, list) and len(value) > _LONG


def _json(value: Any, indent: int | None = None) -> str:
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def console(stderr: bool = False) -> "Console":
    """A rich console: colour only in a terminal, and there only without NO_COLOR."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


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

        words = bars.TextColumn("{task.description}")
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


def open_queue(readonly: bool = False) -> "Store":
    """The user's queue."""
    from orchestrator.queue.store import Store

    return Store.open(readonly=readonly)


def find_all(store: "Store", refs: tuple[str, ...]) -> "list[Run]":
    """The runs that some references mean, each once, in their order."""
    found = {run.id: run for ref in refs for run in store.queries.find_runs(ref)}
    return list(found.values())


def only_sweep(store: "Store", ref: str) -> "Sweep | None":
    """The sweep that `ref` names as such; None where it means runs by number or name."""
    if ref.replace("-", "").isdigit():
        return None
    try:
        return store.queries.sweep(ref)
    except NothingAffected:
        if store.queries.runs_named(ref):
            return None
        raise


def base_values(sweep: "Sweep", keys: Iterable[str]) -> dict[str, Any]:
    """What the frozen base of a sweep says for these keys: its value, else the field's default."""
    wanted = list(keys)
    if not wanted:
        return {}
    from orchestrator.spec.base_config import resolved_base

    config = resolved_base(sweep)
    return {key: getattr(config, key) for key in wanted if hasattr(config, key)}


# --- options


def json_option(command: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(command)


def set_option(command: F) -> F:
    """`--set key=value`, any number of times."""
    return click.option(
        "--set",
        "overrides",
        metavar="KEY=VALUE",
        multiple=True,
        shell_complete=_complete_field,
        help="Override a config field; repeat for more.",
    )(command)


def _complete_field(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> "list[CompletionItem]":
    from click.shell_completion import CompletionItem

    from grpo_core.config import FIELDS

    return [
        CompletionItem(f"{name}=", help=info.help)
        for name, info in FIELDS.items()
        if name.startswith(incomplete)
    ]


def complete_swept(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> "list[CompletionItem]":
    """The parameters that the runs of the named (else the latest) sweep set."""
    from click.shell_completion import CompletionItem

    from orchestrator.queue.store import Store

    names: list[str] = []
    with contextlib.suppress(SweepError), Store.open(readonly=True) as store:
        names = store.status.keys_of(
            store.queries.sweep(str(context.params.get("sweep") or "@")).id
        )
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


class Ref(click.ParamType[str]):
    """A run's id or name, a range of ids, a sweep's name, or @ for the latest sweep.

    `runs` and `sweeps` say what the shell offers; what is meant is found by the command.
    """

    name = "ref"

    def __init__(self, runs: bool = False, sweeps: bool = True) -> None:
        self._runs = runs
        self._sweeps = sweeps

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> "list[CompletionItem]":
        """The sweeps and the runs that begin so; of very many runs the latest."""
        from click.shell_completion import CompletionItem

        from orchestrator.queue.store import Store

        items: list[CompletionItem] = []
        # Who is typing cannot do anything about a queue that cannot be read.
        with contextlib.suppress(SweepError), Store.open(readonly=True) as store:
            if self._sweeps:
                names = [sweep.name for sweep in store.queries.sweeps(all=True)]
                items += [
                    CompletionItem(n, help="sweep") for n in names if n.startswith(incomplete)
                ]
            for run_id, name in store.status.named_like(incomplete, _OFFERED) if self._runs else []:
                by_id = incomplete and str(run_id).startswith(incomplete)
                value, other = (str(run_id), name) if by_id else (name, f"run {run_id}")
                items.append(CompletionItem(value, help=other))
        return items


def no_worker_hint() -> str:
    """What to say after something was queued and nobody works; empty where a worker runs."""
    from orchestrator.worker.serving import worker_alive

    if worker_alive() is not None:
        return ""
    return "no worker runs; start one with: grpo-sweep work   (or grpo-sweep work --detach)"
