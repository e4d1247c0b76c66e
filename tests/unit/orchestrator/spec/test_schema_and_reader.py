"""The JSON Schema and the reader of specs say the same of each value that one key can hold.

What only shows between keys (`min` above `max`, a rule that its search cannot have) no schema says.
"""

from pathlib import Path

import pytest
import tomli

from grpo_core.config import FIELDS
from orchestrator.spec.base_config import FrozenBase
from orchestrator.spec.distributions import DISTRIBUTION_KEYS
from orchestrator.spec.fields import RESERVED
from orchestrator.spec.json_schema import grammar
from orchestrator.spec.reader import parse_spec
from tests.schema_oracle import fits

SCHEMA = grammar()
RANDOM = 'search = { method = "random", runs = 2 }\n'
RANDOM = 'search = { method = "random", runs = 2 }\n'
PARAMS = "params.learning_rate = [1e-5]\n"
SEARCH = "search.runs = 3\n"

# Values as TOML writes them: the borders of each kind of key, and what is of another kind.
KINDS = ["true", "{}", "[]", "[[]]", "1979-05-27"]
NUMBERS = ["-1", "-0.5", "0", "0.0", "1e-9", "0.5", "0.999", "1", "1.0", "1.5", "2", "100"]
NUMBERS += ["inf", "nan", "9223372036854775807"]
NAMES = [
    *("", " ", "x", "a b", "a/b", "..", ".a", "-a", "a.b-c_d+e=f,g", "3", "3-7", "3-", "3a"),
    *("a\\n", "a\\t", "a:b", "a'b", "x" * 150, "x" * 151, "7\\n"),
]
DURATIONS = [
    *("0s", "1s", "1 s", "1  s", "0.0h", "1.5h", "00m", "2d", "90", "s", "1S", "1w", "-1s", "+1s"),
    *("1234567890s", "123456789s", "0.1234567s", "0.000001s", "1.s", ".5s", "1s\\n", " 1s", "٣s"),
]
SIZES = ["0GB", "1KB", "0.0 TB", "1.5TB", "1 MB", "1GiB", "1B", "1gb", "٣GB", "1GB\\n", "1"]
SHARES = [
    *("30%", "0%", "00%", "0.0%", "0.1%", "99%", "99.9999%", "99.999999999999999999%", "100%"),
    *("030%", "099%", "30", "%", "30 %", " 30%", "-3%", "+3%", "1e1%", "٣%", "30%\\n", "3.%"),
]
HEALTH = [
    *("nan", "nan for 3", "nan for 0", "nan for 00", "nan for 03", "nan for 1234567890", "NaN"),
    *(
        "kl > 0.5",
        "kl>0.5",
        " kl  >=  1 ",
        "kl > 0.5 for 4",
        "kl > 1for 4",
        "kl > 1 for",
        "klx > 1",
    ),
    *("kl > nan", "kl > inf", "kl > 1e999", "kl > 1e99", "kl > 1e-99", "kl > 1_0", "kl > .5"),
    *("kl > 5.", "kl > +5", "kl > -5", "kl > --5", "kl > .", "kl > 1e", "kl > x", "kl = 1"),
    *("reward/x > 1", "reward/ > 1", "reward/a.b-c/d < 1", "reward/a b < 1", "kl > 1\\n", "kl > ٣"),
    *("kl", "> 1", "kl > 1 and em < 1", "em == 1 for 999999999"),
]
WORDS = [
    *("grid", "random", "sobol", "tpe", "Grid", "none", "median", "halving", "max", "min", "Max"),
    *("em", "kl", "ems", "reward/", "reward/x", "reward", "x/reward/y"),
    *(
        "last",
        "best",
        "last:0",
        "last:1",
        "last:01",
        "last:999999",
        "last:1000000",
        "last:",
        "lasts",
    ),
    *("all", "best+last", "best+last:3", "best+all", "last:3", "last:0", "best:3", "best+last:0"),
    *("crash", "lost", "gpu_watchdog", "config", "oom"),
]
LISTS = [
    *('["crash"]', '["crash", "lost"]', '["crash", "crash"]', '["config"]', "[1]", '["crash", 1]'),
    *('["nan"]', '["nan", "kl > 0.5 for 4"]', '["klx > 1"]', "[0]", "[0, 1]", "[1, 1]", "[-1]"),
    *("[0.5]", "[true]", "[9223372036854775807]", '["a"]', '["a", "a"]', '[""]'),
]


