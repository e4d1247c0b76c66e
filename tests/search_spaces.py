"""Small search spaces for tests, built from the same tables as a spec's [params]."""

from grpo_core.config import FIELDS, MLXGRPOConfig
from orchestrator.space.constraints import Rule, Rules
from orchestrator.space.expressions import parse
from orchestrator.space.space import Space, axis
from orchestrator.spec.distributions import read_parameter

BASE = vars(MLXGRPOConfig())


def parameter(name, **table):
    """A parameter from its table, or from a list under `axis`; a fault fails the test."""

    def fail(path, text):
        raise AssertionError(f"{name}.{path}: {text}")

    return axis(name, table["axis"]) if "axis" in table else read_parameter(name, table, fail)


def space(**tables):
    """A space of parameters by name."""
    return Space.of(parameter(name, **table) for name, table in tables.items())


def rules(derive=None, exclude=(), require=(), **base):
    """Rules over the default config with `base` set, from the texts of their formulas."""
    formulas = {name: parse(text, FIELDS) for name, text in (derive or {}).items()}
    checks = [Rule(f"exclude[{i}]", parse(t, FIELDS), True) for i, t in enumerate(exclude)]
    checks += [Rule(f"require[{i}]", parse(t, FIELDS), False) for i, t in enumerate(require)]
    return Rules.of({**BASE, **base}, formulas, tuple(checks))


MIXED = {
    "learning_rate": {"dist": "loguniform", "min": 1e-6, "max": 1e-3},
    "kl_coeff": {"dist": "uniform", "min": 0.0, "max": 0.1},
    "lora_rank": {"dist": "logint", "min": 1, "max": 64},
    "temperature": {"dist": "normal", "mean": 0.8, "sd": 0.2},
    "warmup_ratio": {"dist": "quniform", "min": 0.0, "max": 0.3, "step": 0.1},
    "batch_size": {"dist": "int", "min": 1, "max": 4},
    "loss_type": {"axis": ["grpo", "dapo", "dr_grpo"]},
    "clip_eps_high": {"dist": "uniform", "min": 0.2, "max": 0.35, "when": "loss_type == 'dapo'"},
    "num_generations": {"axis": [4, 8, 16]},
}
