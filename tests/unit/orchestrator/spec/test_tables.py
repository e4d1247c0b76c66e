"""The tables that say how a sweep searches, ranks, stops and ends: what is read, and refused."""

import json
from dataclasses import asdict

import pytest

from orchestrator.run import Search
from orchestrator.space.distributions import Uniform
from orchestrator.spec.reader import read_spec
from orchestrator.stopping.health import NAN, HealthRule
from orchestrator.stopping.rules import StopRule, stop_rule
from tests.spec_kit import faults, write


def test_what_a_stop_table_says_is_read(folder):
    """Rule, warm-up and health; without it, only what is not finite stops a run."""
    spec = read_spec(
        write('[stop]\nrule = "median"\nwarmup = "20%"\nhealth = ["nan", "kl > 0.5 for 4"]\n')
    )
    kl = HealthRule("kl", ">", 0.5, 4)
    assert spec.stop == StopRule("median", 0.2, (NAN, kl))
    assert stop_rule(json.loads(json.dumps(asdict(spec.stop)))) == spec.stop
    assert read_spec(write("")).stop == StopRule("none", 0.3, (NAN,)) == stop_rule({})


def test_what_a_search_says_is_read(folder):
    """Lists, zips and distributions become parameters in the order of the file."""
    spec = read_spec(
        write(
            '[search]\nmethod = "tpe"\nruns = 7\nseed = 3\n'
            "[[zip]]\nbatch_size = [1, 2]\nlora_rank = [4, 8]\n[params]\n"
            'kl_coeff = { dist = "uniform", min = 0, max = 1, when = "batch_size == 1" }\n'
            "temperature = [0.5, 1.0]\n"
        )
    )
    assert spec.faults.lines() == ()
    assert spec.search == Search("tpe", 7, 3)
    assert [p.key for p in spec.parameters] == ["batch_size+lora_rank", "kl_coeff", "temperature"]
    assert spec.parameters[1].domain == Uniform(0.0, 1.0)
    assert spec.parameters[1].when.text == "batch_size == 1"


@pytest.mark.parametrize(
    ("rule", "means"),
    [
        ("best+last", {"save_best": True, "save_total_limit": 1}),
        ("last:3", {"save_best": False, "save_total_limit": 3}),
        ("all", {"save_total_limit": 0}),
    ],
)
def test_keep_is_said_in_the_trainers_own_fields(folder, rule, means):
    """A rule for checkpoints is two fields of the config."""
    assert read_spec(write(f'[keep]\ncheckpoints = "{rule}"\n')).fixed == means


# What a user wrote behind the config line, and what must be said.
ONE_FAULT = [
    (
        '[objective]\nmetric = "reward_men"',
        "3:1: objective.metric = 'reward_men': must be a key of",
    ),
    ('[objective]\ngoal = "up"', "objective.goal = 'up': must be max or min"),
    ('[objective]\nreduce = "last:0"', "objective.reduce = 'last:0': must be last, best or last:N"),
    ("[objective]\nmetrics = 1", "objective.metrics: unknown key; did you mean metric?"),
    ("[limits]\nmax_failures = -1", "limits.max_failures = -1: must be a whole number, 0 or more"),
    ('[limits]\nwall = "0h"', "3:1: limits.wall = '0h': must be a time above 0, such as"),
    ('[limits]\ndisk = "40"', "3:1: limits.disk = '40': must be a size above 0, such as"),
    ('[limits]\nrun_wall = "3"', "3:1: limits.run_wall = '3': must be a time above 0, such as"),
    ("[limits]\nrun_wall = 3", "3:1: limits.run_wall = 3: must be a time above 0"),
    ('[retry]\non = ["oom"]', "retry.on = ['oom']: must be a list out of crash, lost"),
    ("[retry]\nmax = true", "retry.max = True: must be a whole number"),
    ('[search]\nmethod = "grid"\nseed = 1', "search.seed: a grid draws nothing; drop it"),
    (
        '[search]\nmethod = "rondom"\nruns = 1',
        "search.method = 'rondom': must be one of grid, rand",
    ),
    ("[search]\nruns = 0", "3:1: search.runs = 0: must be a whole number, 1 or more"),
    ("[search]\nrun = 4", "3:1: search.run: unknown key; did you mean runs?"),
    ('[search]\nmethod = "tpe"\n[params]\nseed = [1]', "2:1: search: needs runs: how many"),
    ('[search]\nmethod = "tpe"\nruns = 4', "2:1: search: there is nothing to search; give [par"),
    (
        '[stop]\nrule = "hyperband"',
        "3:1: stop.rule = 'hyperband': must be one of none, median",
    ),
    ('[stop]\nwarmup = "30"', "3:1: stop.warmup = '30': must be a share above 0% and below 100%"),
    ('[stop]\nhealth = "nan"', "3:1: stop.health = 'nan': must be a list"),
    ('[stop]\nhealth = ["nan", "klx > 1"]', "3:18: stop.health[1] = 'klx > 1': klx is no key of"),
    ("[stop]\nhealth = [1]", "3:11: stop.health[0] = 1: must be text"),
    ("[stop]\nwarmups = 1", "3:1: stop.warmups: unknown key; did you mean warmup?"),
    (
        '[stop]\nrule = "halving"\n[search]\nmethod = "tpe"\nruns = 4\n[params]\nseed = [1]',
        "3:1: stop.rule: halving compares settings that are known from the start",
    ),
    ('[keep]\ncheckpoints = "best"', "3:1: keep.checkpoints = 'best': must be best+last, last,"),
    ('[set]\nsave_best = true\n[keep]\ncheckpoints = "last"', "keep.checkpoints: save_best is giv"),
]


@pytest.mark.parametrize(("text", "said"), ONE_FAULT)
def test_a_fault_of_a_table_is_named_with_its_place(folder, text, said):
    """One fault, one message: file, line, column, key, and what to do."""
    found = faults(text)
    assert len(found) == 1, found
    assert found[0].startswith("s.toml:"), found
    assert said in found[0]