def texts(words):
    return [f'"{word}"' for word in words]


POOL = [*KINDS, *NUMBERS, *LISTS]
POOL += texts([*NAMES, *DURATIONS, *SIZES, *SHARES, *HEALTH, *WORDS])
POOL += [f'["{rule}"]' for rule in HEALTH]

KEYS = {
    "name": "",
    "output": "",
    "run_name": "",
    "seeds": "",
    "search.method": SEARCH,
    "search.runs": 'search.method = "random"\n',
    "search.seed": f'{SEARCH}search.method = "random"\n',
    "objective.metric": "",
    "objective.goal": "",
    "objective.reduce": "",
    "stop.rule": "",
    "stop.warmup": "",
    "stop.health": "",
    "limits.max_failures": "",
    "limits.wall": "",
    "limits.run_wall": "",
    "limits.disk": "",
    "limits.stall": "",
    "retry.max": "",
    "retry.on": "",
    "keep.checkpoints": "",
}


def verdicts(text):
    """What the schema and the reader say of a spec, whether it may stand."""
    base = FrozenBase("base.toml", 'model_name = "builtin/tiny"\n')
    faults = parse_spec(text, Path("s.toml"), (), base).faults.lines()
    return fits(tomli.loads(text), SCHEMA), not faults, faults


def disagreements(pattern, values):
    """The values of which one says yes and the other no."""
    found = []
    for value in values:
        by_schema, by_reader, faults = verdicts(pattern.format(value=value))
        if by_schema is not by_reader:
            found.append((value, "schema takes it" if by_schema else "reader takes it", faults))
    return found


def is_whole_float(value):
    """JSON has one number 1.0, which is an integer; TOML has a float, which is none."""
    return value in ("0.0", "1.0")


def not_finite(value):
    """JSON has no such number."""
    return value in ("inf", "nan")


def test_every_key_is_tried():
    """A key that comes shows up here."""
    tables = ("search", "objective", "stop", "limits", "retry", "keep")
    known = {
        f"{table}.{key}" for table in tables for key in SCHEMA["properties"][table]["properties"]
    }
    assert known | {"name", "output", "run_name", "seeds"} == set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_a_key_of_the_spec_has_one_grammar(key):
    """What an editor marks, a submit refuses, and the other way round."""
    values = [v for v in POOL if not (is_whole_float(v) or not_finite(v))]
    if key == "output":  # Where a path leads, and what is between braces, the reader says.
        values = [v for v in values if v not in texts(["..", "a\\n", "a\\t", "7\\n", "1s\\n"])]
        values = [v for v in values if "\\" not in v]
    if key == "run_name":
        values = [v for v in values if "\\" not in v]
    assert disagreements(f"{PARAMS}{KEYS[key]}{key} = {{value}}\n", values) == []


def values_of(info):
    """TOML values at the borders of a field, and of other kinds."""
    kinds = ["true", "false", '""', '"x"', "0", "1", "-1", "2", "0.5", "{}", "[]", '["a"]', "[0.5]"]
    kinds += ["[1]", "[[]]", *texts(info.choices), *texts(choice + "s" for choice in info.choices)]
    steps = (1, -1) if info.type == "int" else (1, -1, 1e-9, -1e-9)
    for bound in (info.min, info.max, info.above, info.below):
        if bound is not None:
            kinds += [repr(bound), *(repr(bound + step) for step in steps)]
    # One more than 64 bits is no TOML integer.
    return [v for v in dict.fromkeys(kinds) if v != str(2**63)]


def test_every_field_has_one_grammar():
    """Every field but those that each run gets for itself, at its borders."""
    found = {}
    for name in sorted(set(FIELDS) - set(RESERVED)):
        if wrong := disagreements(f"[set]\n{name} = {{value}}\n", values_of(FIELDS[name])):
            found[name] = wrong
    assert found == {}


# Fields of each kind and range, with two values that each can have.
NUMERIC = {"kl_coeff": (0.1, 0.9), "lora_dropout": (0.1, 0.9), "top_p": (0.1, 0.9),
           "cache_limit_gb": (0.1, 0.9), "lora_rank": (1, 200), "seed": (1, 200)}  # fmt: skip
OTHERS = {"loss_type": '["grpo"]', "use_compile": "[true]", "log_jsonl": "[true]", "stop": "[[]]",
          "dry_run": "[false]", "rewards": '[["int"]]', "reward_weights": "[[0.5]]"}  # fmt: skip
