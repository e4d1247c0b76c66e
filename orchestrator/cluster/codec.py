"""The calls of `worker/nodes.py` as plain values (dicts, tuples, texts, numbers, bytes), and back.

Driven by the annotations of `Node`, so that a call cannot be written in two ways. Plain values are
all that msgpack knows, and nothing that is read makes anything but our frozen records.
"""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from orchestrator.errors import SweepError
from orchestrator.worker.nodes import Node


class NotOurs(SweepError):
    """A value that does not say what the annotations promise: another version, or a fault."""


def _calls() -> tuple[str, ...]:
    methods = inspect.getmembers(Node, inspect.isfunction)
    return tuple(name for name, _ in methods if not name.startswith("_"))


CALLS = _calls()
"""The names of what a node can be asked."""


@functools.cache
def _signature(call: str) -> tuple[dict[str, Any], Any]:
    """The annotations of a call's arguments, in order, and of what it gives."""
    hints = typing.get_type_hints(getattr(Node, call))
    gives = hints.pop("return")
    return hints, gives


def pack_arguments(call: str, arguments: Sequence[Any]) -> tuple[Any, ...]:
    """The arguments of a call as plain values."""
    return tuple(map(plain, arguments))


def read_arguments(call: str, values: Any) -> tuple[Any, ...]:
    """The arguments of a call; NotOurs."""
    wanted, _ = _signature(call)
    if not isinstance(values, Sequence) or len(values) != len(wanted):
        raise NotOurs(f"{call} takes {len(wanted)} arguments")
    return tuple(read(kind, value) for kind, value in zip(wanted.values(), values, strict=True))


def read_answer(call: str, value: Any) -> Any:
    """What a call gave; NotOurs."""
    return read(_signature(call)[1], value)


def plain(value: Any) -> Any:
    """A value of the interface as plain values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(map(plain, value))
    return value


def read(kind: Any, value: Any) -> Any:
    """The value that was meant, by its annotation; NotOurs where it is none of that kind."""
    origin, of = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _read_optional(of, value)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _other(kind, value)
        return {read(of[0], key): read(of[1], item) for key, item in value.items()}
    if origin is not None and issubclass(origin, Sequence):
        if not isinstance(value, list | tuple):
            raise _other(kind, value)
        return tuple(read(of[0], item) for item in value)
    if dataclasses.is_dataclass(kind):
        return _read_record(kind, value)
    if issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            raise _other(kind, value) from None
    if kind is float and type(value) is int:
        return float(value)
    # bool is an int to Python, not to us.
    if type(value) is not kind:
        raise _other(kind, value)
    return value


def _read_optional(of: tuple[Any, ...], value: Any) -> Any:
    if value is None and types.NoneType in of:
        return None
    [kind] = [each for each in of if each is not types.NoneType]
    return read(kind, value)


@functools.cache
def _fields(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _read_record(kind: Any, value: Any) -> Any:
    wanted = _fields(kind)
    if not isinstance(value, Mapping) or set(value) != set(wanted):
        raise _other(kind, value)
    return kind(**{name: read(each, value[name]) for name, each in wanted.items()})


def _other(kind: Any, value: Any) -> NotOurs:
    wanted = kind.__name__ if isinstance(kind, type) else str(kind)
    return NotOurs(f"{wanted} was expected, not {str(value)[:80]!r}")
