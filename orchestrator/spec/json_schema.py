"""The grammar of sweep specs as a JSON Schema, for editors that complete and check TOML; pure.

Made from the config's fields and the tables of the readers, so that it cannot say something else.
What a schema cannot say is left to `submit --dry-run`: what only shows between keys (names that
stand twice, circles, values that contradict each other), what a text means (expressions,
placeholders, paths), letters beyond ASCII in a name.
"""

from collections.abc import Iterable

from grpo_core.config import FIELDS, FieldInfo
from orchestrator.names import MAX_NAME_BYTES
from orchestrator.spec.distributions import (
    DISTRIBUTION_KEYS,
    LOGARITHMIC,
    ON_WHOLE_NUMBERS,
    distributions_of,
    is_optional,
)
from orchestrator.spec.fields import FORBIDDEN, RESERVED
from orchestrator.spec.keys import Schema
from orchestrator.spec.tables import KEYS

_TYPES: dict[str, Schema] = {
    "str": {"type": "string"},
    "bool": {"type": "boolean"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "list[str]": {"type": "array", "items": {"type": "string"}},
    "list[float]": {"type": "array", "items": {"type": "number"}},
    "table": {"type": "object"},
}
_TEXT: Schema = {"type": "string", "pattern": r"\S"}
_EXPRESSION: Schema = {
    **_TEXT,
    "description": "an expression over config fields, such as 32 / lora_rank",
}
_NOT_IN_A_NAME = r"\x00-\x20!\"#$%&'()*/:;<>?@\[\\\]^`{|}~\x7f"
_NAME: Schema = {
    "type": "string",
    "pattern": rf"^(?![0-9]+(-[0-9]+)?$)[^.\-{_NOT_IN_A_NAME}][^{_NOT_IN_A_NAME}]*$",
    "maxLength": MAX_NAME_BYTES,
}
_DESCRIPTIONS = {
    "search": "how settings are found",
    "objective": "what settings are ranked by",
    "stop": "when a run is stopped before its end",
    "limits": "what the sweep may use up",
    "retry": "what is tried again",
    "keep": "which checkpoints stay",
}


def grammar() -> Schema:
    """The schema of a whole spec."""
    fields = {name: _field(info) for name, info in FIELDS.items() if name not in RESERVED}
    axes = {name: _list_of(schema) for name, schema in fields.items()}
    computed = dict.fromkeys((name for name in fields if name != "seed"), _EXPRESSION)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "grpo-sweep sweep spec",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            **_top(fields["seed"]),
            "set": _table(fields, "the same for every run"),
            "params": _table(
                {name: {"anyOf": [axes[name], *_distributions(name, fields)]} for name in fields},
                "a list is an axis; a table is a distribution",
            ),
            "zip": _tables(axes, "columns that move together", least=1),
            "run": _tables(
                {**fields, "tags": _TYPES["list[str]"]}, "explicit runs, crossed with nothing"
            ),
            "derive": _table(computed, "computed from the other fields"),
            "exclude": _tables({"when": _EXPRESSION}, "settings that are left out", ["when"]),
            "require": _tables({"that": _EXPRESSION}, "what every setting must meet", ["that"]),
            **{
                table: _table({name: key.schema for name, key in KEYS[table].items()}, words)
                for table, words in _DESCRIPTIONS.items()
            },
        },
    }


def _field(info: FieldInfo) -> Schema:
    unit = f" ({info.unit})" if info.unit else ""
    choices: list[str | bool] = [*info.choices]
    if info.name in FORBIDDEN:
        choices = [value for value in (False, True) if value is not FORBIDDEN[info.name][0]]
    return {
        **_TYPES[info.type],
        **_bounds(info),
        **({"enum": choices} if choices else {}),
        "description": info.help + unit,
        "default": info.default,
    }


def _bounds(info: FieldInfo) -> Schema:
    bounds = {
        "minimum": info.min,
        "maximum": info.max,
        "exclusiveMinimum": info.above,
        "exclusiveMaximum": info.below,
    }
    return {key: bound for key, bound in bounds.items() if bound is not None}


def _list_of(schema: Schema) -> Schema:
    return {"type": "array", "items": schema, "minItems": 1}


def _distributions(name: str, fields: Schema) -> Iterable[Schema]:
    for dist in distributions_of(FIELDS[name].type):
        keys = {key: _parameter(dist, key, FIELDS[name]) for key in DISTRIBUTION_KEYS[dist]}
        if dist == "choice":
            keys["values"] = _list_of(fields[name])
        yield {
            "type": "object",
            "additionalProperties": False,
            "properties": {"dist": {"const": dist}, **keys, "when": _EXPRESSION},
            "required": ["dist", *(key for key in keys if not is_optional(dist, key))],
        }


def _parameter(dist: str, key: str, info: FieldInfo) -> Schema:
    """What a key of a distribution over a field can hold."""
    above_0 = {"exclusiveMinimum": 0}
    if key == "weights":
        return _list_of({"type": "number", **above_0})
    if key in ("mean", "sd"):
        return {"type": "number", **(above_0 if key == "sd" else {})}
    whole = dist in ON_WHOLE_NUMBERS or info.type == "int"
    number = {"type": "integer" if whole else "number"}
    if key == "step":
        return {**number, **above_0}
    return {**number, **(above_0 if dist in LOGARITHMIC else {}), **_bounds(info)}


def _top(seed: Schema) -> Schema:
    seeds = {**_list_of(seed), "uniqueItems": True}
    return {
        "name": {**_NAME, "description": "of the sweep; default: the file's name"},
        "config": {**_TEXT, "description": "the base config, relative to this file"},
        "output": {**_TEXT, "default": "outputs/{sweep}/{run}"},
        "run_name": {**_TEXT, "description": "such as lr{learning_rate:.0e}-s{seed}"},
        "seeds": {**seeds, "description": "replicates; every setting once before a second seed"},
    }


def _table(properties: Schema, description: str) -> Schema:
    return {
        "type": "object",
        "description": description,
        "additionalProperties": False,
        "properties": properties,
    }


def _tables(
    properties: Schema, description: str, required: Iterable[str] = (), least: int = 0
) -> Schema:
    item = {**_table(properties, description), "required": list(required), "minProperties": least}
    return {"type": "array", "items": item}