PLACES = {
    "axis": "[params]\n{name} = [{{value}}]\n",
    "no axis": "[params]\n{name} = {{value}}\n",
    "zip": "[[zip]]\n{name} = [{{value}}]\n",
    "no column": "[[zip]]\n{name} = {{value}}\n",
    "run": "[[run]]\n{name} = {{value}}\n",
    "derive": "[derive]\n{name} = {{value}}\n",
}


@pytest.mark.parametrize("place", PLACES)
def test_a_field_has_one_grammar_wherever_it_gets_its_values(place):
    """The same values in a list, in a column, in a run; a formula is another thing."""
    found = {}
    for name in (*NUMERIC, *OTHERS):
        values = values_of(FIELDS[name])
        if place == "derive":  # What a formula means, the reader alone says.
            values = [v for v in values if v[0] != '"' or not v.strip('" ')]
        if wrong := disagreements(PLACES[place].format(name=name), values):
            found[name] = wrong
    assert found == {}


# What a distribution's reader says that shows between keys, or in what an expression means.
BETWEEN_KEYS = (
    *("must be below max", "nearly all values lie", "numbers, one a value", "makes "),
    "the range has more than",
)
EXPRESSION = ("unknown name", "needs itself", "gives")


def table_of(dist, name):
    """A distribution over a field in which nothing is wrong, unless it does not suit the field."""
    low, high = NUMERIC.get(name, (0.1, 0.9))
    values = {"min": low, "max": high, "mean": 0.5, "sd": 0.2, "step": 1}
    keys = {key: repr(values[key]) for key in DISTRIBUTION_KEYS[dist] if key in values}
    if dist == "choice":
        keys = {"values": OTHERS.get(name, f"[{low}, {high}]"), "weights": "[1, 2]"}
        keys["weights"] = "[1]" if name in OTHERS else keys["weights"]
    return {"dist": f'"{dist}"', **keys}


@pytest.mark.parametrize("dist", DISTRIBUTION_KEYS)
def test_a_distribution_has_one_grammar(dist):
    """Each of its keys, for fields of every kind and range."""
    values = [v for v in NUMBERS if not not_finite(v)]
    values += [
        "true",
        "{}",
        "[]",
        "[0]",
        "[1]",
        "[-1]",
        "[1, 2]",
        "[1, 0]",
        "[true, 2]",
        '["a", 1]',
    ]
    values += texts(["", " ", "x", "kl_coeff > 0", "unifrm"])
    wrong = []
    for name in (*NUMERIC, "loss_type", "use_compile", "rewards"):
        good = table_of(dist, name)
        tables = [{**good, key: value} for key in (*good, "when", "q") for value in values]
        for table in [good, *tables]:
            inline = ", ".join(f"{key} = {value}" for key, value in table.items())
            text = f"{RANDOM}params.{name} = {{ {inline} }}\n"
            by_schema, by_reader, faults = verdicts(text)
            if any(words in fault for fault in faults for words in (*BETWEEN_KEYS, *EXPRESSION)):
                continue
            if by_schema is not by_reader:
                wrong.append((name, inline, faults))
    assert wrong == []


@pytest.mark.parametrize(
    "text",
    [
        *("[[zip]]\n", "[[run]]\n", "[[exclude]]\n", "[set]\n", "[params]\n", "[derive]\n"),
        *(f"[[run]]\ntags = {value}\n" for value in ("[]", '["a"]', "[1]", '"a"')),
        *(f"[[exclude]]\nwhen = {value}\n" for value in ("1", '""', '" "', '"seed > 1"')),
        *(f"[[require]]\nthat = {value}\n" for value in ("1", '""', '" "', '"seed > 1"')),
        '[[require]]\nwhen = "seed > 1"\n',
        *("[set]\noutput_dir = 'a'\n", "[params]\nrun_name = ['a']\n", "[set]\nmax = 1\n"),
        *("[zip]\n", "set = 1\n", "params = []\n", "search = []\n", "[serch]\n", "zip = [1]\n"),
        *("seed = 1\n", "[[seeds]]\n", "[limits]\nwal = '1h'\n"),
    ],
)
def test_a_table_has_one_grammar(text):
    """Which keys it has, which it needs, and that it is a table."""
    by_schema, by_reader, faults = verdicts(text)
    assert by_schema is by_reader, faults
