"""Spec files over a small base config, and the faults that a submit finds in one."""

from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from orchestrator.plan.expand import expand
from orchestrator.spec.reader import read_spec

BASE = 'model_name = "builtin/tiny"\nnum_generations = 4\nlearning_rate = 2e-5\n'


def write(text, name="s.toml", base=True):
    """A spec file with the base config named in its first line."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(('config = "configs/base.toml"\n' if base else "") + text)
    return path


def faults(text, *overrides, **where):
    """Every fault of a spec, as a submit would show them."""
    with pytest.raises(SpecError) as e:
        expand(read_spec(write(text, **where), overrides))
    assert e.value.exit_code == 2
    return list(e.value.faults)
