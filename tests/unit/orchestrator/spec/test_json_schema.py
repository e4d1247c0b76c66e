"""The JSON Schema of specs: it takes what the reader takes, and refuses what a schema can."""

import json
import re
from pathlib import Path

import pytest
import tomli

from grpo_core.config import FIELDS
from orchestrator.spec.distributions import DISTRIBUTIONS
from orchestrator.spec.fields import RESERVED, TABLES, TOP_KEYS
from orchestrator.spec.json_schema import grammar

SWEEPS = sorted((Path(__file__).parents[4] / "sweeps").glob("*.toml"))
TYPES = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int,
    "number": (int, float),
}  # fmt: skip


def is_type(value, name):
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, TYPES[name])


def fits(value, schema):
    """The part of JSON Schema that ours uses, by the specification."""
    kinds = schema.get("type", [])
    if kinds and not any(is_type(value, k) for k in ([kinds] if isinstance(kinds, str) else kinds)):
        return False
    if "anyOf" in schema and not any(fits(value, each) for each in schema["anyOf"]):
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        return False
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = schema.get("minimum", value), schema.get("maximum", value)
        above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
        if not low <= value <= high or (above is not None and value <= above):
            return False
        if below is not None and value >= below:
            return False
    if isinstance(value, list):
        return all(fits(v, schema.get("items", {})) for v in value) and len(value) >= schema.get(
            "minItems", 0
        )
    if isinstance(value, dict):
        known = schema.get("properties", {})
        if schema.get("additionalProperties") is False and set(value) - set(known):
            return False
        whole = set(schema.get("required", ())) <= set(value)
        return whole and all(fits(v, known.get(k, {})) for k, v in value.items())
    return True


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_every_shipped_sweep_fits(path):
    """What we ship is what the schema describes."""
    assert fits(tomli.loads(path.read_text()), grammar())


def test_the_schema_knows_every_key_and_field():
    """A table, a field or a distribution that comes or goes shows up here."""
    schema = json.loads(json.dumps(grammar()))
    assert set(schema["properties"]) == {*TOP_KEYS, *TABLES}
    assert set(schema["properties"]["set"]["properties"]) == set(FIELDS) - set(RESERVED)
    kinds = schema["properties"]["params"]["properties"]["kl_coeff"]["anyOf"]
    assert [kind["properties"]["dist"]["const"] for kind in kinds[1:]] == list(DISTRIBUTIONS)


@pytest.mark.parametrize(
    "text",
    [
        "[params]\nlearning_rat = [1]",
        "[params]\nlearning_rate = 1e-5",
        '[params]\nlearning_rate = ["x"]',
        "[params]\nnum_generations = [1]",
        'params.loss_type = ["grppo"]',
        'params.kl_coeff = { dist = "uniform", min = 0 }',
        'params.kl_coeff = { dist = "unifrm", min = 0, max = 1 }',
        'params.loss_type = { dist = "uniform", min = 0, max = 1 }',
        "set.output_dir = 'x'",
        "[[exclude]]\nthat = 'True'",
        "search.method = 'rondom'",
        "stop.rule = 'hyperband'",
        "limits.wall = '3'",
        "seeds = []",
        "learning_rate = 1e-5",
    ],
)
def test_what_is_wrong_does_not_fit(text):
    """Typos and values out of range are seen while they are typed."""
    assert not fits(tomli.loads(text), grammar())
