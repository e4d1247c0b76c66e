"""What a search proposes: nothing forbidden, nothing twice, and the same for the same rows."""

import itertools
import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.run import RunState
from orchestrator.search.suggest import METHODS, suggest
from orchestrator.search.tpe import load_optuna, replayed
from orchestrator.search.trials import Trial, by_setting
from tests.search_spaces import MIXED, rules, space

DONE, RUNNING, FAILED = RunState.COMPLETED, RunState.RUNNING, RunState.FAILED
TIGHT = {
    "exclude": ["num_generations == 16 and learning_rate > 1e-5", "lora_rank > 32"],
    "require": ["num_generations * batch_size <= 32", "temperature > 0.5"],
}


def allowed(setting):
    """TIGHT's rules and MIXED's condition once more, in Python."""
    return (
        not (setting["num_generations"] == 16 and setting["learning_rate"] > 1e-5)
        and setting["lora_rank"] <= 32
        and setting["num_generations"] * setting["batch_size"] <= 32
        and setting["temperature"] > 0.5
        and ("clip_eps_high" in setting) == (setting["loss_type"] == "dapo")
    )


def score(setting):
    """A smooth objective with its best at learning_rate 3e-5, kl 0.02, dapo."""
    miss = (math.log10(setting["learning_rate"]) + 4.5) ** 2 + 100 * (
        setting["kl_coeff"] - 0.02
    ) ** 2
    return (0.3 if setting["loss_type"] == "dapo" else 0.0) - miss


def searched(count, method, made=None, the_rules=None, seed=0, objective=score):
    """The trials of a search that runs one setting after the other."""
    trials = []
    for _ in range(count):
        suggested = suggest(
            made or space(**MIXED), the_rules or rules(), trials, 1, seed=seed, method=method
        )
        (setting,) = suggested.settings
        trials.append(Trial(setting, DONE, objective(setting)))
    return trials


# --- for every method


@pytest.mark.parametrize("method", METHODS)
def test_no_setting_breaks_a_rule_and_none_comes_twice(method):
    """Thirty settings under rules that forbid most draws."""
    trials = searched(30, method, the_rules=rules(**TIGHT))
    assert all(allowed(trial.setting) for trial in trials)
    assert len({json.dumps(trial.setting) for trial in trials}) == 30


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("known", [0, 14])
def test_asking_for_many_is_asking_again_and_again(method, known):
    """Each suggestion counts as a running trial for the next."""
    made, the_rules = space(**MIXED), rules(**TIGHT)
    trials = searched(known, "random", made, the_rules)
    at_once = suggest(made, the_rules, trials, 4, seed=3, method=method).settings
    singly = []
    for _ in range(4):
        rows = [*trials, *(Trial(setting, RUNNING) for setting in singly)]
        singly += suggest(made, the_rules, rows, 1, seed=3, method=method).settings
    assert list(at_once) == singly


@pytest.mark.parametrize("method", METHODS)
def test_another_process_makes_the_same_of_the_same_rows(method):
    """A worker that died before its commit is followed by one that proposes the same."""
    code = (
        "import json, sys; sys.path.insert(0, '.')\n"
        "from tests.unit.orchestrator.search.test_suggest import *\n"
        "trials = searched(14, 'random')\n"
        f"found = suggest(space(**MIXED), rules(), trials, 3, seed=1, method={method!r})\n"
        "print(json.dumps(found.settings))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        ).stdout
        for hash_seed in ("0", "999")
    }
    here = suggest(space(**MIXED), rules(), searched(14, "random"), 3, seed=1, method=method)
    assert outputs == {json.dumps(here.settings) + "\n"}


@pytest.mark.parametrize("method", METHODS)
def test_seeds_make_different_searches(method):
    """And all of them start anew."""
    first = [searched(1, method, seed=seed)[0].setting["learning_rate"] for seed in range(5)]
    assert len(set(first)) == 5


