"""MLX's operations by kind: how many, and how long they take, in a decoded token and in an update.

    python -m benchmarks._trainer.operations FOLDER GROUP TOKENS

Before each evaluation the graph that is about to run is read (`mx.export_function` gives every
operation with its shapes and arguments). Each operation is then run by itself, many times over, on
arrays of the same shapes and layouts; what it takes includes building, scheduling and running it.
So the sum is an estimate, and what was really measured stands beside it. Views cost no more than
their place in the graph. A JSON line a phase: `rollout` (all tokens of a group) and `update`.
"""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mlx.core as mx

_custom_function: Any = mx.custom_function
_calls: list[tuple[list[mx.array], list[mx.array]]] | None = None
"""What custom functions made while a graph is to be read: inside, and what they handed on."""


class _Noted:
    """`mx.custom_function`, whose calls are noted: the graph cannot be read across their edge."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._inside: Any = None
        self._call = _custom_function(self._keeping(function))
        self.vjp = self._call.vjp

    def _keeping(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            self._inside = function(*args)
            return self._inside

        return run

    def __call__(self, *args: Any) -> Any:
        out = self._call(*args)
        if _calls is not None:
            _calls.append((_arrays(self._inside), _arrays(out)))
        self._inside = None
        return out


# Before ours is imported, which decorates functions with it.
mx.custom_function = _Noted  # type: ignore[assignment,misc]

from benchmarks._trainer.engine import Engine, in_turns, median  # noqa: E402
from benchmarks._trainer.rate import clock_of_device  # noqa: E402
from benchmarks._trainer.work import Setting  # noqa: E402
from grpo_core.model.decode_cache import DecodeCache  # noqa: E402

REPEATS = 3
# Of one operation evaluated together: enough to time, and no more than a cache holds.
MOST_AT_ONCE, MOST_BYTES = 64, 2 * 10**6

Maker = Callable[..., mx.array]


def _reduce(x: mx.array, kind: int, axes: list[int]) -> mx.array:
    """`Reduce`, whose first argument is a number: and, or, sum, product, min, max."""
    made = (mx.all, mx.any, mx.sum, mx.prod, mx.min, mx.max)[kind]
    return made(x, axis=axes, keepdims=True)


def _slice(x: mx.array, start: Any, end: Any, step: Any) -> mx.array:
    return x[tuple(slice(*each) for each in zip(start, end, step, strict=True))]


VIEWS: dict[str, Maker] = {
    "Flatten": mx.flatten,
    "Unflatten": mx.unflatten,
    "Transpose": mx.transpose,
    "Broadcast": mx.broadcast_to,
    "ExpandDims": mx.expand_dims,
    "Squeeze": mx.squeeze,
    "Slice": _slice,
}
MAKERS: dict[str, Maker] = VIEWS | {
    "Add": mx.add,
    "Subtract": mx.subtract,
    "Multiply": mx.multiply,
    "Divide": mx.divide,
    "Power": mx.power,
    "Maximum": mx.maximum,
    "Minimum": mx.minimum,
    "Greater": mx.greater,
    "GreaterEqual": mx.greater_equal,
    "Less": mx.less,
    "LessEqual": mx.less_equal,
    "Exp": mx.exp,
    "Log": lambda x, *_: mx.log(x),
    "Cos": mx.cos,
    "Sin": mx.sin,
    "Square": mx.square,
    "Sqrt": lambda x, is_inverse=False: mx.rsqrt(x) if is_inverse else mx.sqrt(x),
    "Negative": mx.negative,
    "Sigmoid": mx.sigmoid,
    "Matmul": mx.matmul,
    "AddMM": lambda a, b, c, alpha, beta: mx.addmm(c, a, b, alpha, beta),
    "Softmax": lambda x, is_precise: mx.softmax(x, axis=-1, precise=is_precise),
    "LogSumExp": lambda x: mx.logsumexp(x, axis=-1, keepdims=True),
    "Reduce": _reduce,
    "ArgReduce": lambda x, kind, axis: (mx.argmin, mx.argmax)[kind](x, axis=axis, keepdims=True),
    "Select": mx.where,
    "AsType": lambda x, dtype: x.astype(dtype),
    "Contiguous": lambda x, *_: mx.contiguous(x),
}


@dataclass(frozen=True)
class Operation:
    """One operation of a graph: its arguments, and how its inputs are laid out.

    `inputs`: shape, dtype, and the views that made it out of an array of that shape.
    """

    kind: str
    arguments: str
    inputs: tuple[Any, ...]
    bytes: int


class Reader:
    """Reads the graphs that `mx.eval` and `mx.async_eval` are about to run."""

    def __init__(self) -> None:
        self.found: Counter[Operation] = Counter()
        self._arguments: dict[str, list[Any]] = {}

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Within it every evaluation is read first, and waited for."""
        global _calls
        run, fetch = mx.eval, DecodeCache.update_and_fetch
        caches: dict[int, DecodeCache] = {}

        def update(cache: DecodeCache, keys: mx.array, values: mx.array) -> Any:
            caches[id(cache)] = cache
            return fetch(cache, keys, values)

        def read_and_run(*trees: Any) -> None:
            for inside, out in _calls or ():
                self._read(inside)
                run(inside, out)
            if _calls:
                _calls.clear()
            self._read(_arrays(trees))
            run(*trees)
            # Reading copies the graph, and what a cache holds would stay to be computed.
            run([cache.kv for cache in caches.values()])

        _calls = []
        # What is compiled has no parts to read; it counts as the operations that it is made of.
        mx.disable_compile()
        try:
            with (
                patch.multiple(mx, eval=read_and_run, async_eval=read_and_run),
                patch.object(DecodeCache, "update_and_fetch", update),
            ):
                yield
        finally:
            mx.enable_compile()
            _calls = None

    def _read(self, arrays: list[mx.array]) -> None:
        if not arrays:
            return
        made: dict[str, tuple[Any, ...]] = {}

        def note(node: dict[str, Any]) -> None:
            if node["type"] != "primitive":
                return
            kind, arguments = node["name"], node["arguments"]
            inputs = tuple(made.get(name, (shape, dtype)) for name, shape, dtype in node["inputs"])
            size = sum(_bytes(shape, dtype) for _, shape, dtype in node["outputs"])
            key = f"{kind} {arguments}"
            self._arguments[key] = arguments
            self.found[Operation(kind, key, inputs, size)] += 1
            if kind in VIEWS:
                for name, _, _ in node["outputs"]:
                    made[name] = (key, *inputs)

        mx.export_function(note, lambda: arrays)  # type: ignore[call-overload]

    def array(self, layout: tuple[Any, ...]) -> mx.array:
        """An array as an operation's input was laid out."""
        if not isinstance(layout[0], str):
            shape, dtype = layout
            made = mx.full(shape, 0.5).astype(dtype)
            mx.eval(made)
            return made
        key, of = layout
        return VIEWS[key.split()[0]](self.array(of), *self._arguments[key])

    def seconds(self, operation: Operation) -> float | None:
        """Of one such operation; None for a kind that is not known here."""
        make = MAKERS.get(operation.kind)
        if make is None:
            return None
        inputs = [self.array(layout) for layout in operation.inputs]
        arguments = self._arguments[operation.arguments]
        count = max(2, min(MOST_AT_ONCE, MOST_BYTES // max(1, operation.bytes)))
        clock = clock_of_device()
        best = float("inf")
        for _ in range(REPEATS):
            began = clock()
            mx.eval([make(*inputs, *arguments) for _ in range(count)])
            best = min(best, (clock() - began) / count)
        return best


def _arrays(tree: Any) -> list[mx.array]:
    if isinstance(tree, mx.array):
        return [tree]
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [a for each in tree for a in _arrays(each)] if isinstance(tree, list | tuple) else []


def _bytes(shape: tuple[int, ...], dtype: mx.Dtype) -> int:
    size = dtype.size
    for length in shape:
        size *= length
    return size


def profile(work: Callable[[], object]) -> dict[str, Any]:
    """`kinds`: count and seconds of each kind; those without seconds could not be run alone."""
    work()
    reader = Reader()
    with reader.reading():
        work()
    [costs] = in_turns([work])
    counts: Counter[str] = Counter()
    seconds: defaultdict[str, float] = defaultdict(float)
    once = cache(reader.seconds)
    for operation, count in reader.found.items():
        counts[operation.kind] += count
        seconds[operation.kind] += count * (once(operation) or 0.0)
    kinds = {kind: [count, seconds[kind]] for kind, count in counts.most_common()}
    return {"measured_s": median(costs).seconds, "kinds": kinds}


def main() -> None:
    """Print the profile of a rollout and of an update."""
    folder, group, tokens = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    engine = Engine(folder, Setting(group, tokens))
    for phase, work in (("rollout", engine.draw), ("update", engine.learn)):
        print(json.dumps({"phase": phase, "tokens": tokens, **profile(work)}), flush=True)


if __name__ == "__main__":
    main()
