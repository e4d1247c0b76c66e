"""confirm, fork and extend: new runs from what a sweep has found, over its own frozen base."""

import json
from pathlib import Path

import pytest

from orchestrator.queue.store import Store
from orchestrator.run import Objective, Progress
from orchestrator.system.paths import home
from tests.integration.test_results import DONE, RATES, by_rate, folder, sweep
from tests.queue_kit import eventually, nothing_before, runs, states
from tests.sweep_kit import add_sweep, planned_run

__all__ = ["folder"]


def names(sweep_name):
    """The names of a sweep's runs, in order."""
    with Store.open(home().db, readonly=True) as store:
        return [run.name for run in store.queries.runs(store.queries.sweep(sweep_name).id)]


def test_confirm_trains_the_finalists_on_fresh_seeds_and_rows(say):
    """The best setting with its values, each new seed, scored where no selection looked."""
    sweep(RATES, by_rate)
    Path("base.toml").write_text("num_generations = 16\n")
    code, out, _ = say("confirm", "s", "--top", "1", "--seeds", "7,8")
    assert code == 0
    assert "queued sweep s-confirm" in out
    found = [run for run in runs() if run.sweep == "s-confirm"]
    assert [run.seed for run in found] == [7, 8]
    assert {run.tags for run in found} == {("rank 1",)}
    for run in found:
        assert run.overrides == {"learning_rate": 1e-5, "eval_part": "confirm"}
        assert "eval_part=confirm" in run.set
    with Store.open(home().db) as store:
        assert store.queries.sweep("s-confirm").config_text == "num_generations = 4\n"


def test_confirm_wants_fresh_seeds_and_finished_runs(say):
    """Seeds that chose the winner cannot confirm it."""
    sweep(RATES, by_rate)
    code, _, err = say("confirm", "s", "--seeds", "2-3")
    assert code == 2
    assert "2 stands in sweep s already" in err
    assert say("confirm", "s", "--seeds", "a")[0] == 2
    assert say("confirm", "s", "--seeds", "1,1")[0] == 2
    Path("new.toml").write_text('config = "base.toml"\n[params]\nseed = [0]\n')
    say("submit", "new.toml")
    assert say("confirm", "new", "--seeds", "9")[0] == 3
    assert {run.sweep for run in runs()} == {"s", "new"}


def ranked(*settings):
    """A sweep with a completed run of each setting, the first the best."""
    planned = [planned_run(f"r{i}", 0, setting) for i, setting in enumerate(settings)]
    add_sweep(Path.cwd(), planned)
    with Store.open(home().db) as store:
        for place in range(len(settings)):
            _, attempt = store.claims.claim("host", "boot", nothing_before)
            values = {"progress": Progress(1, 1, {}), "value": 1 - place / 10, "wall_s": 1.0}
            store.claims.finish(attempt, DONE, newer_checkpoint=True, **values)


def test_confirm_leaves_out_what_has_no_effect(say):
    """Three finalists of a search without a KL term differ in its estimator as well."""
    ranked(
        {"learning_rate": 1e-5, "kl_coeff": 0.0, "kl_estimator": "k1"},
        {"learning_rate": 2e-5, "kl_coeff": 0.0, "kl_estimator": "k3"},
        {"learning_rate": 3e-5, "kl_coeff": 0.04, "kl_estimator": "k1"},
    )
    assert say("confirm", "s", "--seeds", "7")[0] == 0
    found = [run for run in runs() if run.sweep == "s-confirm"]
    part = {"eval_part": "confirm"}
    assert [run.overrides for run in found] == [
        {"learning_rate": 1e-5, "kl_coeff": 0.0, **part},
        {"learning_rate": 2e-5, "kl_coeff": 0.0, **part},
        {"learning_rate": 3e-5, "kl_coeff": 0.04, "kl_estimator": "k1", **part},
    ]


def test_confirm_trains_settings_that_are_one_run_once(say):
    """With the ranks of both; another one takes the place that is free."""
    ranked(
        {"kl_coeff": 0.0, "kl_estimator": "k1"},
        {"kl_coeff": 0.0, "kl_estimator": "k3"},
        {"kl_coeff": 0.1, "kl_estimator": "k1"},
        {"kl_coeff": 0.2, "kl_estimator": "k1"},
    )
    assert say("confirm", "s", "--top", "2", "--seeds", "7")[0] == 0
    found = [run for run in runs() if run.sweep == "s-confirm"]
    assert [run.overrides["kl_coeff"] for run in found] == [0.0, 0.1]
    assert [run.tags for run in found] == [("rank 1", "rank 2"), ("rank 3",)]