FINITE = {
    "lora_rank": {"axis": [4, 8, 16]},
    "batch_size": {"dist": "int", "min": 1, "max": 3},
    "kl_coeff": {"dist": "quniform", "min": 0, "max": 0.2, "step": 0.1, "when": "lora_rank > 4"},
}


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ranks=st.sets(st.sampled_from([4, 8, 16])), most=st.integers(1, 50), seed=st.integers(0, 99))
def test_a_finite_space_is_used_up_exactly(method, ranks, most, seed):
    """Against all combinations filtered in Python: each comes once, then a reason."""
    expected = [
        {"lora_rank": r, "batch_size": b, **({"kl_coeff": k} if r > 4 else {})}
        for r, b, k in itertools.product([4, 8, 16], [1, 2, 3], [0.0, 0.1, 0.2])
        if (r > 4 or k == 0.0) and r not in ranks and r * b <= most
    ]
    made, the_rules = (
        space(**FINITE),
        rules(
            exclude=[f"lora_rank in {sorted(ranks)}"], require=[f"lora_rank * batch_size <= {most}"]
        ),
    )
    trials = []
    try:
        while True:
            suggested = suggest(made, the_rules, trials, 1, seed=seed, method=method)
            if not suggested.settings:
                break
            trials.append(Trial(suggested.settings[0], DONE, float(len(trials))))
    except SpecError as e:
        assert not expected
        assert "no setting of the space passes the rules" in str(e)
    else:
        assert suggested.shortfall == f"all {len(expected)} settings that there are have been tried"
    key = json.dumps
    assert sorted(key(t.setting, sort_keys=True) for t in trials) == sorted(
        key(setting, sort_keys=True) for setting in expected
    )


@pytest.mark.parametrize("method", ["random", "sobol"])
def test_rules_that_leave_nothing_are_named_with_what_each_refused(method):
    """A continuum cannot be gone through; a thousand draws can."""
    with pytest.raises(SpecError) as caught:
        suggest(
            space(kl_coeff={"dist": "uniform", "min": 0, "max": 1}),
            rules(exclude=["kl_coeff > 0.5"], require=["kl_coeff > 0.5 or kl_coeff < 0"]),
            [],
            1,
            seed=0,
            method=method,
        )
    text = str(caught.value)
    assert text.startswith("params: 1,000 draws in a row gave no new setting; of all draws 100.0%")
    counts = {
        rule: int(text.split(f" refused by {rule}")[0].split()[-1])
        for rule in ("exclude[0]: kl_coeff > 0.5", "require[0]: kl_coeff > 0.5 or")
    }
    assert sum(counts.values()) == 1000
    assert all(450 < count < 550 for count in counts.values())


def test_what_was_refused_is_counted_by_rule():
    """For the preview: how many draws, by which rule, with an example."""
    found = suggest(
        space(kl_coeff={"dist": "uniform", "min": 0, "max": 1}),
        rules(exclude=["kl_coeff > 0.75"]),
        [],
        60,
        seed=0,
        method="sobol",
    )
    assert len(found.settings) == 60
    assert found.refused == {"exclude[0]": 20}  # 80 points, a quarter of them above 0.75.
    assert found.reasons == {"exclude[0]": "exclude[0]: kl_coeff > 0.75"}
    assert found.shortfall == ""


def test_a_config_that_contradicts_itself_is_drawn_again():
    """No rule says that clip_delta must be above 1 + clip_eps: the config does."""
    found = suggest(
        space(clip_delta={"dist": "uniform", "min": 1.0, "max": 2.0}), rules(), [], 30, seed=0,
        method="random",
    )  # fmt: skip
    assert all(setting["clip_delta"] > 1.2 for setting in found.settings)
    assert found.refused["clip_delta"] > 0


@pytest.mark.parametrize("method", METHODS)
def test_explicit_runs_are_never_proposed_again(method):
    """Also where they name values that the base has anyway."""
    made = space(lora_rank={"axis": [4, 8]}, batch_size={"axis": [1, 2]})
    the_rules = rules(batch_size=2, kl_coeff=0.0)
    baseline = Trial({"lora_rank": 8, "kl_coeff": 0.0}, DONE, 0.5)
    found = suggest(made, the_rules, [baseline], 9, seed=0, method=method)
    assert sorted((s["lora_rank"], s["batch_size"]) for s in found.settings) == [
        (4, 1), (4, 2), (8, 1)
    ]  # fmt: skip
    assert found.shortfall == "all 4 settings that there are have been tried"


def test_derived_values_belong_to_the_suggestion():
    """What comes out is what the run is given."""
    made = space(lora_rank={"axis": [4, 8]})
    found = suggest(made, rules({"lora_scale": "32 / lora_rank"}), [], 2, seed=0, method="random")
    assert sorted(s["lora_rank"] * s["lora_scale"] for s in found.settings) == [32.0, 32.0]


# --- TPE


