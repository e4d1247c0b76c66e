"""Every shipped sweep says what it is for, loads, and expands to runs that the trainer takes."""

from pathlib import Path

import pytest

from grpo_core.config import apply_overrides, parse_config, update_config_from_dict, validate
from grpo_core.config.fields import MLXGRPOConfig
from orchestrator.plan.expand import expand
from orchestrator.spec.reader import read_spec

SWEEPS = sorted((Path(__file__).parents[4] / "sweeps").glob("*.toml"))
# Settings at submit, settings that a search chooses later, seeds.
SIZES = {
    "lr_x_group": (9, 0, 2),
    "lora_rank": (5, 0, 3),
    "loss_types": (6, 0, 3),
    "kl": (8, 0, 2),
    "tpe": (10, 30, 0),
    "halving": (16, 0, 0),
    "tiny_halving": (4, 0, 0),
}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_a_shipped_sweep_loads_and_expands(path):
    """Purpose on line 1; each run's --set lines give a configuration that is whole."""
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert 40 < len(first) < 110
    expansion = expand(read_spec(path))
    plan = expansion.plan(expansion.spec.name, "/work")
    base = parse_config(plan.config_text, plan.config_source)
    for run in plan.runs:
        config = update_config_from_dict(MLXGRPOConfig(), dict(base))
        validate(apply_overrides(config, run.set, strict=True))


@pytest.mark.parametrize("name", SIZES)
def test_a_shipped_sweep_has_the_settings_that_it_promises(name):
    """Nothing is dropped, merged or left out by accident."""
    (path,) = (path for path in SWEEPS if path.stem == name)
    found = expand(read_spec(path))
    assert (len(found.settings), found.to_ask, len(found.spec.seeds)) == SIZES[name]
    assert (found.merged, found.shortfall) == (0, "")
