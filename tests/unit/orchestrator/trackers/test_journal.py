"""A sweep as Optuna's journal, read back by Optuna."""

import json

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from orchestrator.cli import main
from orchestrator.plan.expand import expand
from orchestrator.queue.store import Store
from orchestrator.run import Outcome, Verdict
from orchestrator.spec.reader import parse_spec
from orchestrator.system.paths import home
from tests.sweep_kit import finish_next, write_lines

SPEC = """
config = "base.toml"
seeds = [3]
[set]
max_train_samples = 20
[params]
learning_rate = { dist = "loguniform", min = 1e-6, max = 1e-3 }
kl_coeff = { dist = "uniform", min = 0.0, max = 0.1 }
lora_rank = { dist = "int", min = 4, max = 16, step = 4 }
loss_type = ["dapo", "grpo"]
[[run]]
learning_rate = 1e-2
kl_coeff = 0.05
lora_rank = 8
loss_type = "grpo"
[search]
method = "random"
runs = 5
seed = 1
"""
FAILED = Outcome(Verdict.DIVERGED, "nan", "loss nan", 6)
PRUNED = Outcome(Verdict.PRUNED, "below the median")


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Six runs: one completed, one failed, one pruned; three wait."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.toml").write_text("num_generations = 4\n")
    path = tmp_path / "s.toml"
    path.write_text(SPEC)
    expansion = expand(parse_spec(SPEC, path, ()))
    with Store.open(home().db) as store:
        store.submissions.add_sweep("s", lambda name: expansion.plan(name, str(tmp_path)))
    finish_next(write=lambda run: log(run, 0.25, 0.5))
    finish_next(FAILED, write=lambda run: log(run, 0.125))
    finish_next(PRUNED, write=lambda run: log(run, 0.125, 0.1875))
    return tmp_path


def log(run, *values):
    """Held-out exact match at updates 0, 10, ..."""
    lines = [{"update": 10 * n, "em": v, "split": "test"} for n, v in enumerate(values)]
    write_lines(run.folder / "training_log.jsonl", lines)


def study():
    """The study, as another program loads it."""
    storage = optuna.storages.JournalStorage(JournalFileBackend("s.journal"))
    return optuna.load_study(study_name="s", storage=storage)


def test_every_run_is_a_trial_with_what_it_reached(sweep, capfd):
    """State, value, curve, seed; queued runs wait."""
    assert main(["export", "s", "--optuna", "s.journal"]) == 0
    assert "optuna-dashboard s.journal" in capfd.readouterr().err
    found = study()
    assert found.direction == optuna.study.StudyDirection.MAXIMIZE
    assert found.metric_names == ["em"]
    states = [trial.state for trial in found.trials]
    ended = [TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED]
    assert states == [*ended, *[TrialState.WAITING] * 3]
    done, failed, pruned = found.trials[:3]
    assert (done.value, done.intermediate_values) == (0.5, {0: 0.25, 10: 0.5})
    assert (failed.value, failed.intermediate_values) == (None, {0: 0.125})
    assert pruned.value == 0.1875
    assert (done.user_attrs["run"], done.user_attrs["seed"]) == (1, 3)
    assert "nan" in failed.user_attrs["reason"]
    assert found.best_trial.number == 0


def test_parameters_have_the_distributions_of_the_spec(sweep):
    """Real values, not shares; the explicit run's rate lies outside and widens the range."""
    main(["export", "s", "--optuna", "s.journal"])
    trials = study().trials
    kinds = optuna.distributions
    assert trials[0].distributions == {
        "learning_rate": kinds.FloatDistribution(1e-6, 1e-2, log=True),
        "kl_coeff": kinds.FloatDistribution(0.0, 0.1),
        "lora_rank": kinds.IntDistribution(4, 16, step=4),
        "loss_type": kinds.CategoricalDistribution(["dapo", "grpo"]),
    }
    assert trials[0].params == {
        **{"learning_rate": 1e-2, "kl_coeff": 0.05, "lora_rank": 8, "loss_type": "grpo"}
    }
    assert all(trial.distributions == trials[0].distributions for trial in trials)


def test_exporting_again_adds_only_what_is_new(sweep):
    """Not a byte without news; a run that has ended meanwhile keeps its trial."""
    main(["export", "s", "--optuna", "s.journal"])
    before = (sweep / "s.journal").read_bytes()
    main(["export", "s", "--optuna", "s.journal"])
    assert (sweep / "s.journal").read_bytes() == before
    finish_next(write=lambda run: log(run, 0.25, 0.75))
    main(["export", "s", "--optuna", "s.journal"])
    found = study()
    assert len(found.trials) == 6
    assert (found.trials[3].state, found.trials[3].value) == (TrialState.COMPLETE, 0.75)
    assert found.trials[3].intermediate_values == {0: 0.25, 10: 0.75}
    assert (sweep / "s.journal").read_bytes().startswith(before)


def test_a_failed_run_that_completes_later_is_another_trial(sweep):
    """Optuna keeps an ended trial as it is."""
    main(["export", "s", "--optuna", "s.journal"])
    assert main(["retry", "2"]) == 0
    finish_next(write=lambda run: log(run, 0.125, 0.875))
    for _ in range(2):
        main(["export", "s", "--optuna", "s.journal"])
    found = [trial for trial in study().trials if trial.user_attrs["run"] == 2]
    assert [trial.state for trial in found] == [TrialState.FAIL, TrialState.COMPLETE]
    assert found[-1].value == 0.875


def test_a_file_that_is_something_else_is_left_alone(sweep, capfd):
    """Neither a text nor the journal of another study of that name is written to."""
    (sweep / "notes.txt").write_text("not a journal\n")
    assert main(["export", "s", "--optuna", "notes.txt"]) == 2
    assert "notes.txt: is no journal of Optuna" in capfd.readouterr().err
    assert (sweep / "notes.txt").read_text() == "not a journal\n"
    storage = optuna.storages.JournalStorage(JournalFileBackend("s.journal"))
    optuna.create_study(study_name="s", storage=storage)
    assert main(["export", "s", "--optuna", "s.journal"]) == 2
    assert "its study s is not this sweep" in capfd.readouterr().err
    records = map(json.loads, (sweep / "s.journal").read_text().splitlines())
    assert all("trial_id" not in record for record in records)