def test_tpe_comes_closer_than_random():
    """Thirty settings of three parameters, four seeds; benchmarks/search.py has the figures."""
    made = space(**{name: MIXED[name] for name in ("learning_rate", "kl_coeff", "batch_size")})

    def miss(setting):
        return score({**setting, "loss_type": "dapo"}) - 0.3

    regret = {
        method: [
            -max(t.value for t in searched(30, method, made, seed=seed, objective=miss))
            for seed in range(4)
        ]
        for method in ("random", "tpe")
    }
    assert sum(regret["tpe"]) < sum(regret["random"]) / 2


def test_tpe_keeps_drawing_evenly_now_and_then():
    """A choice that was unlucky at first must come up again: every fifth setting is a draw."""
    made, the_rules = space(**MIXED), rules()
    even = suggest(made, the_rules, [], 6, seed=0, method="sobol").settings
    trials = [Trial(setting, DONE, score(setting)) for setting in even[:2]]
    trials += searched(12, "random", seed=9)
    drawn = suggest(made, the_rules, trials, 1, seed=0, method="tpe").settings
    assert drawn == (even[2],)
    trials.append(Trial(drawn[0], DONE, score(drawn[0])))
    assert suggest(made, the_rules, trials, 1, seed=0, method="tpe").settings != (even[3],)


def test_tpe_starts_with_sobol_points_until_enough_is_known():
    """Failed and running trials do not count as known."""
    made, the_rules = space(**MIXED), rules()
    even = suggest(made, the_rules, [], 12, seed=0, method="sobol").settings
    known = [Trial(setting, DONE, score(setting)) for setting in even[:9]]
    more = [Trial(even[9], FAILED), Trial(even[10], RUNNING)]
    found = suggest(made, the_rules, [*known, *more], 1, seed=0, method="tpe").settings
    assert found == (even[11],)
    tenth = Trial(even[9], DONE, score(even[9]))
    found = suggest(made, the_rules, [*known, tenth, more[1]], 1, seed=0, method="tpe").settings
    assert found != (even[11],)


@pytest.mark.parametrize(
    "end",
    [
        Trial({}, RUNNING),
        Trial({}, FAILED),
        Trial({}, DONE, -9.0),
        Trial({}, RunState.PRUNED, curve={5: -9.0}),
    ],
    ids=lambda trial: trial.state,
)
def test_every_row_has_its_say(end):
    """Another end of the best row leads to another suggestion."""
    trials = searched(21, "random")
    best = max(range(21), key=lambda i: trials[i].value)
    changed = [*trials]
    changed[best] = replace(end, setting=trials[best].setting)
    before, after = (
        suggest(space(**MIXED), rules(), rows, 1, seed=0, method="tpe").settings
        for rows in (trials, changed)
    )
    assert before != after


def test_a_running_trial_repels():
    """The constant liar: with nothing but good values around, the next one lies elsewhere."""
    made = space(kl_coeff={"dist": "uniform", "min": 0, "max": 1})
    trials = [Trial({"kl_coeff": i / 16}, DONE, -abs(i / 16 - 0.5)) for i in range(17)]
    lone = [suggest(made, rules(), trials, 1, seed=s, method="tpe").settings[0] for s in range(8)]
    crowd = [*trials, *(Trial({"kl_coeff": 0.5 + i / 999}, RUNNING) for i in range(-20, 21) if i)]
    apart = [suggest(made, rules(), crowd, 1, seed=s, method="tpe").settings[0] for s in range(8)]

    def distance(settings):
        return sum(abs(setting["kl_coeff"] - 0.5) for setting in settings) / len(settings)

    assert distance(apart) > 2 * distance(lone)


def test_the_study_is_told_each_row_as_what_it_is():
    """States, values and curves as Optuna knows them; a value that is no number is a failure."""
    made = space(kl_coeff={"dist": "uniform", "min": 0, "max": 1}, lora_rank={"axis": [8, 4]})
    rows = [
        Trial({"kl_coeff": 0.25, "lora_rank": 8}, DONE, 0.5),
        Trial({"kl_coeff": 0.5, "lora_rank": 4}, RunState.PRUNED, curve={10: 0.1, 20: 0.2}),
        Trial({"kl_coeff": 0.75, "lora_rank": 4}, FAILED),
        Trial({"kl_coeff": 0.1, "lora_rank": 4}, DONE, math.nan),
        Trial({"kl_coeff": 0.2, "lora_rank": 4}, RunState.QUEUED),
        Trial({"kl_coeff": 0.3, "lora_rank": 4}, RunState.CANCELLED),
        Trial({"kl_coeff": 7.0, "lora_rank": 4}, DONE, 0.9),
        Trial({"lora_rank": 4}, DONE, 0.4),
    ]
    the_rules = rules(kl_coeff=0.125)
    optuna = load_optuna()
    study = replayed(optuna, made, the_rules, by_setting(the_rules, rows), "max")
    told = [(t.state.name, t.value, t.params, t.intermediate_values) for t in study.trials]
    assert told == [
        ("COMPLETE", 0.5, {"kl_coeff": 0.25, "lora_rank": 1}, {}),
        ("PRUNED", None, {"kl_coeff": 0.5, "lora_rank": 0}, {10: 0.1, 20: 0.2}),
        ("FAIL", None, {"kl_coeff": 0.75, "lora_rank": 0}, {}),
        ("FAIL", None, {"kl_coeff": 0.1, "lora_rank": 0}, {}),
        ("RUNNING", None, {"kl_coeff": 0.2, "lora_rank": 0}, {}),
        ("FAIL", None, {"kl_coeff": 0.3, "lora_rank": 0}, {}),
        ("COMPLETE", 0.4, {"kl_coeff": 0.125, "lora_rank": 0}, {}),
    ]
    assert study.direction.name == "MAXIMIZE"


