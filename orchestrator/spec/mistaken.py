"""What people write or take for a sweep spec that is none, and where it belongs; pure."""

from pathlib import Path
from typing import Any

from grpo_core.config import FIELDS, did_you_mean
from orchestrator.spec.document import Faults
from orchestrator.spec.fields import TABLES, TOP_KEYS

# So many fields at the top are a training configuration, fewer a slip.
_A_CONFIG = 4
EXAMPLE = (
    'a sweep spec is TOML, such as: config = "base.toml" and, below [params], '
    "learning_rate = [1e-5, 1e-4]; see docs/specs.md"
)

# What other programs write at the top, and where it stands with us.
_ELSEWHERE = {
    "method": "write method under [search]",
    "metric": 'write [objective] with metric = "em" and goal = "max"',
    "goal": "write goal under [objective]",
    "direction": "write goal under [objective]",
    "run_cap": "write runs under [search]",
    "n_trials": "write runs under [search]",
    "early_terminate": 'write [stop] with rule = "median" or "halving"',
    "program": "each run is mlx-grpo; leave it out",
    "command": "each run is mlx-grpo; leave it out",
}


def take_for_params(values: dict[str, Any], faults: Faults) -> None:
    """W&B's word for [params]: a fault, but what stands there is looked at all the same."""
    faults.add(("parameters",), unknown_top("parameters"))
    values["params"] = values.pop("parameters")
    places = {path: at for path, at in faults.positions.items() if path[:1] == ("parameters",)}
    faults.positions = {
        **faults.positions,
        **{("params", *path[1:]): at for path, at in places.items()},
    }


def no_spec(path: Path, values: dict[str, Any]) -> str:
    """Why a document is no sweep spec at all; empty where it may be one."""
    if not values:
        return f"{path}: is empty; {EXAMPLE}"
    fields = values.keys() & FIELDS.keys()
    if values.keys() & {*TOP_KEYS, *TABLES} - FIELDS.keys() or len(fields) < _A_CONFIG:
        return ""
    return (
        f"{path}: a training configuration, not a sweep spec; train it with: grpo-sweep run "
        f"--config {path}   or name it in a spec: config = {str(path)!r}"
    )


def unknown_top(key: str) -> str:
    """The fault of a key at the top that is none of ours."""
    if key in _ELSEWHERE:
        return f"unknown key; {_ELSEWHERE[key]}"
    if key in FIELDS:
        return "a config field; put one value for all runs under [set], a list under [params]"
    return f"unknown key{did_you_mean(key, (*TOP_KEYS, *TABLES))}"
