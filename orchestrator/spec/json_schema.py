"""The grammar of sweep specs as a JSON Schema, for editors that complete and check TOML; pure.

Made from the config's fields and the tables of the readers, so that it cannot say something else.
What a schema cannot say (names that stand twice, circles, values that contradict each other) is
left to `submit --dry-run`.
"""

from collections.abc import Iterable
from typing import Any

from grpo_core.config import FIELDS, FieldInfo
from orchestrator.run import RETRYABLE, Limits, Objective, Retry, Search
from orchestrator.search.suggest import METHODS
from orchestrator.spec.distributions import DISTRIBUTION_KEYS, is_optional
from orchestrator.spec.fields import RESERVED
from orchestrator.spec.tables import METRICS
from orchestrator.stopping.rules import RULES, StopRule

Schema = dict[str, Any]

_TYPES: dict[str, Schema] = {
    "str": {"type": "string"},
    "bool": {"type": "boolean"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "list[str]": {"type": "array", "items": {"type": "string"}},
    "list[float]": {"type": "array", "items": {"type": "number"}},
}
_EXPRESSION: Schema = {
    "type": "string",
    "description": "an expression over config fields, such as 32 / lora_rank",
}
_DURATION: Schema = {"type": "string", "pattern": r"^\d+(\.\d+)? ?[smhd]$"}
_SIZE: Schema = {"type": "string", "pattern": r"^\d+(\.\d+)? ?[KMGT]B$"}


def grammar() -> Schema:
    """The schema of a whole spec."""
    fields = {name: _field(info) for name, info in FIELDS.items() if name not in RESERVED}
    axes = {name: {"type": "array", "items": schema} for name, schema in fields.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "grpo-sweep sweep spec",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            **_top(),
            "set": _table(fields, "the same for every run"),
            "params": _table(
                {name: {"anyOf": [axes[name], *_distributions(fields[name])]} for name in fields},
                "a list is an axis; a table is a distribution",
            ),
            "zip": _tables(axes, "columns that move together"),
            "run": _tables(
                {**fields, "tags": _TYPES["list[str]"]}, "explicit runs, crossed with nothing"
            ),
            "derive": _table(dict.fromkeys(fields, _EXPRESSION), "computed from the other fields"),
            "exclude": _tables({"when": _EXPRESSION}, "settings that are left out", ["when"]),
            "require": _tables({"that": _EXPRESSION}, "what every setting must meet", ["that"]),
            **_policies(),
        },
    }


def _field(info: FieldInfo) -> Schema:
    bounds = {
        "minimum": info.min,
        "maximum": info.max,
        "exclusiveMinimum": info.above,
        "exclusiveMaximum": info.below,
    }
    unit = f" ({info.unit})" if info.unit else ""
    return {
        **_TYPES[info.type],
        **{key: bound for key, bound in bounds.items() if bound is not None},
        **({"enum": list(info.choices)} if info.choices else {}),
        "description": info.help + unit,
        "default": info.default,
    }


def _distributions(field: Schema) -> Iterable[Schema]:
    numeric = field["type"] in ("integer", "number")
    for dist, keys in DISTRIBUTION_KEYS.items():
        if dist == "choice" or numeric:
            values = {"values": {"type": "array", "items": field, "minItems": 1}}
            weights = {"weights": {"type": "array", "items": {"type": "number"}}}
            numbers = {key: {"type": "number"} for key in keys}
            own = values | weights if dist == "choice" else numbers
            needed = [key for key in keys if not is_optional(dist, key)]
            yield {
                "type": "object",
                "additionalProperties": False,
                "properties": {"dist": {"const": dist}, **own, "when": _EXPRESSION},
                "required": ["dist", *needed],
            }


def _top() -> Schema:
    seeds = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
    return {
        "name": {"type": "string", "description": "of the sweep; default: the file's name"},
        "config": {"type": "string", "description": "the base config, relative to this file"},
        "output": {"type": "string", "default": "outputs/{sweep}/{run}"},
        "run_name": {"type": "string", "description": "such as lr{learning_rate:.0e}-s{seed}"},
        "seeds": {**seeds, "description": "replicates; every setting once before a second seed"},
    }


def _policies() -> Schema:
    count = {"type": "integer", "minimum": 0}
    return {
        "search": _table(
            {
                "method": {"enum": ["grid", *METHODS], "default": Search().method},
                "runs": {"type": "integer", "minimum": 1, "description": "how many settings"},
                "seed": {**count, "default": Search().seed},
            },
            "how settings are found",
        ),
        "objective": _table(
            {
                "metric": {"anyOf": [{"enum": list(METRICS)}, {"pattern": "^reward/"}]},
                "goal": {"enum": ["max", "min"], "default": Objective().goal},
                "reduce": {"type": "string", "pattern": r"^(last|best|last:[1-9]\d{0,5})$"},
            },
            "what settings are ranked by",
        ),
        "stop": _table(
            {
                "rule": {"enum": list(RULES), "default": StopRule().rule},
                "warmup": {"type": ["string", "number"], "default": "30%"},
                "health": {**_TYPES["list[str]"], "default": ["nan"]},
            },
            "when a run is stopped before its end",
        ),
        "limits": _table(
            {
                "max_failures": {**count, "default": Limits().max_failures},
                **{"wall": _DURATION, "run_wall": _DURATION, "disk": _SIZE},
            },
            "what the sweep may use up",
        ),
        "retry": _table(
            {
                "max": {**count, "default": Retry().max},
                "on": {"type": "array", "items": {"enum": [str(v) for v in RETRYABLE]}},
            },
            "what is tried again",
        ),
        "keep": _table(
            {
                "checkpoints": {
                    "type": "string",
                    "pattern": r"^(all|(best\+)?last(:[1-9]\d{0,5})?)$",
                }
            },
            "which checkpoints stay",
        ),
    }


def _table(properties: Schema, description: str) -> Schema:
    return {
        "type": "object",
        "description": description,
        "additionalProperties": False,
        "properties": properties,
    }


def _tables(properties: Schema, description: str, required: Iterable[str] = ()) -> Schema:
    item = {**_table(properties, description), "required": list(required)}
    return {"type": "array", "items": item}