def test_confirm_keeps_a_void_value_that_keeps_another_one_from_counting(say):
    """Of two lengths the smaller counts; without the larger one that of the base would."""
    ranked(
        {"max_new_tokens": 1500, "max_completion_length": 1200},
        {"max_new_tokens": 1600, "max_completion_length": 1300},
    )
    assert say("confirm", "s", "--seeds", "7")[0] == 0
    found = [run for run in runs() if run.sweep == "s-confirm"]
    assert [run.overrides["max_completion_length"] for run in found] == [1200, 1300]
    assert [run.overrides["max_new_tokens"] for run in found] == [1500, 1500]


def test_a_fork_starts_from_the_named_checkpoint(say, tmp_path):
    """Adapters of the parent, its values but for what is changed, a folder of its own."""
    sweep(RATES, by_rate)
    checkpoint = runs()[0].folder / "checkpoint-20"
    checkpoint.mkdir(parents=True)
    code, _, err = say("fork", "1", "--at", "30")
    assert code == 3
    assert "no checkpoint 30; there are: 20" in err
    code, _, _ = say("fork", "1", "--at", "20", "--set", "kl_coeff=0.1")
    assert code == 0
    forked = runs()[-1]
    assert forked.overrides == {
        "learning_rate": 1e-5,
        "adapter_path": str(checkpoint),
        "kl_coeff": 0.1,
    }
    assert forked.tags == ("fork of run 1 at 20",)
    assert (forked.sweep, forked.name) == ("lr1e-5-s0-at20", "at20-kl0.1")
    assert (forked.seed, forked.folder != runs()[0].folder) == (0, True)
    assert say("fork", "1", "--set", "train_type=full")[0] == 2
    assert say("fork", "1", "--set", "kl_coef=1")[0] == 2
    assert say("fork", "s")[0] == 2


def test_a_fork_of_a_completed_run_takes_its_final_weights(say):
    """They are newer than its newest checkpoint, which may be old."""
    sweep(RATES, by_rate)
    run = runs()[0]
    (run.folder / "checkpoint-10").mkdir(parents=True)
    (run.folder / "final").mkdir()
    (run.folder / "result.json").write_text('{"status": "completed", "updates": 24}')
    assert say("fork", "1")[0] == 0
    assert runs()[-1].overrides["adapter_path"] == str(run.folder / "final")
    assert runs()[-1].tags == ("fork of run 1 at 24",)
    assert say("fork", "1", "--at", "10")[0] == 0
    assert runs()[-1].overrides["adapter_path"] == str(run.folder / "checkpoint-10")
    assert "there are: 24, 10" in say("fork", "1", "--at", "11")[2]


def test_a_fork_of_full_training_takes_the_whole_model(say):
    """There is no adapter: the checkpoint is the model."""
    sweep('[set]\ntrain_type = "full"\n[params]\nlearning_rate = [1e-6]\n', lambda run: 0.5)
    checkpoint = runs()[0].folder / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    assert say("fork", "1")[0] == 0
    assert runs()[-1].overrides["model_name"] == str(checkpoint)


def test_a_fork_of_a_run_that_evaluates_nothing_asks_for_no_evaluation(say):
    """Its sweep named no objective, and neither does the fork; one that was named is kept."""
    rates = "[params]\nlearning_rate = [1e-5]\n"
    sweep(f"[set]\neval_steps = 0\n{rates}", lambda run: None)
    (runs()[0].folder / "checkpoint-3").mkdir(parents=True)
    assert say("fork", "1")[0] == 0
    judged = '[objective]\nmetric = "reward_mean"\ngoal = "min"\nreduce = "best"\n'
    Path("r.toml").write_text(f'config = "base.toml"\noutput = "o/{{run}}"\n{rates}{judged}')
    say("submit", "r.toml")
    (runs()[-1].folder / "checkpoint-3").mkdir(parents=True)
    assert say("fork", str(runs()[-1].id))[0] == 0
    with Store.open(home().db, readonly=True) as store:
        objectives = [store.queries.sweep_of(run).objective for run in store.queries.runs()]
    assert objectives == [Objective()] * 2 + [Objective("reward_mean", "min", "best")] * 2


