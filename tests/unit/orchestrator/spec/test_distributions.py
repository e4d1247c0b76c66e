"""Tables of distributions: what they make, and what is said of those that cannot be used."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.config import check_value
from orchestrator.space.distributions import Choice, LogInt, LogUniform, Normal, Stepped, Uniform
from orchestrator.spec.distributions import DISTRIBUTIONS, read_domain, read_parameter


def read(name, table):
    """The domain and the faults, each as `key: reason`."""
    faults = []
    domain = read_domain(
        name, table, lambda path, text: faults.append(f"{'.'.join(map(str, path))}: {text}")
    )
    assert (domain is None) == bool(faults)
    return domain, faults


@pytest.mark.parametrize(
    ("name", "table", "expected"),
    [
        ("kl_coeff", {"dist": "uniform", "min": 0, "max": 0.1}, Uniform(0.0, 0.1)),
        ("kl_coeff", {"dist": "loguniform", "min": 1e-6, "max": 1}, LogUniform(1e-6, 1.0)),
        ("lora_rank", {"dist": "int", "min": 1, "max": 4}, Stepped(1, 1, 4, True)),
        ("lora_rank", {"dist": "int", "min": 4, "max": 30, "step": 8}, Stepped(4, 8, 4, True)),
        ("kl_coeff", {"dist": "int", "min": 0, "max": 3}, Stepped(0.0, 1, 4, False)),
        ("lora_rank", {"dist": "logint", "min": 1, "max": 64.0}, LogInt(1, 64)),
        ("kl_coeff", {"dist": "logint", "min": 1, "max": 8}, LogInt(1, 8, False)),
        (
            "kl_coeff",
            {"dist": "quniform", "min": 0.1, "max": 0.3, "step": 0.1},
            Stepped(0.1, 0.1, 3, False),
        ),
        (
            "temperature",
            {"dist": "normal", "mean": 1, "sd": 0.5},
            Normal(1.0, 0.5, math.nextafter(0.0, 1.0), math.inf),
        ),
        (
            "adam_beta1",
            {"dist": "normal", "mean": 0.9, "sd": 0.1, "min": 0.5},
            Normal(0.9, 0.1, 0.5, math.nextafter(1.0, 0.0)),
        ),
        (
            "loss_type",
            {"dist": "choice", "values": ["grpo", "dapo"], "weights": [1, 3]},
            Choice(("grpo", "dapo"), (0.25, 0.75)),
        ),
        ("use_compile", {"dist": "choice", "values": [True, False]}, Choice.of((True, False))),
    ],
)
def test_a_table_makes_the_domain_that_suits_the_field(name, table, expected):
    """Whole numbers for whole numbers; a normal distribution ends where the field does."""
    domain, _ = read(name, table)
    assert domain == expected
    value = domain.pick(0.4)
    assert check_value(name, value) == value
    assert type(check_value(name, value)) is type(value)


@pytest.mark.parametrize(
    ("name", "table", "words"),
    [
        ("kl_coeff", {}, [": needs dist, one of uniform, loguniform"]),
        ("kl_coeff", {"distribution": "uniform"}, ["write dist, not distribution"]),
        ("kl_coeff", {"dist": "log_uniform"}, ["dist: 'log_uniform': must be one of"]),
        ("kl_coeff", {"dist": 3}, ["dist: 3: must be one of"]),
        ("kl_coeff", {"dist": "categorical"}, ["did you mean choice?"]),
        ("kl_coeff", {"dist": "uniform"}, [": uniform needs min", ": uniform needs max"]),
        (
            "kl_coeff",
            {"dist": "uniform", "min": 0, "max": 1, "q": 1},
            ["q: unknown key; uniform takes min, max"],
        ),
        (
            "kl_coeff",
            {"dist": "normal", "mu": 0, "sd": 1},
            ["mu: unknown key; did you mean mean?", ": normal needs mean"],
        ),
        ("kl_coeff", {"dist": "uniform", "min": "0", "max": 1}, ["min: '0': must be a number"]),
        ("kl_coeff", {"dist": "uniform", "min": True, "max": 1}, ["min: True: must be a number"]),
        (
            "kl_coeff",
            {"dist": "uniform", "min": math.nan, "max": math.inf},
            ["min: nan: must be a number", "max: inf: must be a number"],
        ),
        ("kl_coeff", {"dist": "uniform", "min": 2, "max": 1}, ["min: 2: must be below max, 1"]),
        ("kl_coeff", {"dist": "uniform", "min": 1, "max": 1}, ["min: 1: must be below max, 1"]),
        ("kl_coeff", {"dist": "uniform", "min": -1, "max": 1}, ["min: -1.0: must be at least 0"]),
        (
            "kl_coeff",
            {"dist": "loguniform", "min": 0, "max": 1},
            ["min: 0: must be above 0 on a logarithmic scale"],
        ),
        (
            "lora_rank",
            {"dist": "uniform", "min": 1, "max": 2},
            ["dist: 'uniform': lora_rank is a whole number; use int, logint, quniform or choice"],
        ),
        (
            "loss_type",
            {"dist": "int", "min": 1, "max": 2},
            ["dist: 'int': loss_type is text; use choice"],
        ),
        (
            "lora_rank",
            {"dist": "int", "min": 1.5, "max": 4},
            ["min: 1.5: must be a whole number"],
        ),
        ("lora_rank", {"dist": "int", "min": 1, "max": 4, "step": 0}, ["step: 0: must be above 0"]),
        (
            "lora_rank",
            {"dist": "quniform", "min": 1, "max": 4, "step": 0.5},
            ["step: 0.5: must be a whole number"],
        ),
        ("seed", {"dist": "int", "min": 0, "max": 2**63 - 1}, ["has more than"]),
        ("kl_coeff", {"dist": "uniform", "min": 0, "max": 1e300}, ["does not fit 64 bits"]),
        (
            "kl_coeff",
            {"dist": "quniform", "min": 0, "max": 1, "step": 1e-300},
            ["step: 1e-300: makes"],
        ),
        ("temperature", {"dist": "normal", "mean": 1, "sd": 0}, ["sd: 0: must be above 0"]),
        (
            "temperature",
            {"dist": "normal", "mean": -50, "sd": 1},
            [
                "mean: -50: nearly all values lie outside of min and max, or of what "
                "temperature takes"
            ],
        ),
        ("loss_type", {"dist": "choice", "values": []}, ["values: []: must be a list of at least"]),
        ("loss_type", {"dist": "choice", "values": "grpo"}, ["values: 'grpo': must be a list"]),
        (
            "loss_type",
            {"dist": "choice", "values": ["grpo", "dappo", 3]},
            ["values.1: 'dappo': must be one of", "values.2: 3: must be text"],
        ),
        (
            "loss_type",
            {"dist": "choice", "values": ["grpo", "dapo"], "weights": [1]},
            ["weights: [1]: must be a list of 2 numbers"],
        ),
        (
            "loss_type",
            {"dist": "choice", "values": ["grpo", "dapo"], "weights": [0, "x"]},
            ["weights.0: 0: must be a number above 0", "weights.1: 'x': must be"],
        ),
    ],
)
def test_every_fault_of_a_table_is_told_with_its_key(name, table, words):
    """All at once, none that only follows from another."""
    _, faults = read(name, table)
    assert len(faults) == len(words)
    for word in words:
        assert any(word in fault for fault in faults), faults


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.one_of(st.integers(-3, 3), st.floats(), st.text(max_size=3)), max_size=3),
)
KEYS = st.sampled_from(["dist", "min", "max", "step", "mean", "sd", "values", "weights", "q"])


@given(
    st.sampled_from(["kl_coeff", "lora_rank", "loss_type", "use_compile", "rewards", "seed"]),
    st.sampled_from(DISTRIBUTIONS),
    st.dictionaries(KEYS, VALUES),
)
def test_any_table_is_a_domain_or_faults(name, dist, table):
    """Nothing else comes out, whatever the types; and what a domain gives the field takes."""
    domain, _ = read(name, {"dist": dist, **table})
    for u in (0.0, 0.3, 1.0):
        if domain is not None:
            check_value(name, domain.pick(u))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"when": 3}, "('when',): 3: must be text"),
        ({"when": "loss_typ == 'dapo'"}, "unknown name loss_typ; did you mean loss_type?"),
        ({"when": "("}, "cannot be read"),
    ],
)
def test_a_condition_that_cannot_be_read_is_a_fault_of_its_key(table, words):
    """Beside the faults of the distribution."""
    faults = []
    read = read_parameter(
        "kl_coeff",
        {"dist": "uniform", "min": 0, "max": 1, **table},
        lambda path, text: faults.append(f"{path}: {text}"),
    )
    assert read is None
    assert words in faults[0]
