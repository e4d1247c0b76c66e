"""The JSON Schema of specs: it takes what the reader takes, and refuses what a schema can."""

import json
from pathlib import Path

import pytest
import tomli

from grpo_core.config import FIELDS
from orchestrator.spec.distributions import DISTRIBUTIONS
from orchestrator.spec.fields import RESERVED, TABLES, TOP_KEYS
from orchestrator.spec.json_schema import grammar
from tests.schema_oracle import fits

SWEEPS = sorted((Path(__file__).parents[4] / "sweeps").glob("*.toml"))


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
