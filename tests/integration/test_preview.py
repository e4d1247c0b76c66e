"""What submit tells before it queues: one real update of the heaviest setting, time and disk."""

from pathlib import Path

import pytest

from orchestrator.plan.expand import expand
from orchestrator.plan.forecast import forecast
from orchestrator.queue.store import Store
from orchestrator.spec.reader import read_spec
from orchestrator.system.paths import home
from orchestrator.worker import probe
from orchestrator.worker.probe import heaviest
from tests.integration.test_results import folder, sweep
from tests.queue_kit import runs

__all__ = ["folder"]

TINY = Path(__file__).parents[2] / "configs" / "tiny.toml"


@pytest.fixture
def tiny(folder):
    """A folder in which base.toml is the embedded model's."""
    (folder / "base.toml").write_text(TINY.read_text())
    return folder


def write(text):
    Path("s.toml").write_text(f'config = "base.toml"\n{text}')
    return "s.toml"


def test_the_check_trains_one_update_and_says_what_it_took(tiny, say):
    """A real trainer, a folder that is gone afterwards, and then the sweep is queued."""
    spec = write("[set]\nbatch_size = 2\n[params]\nnum_generations = [2, 4]\n")
    code, _, err = say("submit", spec, "--check")
    assert code == 0, err
    assert "check: one update of what needs the most memory: batch_size=2 num_generations=4" in err
    assert "check: peak " in err
    assert " s an update, completions of " in err
    assert len(runs()) == 2
    assert not (tiny / "outputs").exists()


def test_nothing_is_queued_when_the_check_fails(tiny, say):
    """A data set that is not there shows before the sweep is queued, as the trainer tells it."""
    spec = write('[set]\ndataset = "nowhere.jsonl"\n[params]\nseed = [0, 1]\n')
    code, _, err = say("submit", spec, "--check")
    assert code == 1
    assert "the check failed, nothing was queued: data, model or reward cannot be used" in err
    assert "nowhere.jsonl" in err
    assert runs() == []


def test_the_heaviest_setting_of_each_model_is_checked(folder):
    """More tokens at once weigh more; full training more than any adapters."""
    (folder / "base.toml").write_text("quantize_for_rollouts = false\n")
    spec = read_spec(
        Path(
            write(
                '[params]\nmodel_name = ["a", "b"]\nnum_generations = [4, 16, 8]\n'
                'train_type = ["lora", "full"]\nmax_new_tokens = [64, 32]\n'
            )
        )
    )
    found = [setting.overrides for setting in heaviest(spec, expand(spec).settings)]
    heavy = {"num_generations": 16, "train_type": "full", "max_new_tokens": 64}
    assert found == [{"model_name": "a", **heavy}, {"model_name": "b", **heavy}]


def test_the_check_evaluates_as_many_rows_as_decode_together(folder):
    """An evaluation may need the most, and comes first; a run without any is checked without."""
    (folder / "base.toml").write_text("eval_samples = 500\n")
    for text, words in (
        ("", ["eval_at_start=true", "eval_samples=128"]),
        ("[set]\neval_steps = 0\neval_every_updates = 0\n", ["eval_at_start=false"]),
    ):
        spec = read_spec(Path(write(f"{text}[params]\nlearning_rate = [1e-5]\n")))
        passed = probe._overrides(spec, expand(spec).settings[0], "there")
        assert [w for w in passed if w.startswith(("eval_at_start", "eval_samples"))] == words


def test_time_and_disk_are_told_by_past_runs_of_the_same_shape(say):
    """Half an hour each; what no run was like is unknown, and said so."""
    text = "[params]\nlearning_rate = [1e-5, 1e-4]\n"
    log = [{"update": 1, "loss": 0.0, "em": 0.5, "split": "test"}]
    code, _, err = say("submit", write(text), "--dry-run")
    assert "time and disk unknown: no run of this model and shape has completed yet" in err
    sweep(text, lambda run: 0.5, log=lambda run: log)
    code, _, err = say(
        "submit", write("[params]\nlearning_rate = [1e-6, 1e-3, 1e-2]\n"), "--dry-run"
    )
    assert code == 0
    assert "time about 1h 30m, disk about 0.0 MB, going by past runs" in err
    wider = "[params]\nlearning_rate = [1e-6]\nnum_generations = [8]\n"
    assert "time unknown, disk about" in say("submit", write(wider), "--dry-run")[2]
    with Store.open(home().db, readonly=True) as store:
        (kept,) = store.queries.sweeps()
        past = [(run, kept) for run in store.queries.runs(kept.id)]
        plan = expand(read_spec(Path(write(text)))).plan("x", "/")
    found = forecast(plan, past)
    assert (found.time_s, found.disk_bytes) == (3600.0, 2 * len(log_bytes(past[0][0])))


def log_bytes(run):
    return (run.folder / "training_log.jsonl").read_bytes()