def test_extend_adds_what_is_new_and_keeps_what_is_there(say):
    """A value and a seed more: four runs more, the six of before untouched."""
    sweep(RATES, by_rate)
    before = runs()
    text = "seeds = [0, 1, 2, 3]\n[params]\nlearning_rate = [1e-5, 1e-4, 1e-3]\n"
    Path("s.toml").write_text(f'config = "base.toml"\n{text}')
    code, out, _ = say("extend", "s", "s.toml")
    assert (code, out) == (0, "sweep s: 6 runs added\n")
    found = runs()
    assert found[:6] == before
    assert [(run.overrides["learning_rate"], run.seed) for run in found[6:]] == [
        *((1e-3, 0), (1e-3, 1), (1e-3, 2)),
        *((1e-5, 3), (1e-4, 3), (1e-3, 3)),
    ]
    assert len({run.name for run in found}) == len({run.folder for run in found}) == 12
    code, _, err = say("extend", "s", "s.toml")
    assert code == 3
    assert "adds nothing" in err


def test_extend_gives_new_runs_free_names(say):
    """A template that names only the rate would name two runs alike; the new one gets a number."""
    sweep('run_name = "lr{learning_rate}"\n[params]\nlearning_rate = [1e-5]\n', lambda run: 0.5)
    Path("s.toml").write_text(
        'config = "base.toml"\nrun_name = "lr{learning_rate}"\n'
        "[params]\nlearning_rate = [1e-5]\n[set]\nkl_coeff = 0.1\n"
    )
    assert say("extend", "s", "s.toml")[0] == 0
    assert names("s") == ["lr1e-5", "lr1e-5-2"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[objective]\nmetric = "reward_mean"\n', "objective: differs from that of sweep s"),
        ('[search]\nmethod = "random"\nruns = 4\n', "search: sweep s searches by grid"),
        ("[params]\nlearning_rat = [1]\n", "unknown field; did you mean learning_rate?"),
    ],
)
def test_extend_refuses_what_would_be_another_sweep(say, text, said):
    """Results under another objective or another search cannot be mixed."""
    sweep(RATES, by_rate)
    Path("x.toml").write_text(
        f'config = "base.toml"\n{RATES if "[params]" not in text else ""}{text}'
    )
    code, _, err = say("extend", "s", "x.toml")
    assert code == 2
    assert said in err
    assert len(runs()) == 6


def test_extend_refuses_another_base(say):
    """The runs of a sweep share one frozen base."""
    sweep(RATES, by_rate)
    Path("base.toml").write_text("num_generations = 8\n")
    code, _, err = say("extend", "s", "s.toml")
    assert code == 2
    assert "is not the base that sweep s was submitted with" in err


def test_extend_lets_a_search_go_on(say):
    """TPE had three settings; five more are to be chosen, on what the three have shown."""
    search = (
        '[search]\nmethod = "tpe"\nruns = {}\n'
        "[params]\nlearning_rate = { dist = 'loguniform', min = 1e-6, max = 1e-4 }\n"
    )
    sweep(search.replace("{}", "3", 1), by_rate)
    Path("s.toml").write_text('config = "base.toml"\n' + search.replace("{}", "8", 1))
    code, out, _ = say("extend", "s", "s.toml")
    assert (code, out) == (0, "sweep s: 0 runs added; 5 settings more to be chosen by tpe\n")
    with Store.open(home().db) as store:
        assert [s.to_ask for s in store.queries.awaiting_suggestion()] == [5]


def test_a_fork_of_a_real_run_trains_on(say, monkeypatch):
    """The tiny model, two updates; its fork starts from them and trains two more."""
    from orchestrator.worker import worker

    Path("tiny.toml").write_text(
        'config = "tiny-base.toml"\n[set]\nmax_train_samples = 4\nsave_steps = 1\n'
        "eval_samples = 4\nnum_generations = 2\nbatch_size = 2\n[params]\nlearning_rate = [1e-3]\n"
    )
    shipped = Path(__file__).parents[2] / "configs" / "tiny.toml"
    Path("tiny-base.toml").write_text(shipped.read_text())
    assert say("submit", "tiny.toml")[0] == 0
    assert worker.work(until_empty=True) == 0
    assert say("fork", "1", "--set", "learning_rate=1e-4")[0] == 0
    assert worker.work(until_empty=True) == 0
    assert states() == ["completed", "completed"], [run.reason for run in runs()]
    first, second = runs()
    weights = [run.folder / "final" / "adapters.safetensors" for run in (first, second)]
    assert eventually(lambda: all(path.exists() for path in weights))
    assert weights[0].read_bytes() != weights[1].read_bytes()
    log = [json.loads(line) for line in (second.folder / "training_log.jsonl").open()]
    assert [line["update"] for line in log if "loss" in line] == [1, 2]
    start = next(line["em"] for line in log if line.get("update") == 0)
    end = [json.loads(line) for line in (first.folder / "training_log.jsonl").open()][-1]
    assert start == end["em"]