def test_goal_min_looks_for_small_values():
    """The same rows, turned round."""
    made = space(kl_coeff={"dist": "uniform", "min": 0, "max": 1})
    rows = [Trial({"kl_coeff": i / 30}, DONE, i / 30) for i in range(31)]
    for goal, good in (("min", lambda x: x < 0.4), ("max", lambda x: x > 0.6)):
        found = [
            suggest(made, rules(), rows, 1, seed=s, method="tpe", goal=goal).settings[0]
            for s in range(6)
        ]
        assert all(good(setting["kl_coeff"]) for setting in found)


def test_tpe_keeps_a_rule_that_forbids_where_it_wants_to_go():
    """The best corner is excluded: everything stays outside, and still close to it."""
    the_rules = rules(exclude=["learning_rate > 2e-5 and learning_rate < 5e-5"])
    trials = searched(30, "tpe", the_rules=the_rules)
    rates = [trial.setting["learning_rate"] for trial in trials]
    assert not any(2e-5 < rate < 5e-5 for rate in rates)
    assert sum(5e-6 < rate < 2e-4 for rate in rates[10:]) > 10


# --- trials of a setting together


@pytest.mark.parametrize(
    ("parts", "state", "value"),
    [
        ([(DONE, 0.2), (DONE, 0.4)], DONE, 0.30000000000000004),
        ([(DONE, 0.2), (RunState.QUEUED, None)], DONE, 0.2),
        ([(DONE, 0.2), (FAILED, None)], DONE, 0.2),
        ([(DONE, 0.2), (FAILED, None), (FAILED, None)], FAILED, None),
        ([(DONE, math.inf)], FAILED, None),
        ([(FAILED, None), (RUNNING, None)], RUNNING, None),
        ([(RunState.PAUSED, None)], RUNNING, None),
        ([(RunState.PRUNED, None), (RUNNING, None)], RUNNING, None),
        ([(RunState.PRUNED, None), (FAILED, None)], RunState.PRUNED, None),
        ([(RunState.CANCELLED, None)], FAILED, None),
    ],
)
def test_the_seeds_of_a_setting_make_one_trial(parts, state, value):
    """The mean of those that completed, unless more failed."""
    rows = [Trial({"lora_rank": 4}, part, v, {5: 0.1}) for part, v in parts]
    (trial,) = by_setting(rules(), rows)
    assert (trial.state, trial.value) == (state, value)
    assert trial.curve == ({5: 0.1} if state is RunState.PRUNED else {})


def test_settings_keep_the_order_of_their_first_run():
    """Breadth first: the second seeds come after all first ones."""
    rows = [Trial({"lora_rank": r}, DONE, v) for r, v in ((4, 1.0), (8, 2.0), (4, 3.0), (2, 0.0))]
    together = by_setting(rules(), rows)
    assert [(t.setting["lora_rank"], t.value) for t in together] == [(4, 2.0), (8, 2.0), (2, 0.0)]


def test_a_pruned_setting_has_the_mean_curve_of_its_seeds():
    """Where all of them have a value."""
    rows = [
        Trial({"lora_rank": 4}, RunState.PRUNED, curve={5: 0.2, 10: 0.4, 15: 0.9}),
        Trial({"lora_rank": 4}, RunState.PRUNED, curve={5: 0.4, 10: 0.8}),
    ]
    (trial,) = by_setting(rules(), rows)
    assert trial.curve == pytest.approx({5: 0.3, 10: 0.6})
