"""best, compare, importance and stop-check over sweeps with known results."""

import json
import sys
from pathlib import Path

import pytest

from orchestrator.plan.expand import expand
from orchestrator.queue.store import Store
from orchestrator.run import Outcome, Progress, Verdict
from orchestrator.spec.reader import read_spec
from orchestrator.system.paths import home
from tests.queue_kit import nothing_before
from tests.sweep_kit import finish_next, write_run

DONE = Outcome(Verdict.COMPLETED, "completed", exit_code=0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with base.toml, in which the process stands."""
    (tmp_path / "base.toml").write_text("num_generations = 4\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sweep(text, value, log=None, more=lambda run: {}):
    """A sweep whose runs have all completed; `value(run)` is the exact match, `log(run)` lines.

    `more(run)` are the last values of other metrics.
    """
    Path("s.toml").write_text(f'config = "base.toml"\n{text}')
    expansion = expand(read_spec(Path("s.toml")))
    with Store.open(home().db) as store:
        store.submissions.add_sweep("s", lambda name: expansion.plan(name, str(Path.cwd())))
        while (claimed := store.claims.claim("host", "boot", nothing_before)) is not None:
            run, attempt = claimed
            em = value(run)
            if log is not None:
                run.folder.mkdir(parents=True)
                lines = "".join(json.dumps(line) + "\n" for line in log(run))
                (run.folder / "training_log.jsonl").write_text(lines)
            store.claims.finish(
                attempt,
                DONE,
                newer_checkpoint=True,
                progress=Progress(10, 10, {**({} if em is None else {"em": em}), **more(run)}),
                value=em,
                wall_s=1800.0,
            )


def by_rate(run):
    """0.3, 0.4, 0.5 at 1e-5 and 0.25, 0.35, 0.45 at 1e-4, by seed."""
    return 0.3 + 0.1 * run.seed - (0.05 if run.overrides["learning_rate"] == 1e-4 else 0.0)


RATES = "seeds = [0, 1, 2]\n[params]\nlearning_rate = [1e-5, 1e-4]\n"


def test_best_says_what_cannot_be_told_apart(say):
    """Means 0.4 and 0.35, the same difference in all three seeds: signs alone, 2 of 8."""
    sweep(RATES, by_rate)
    code, out, _ = say("best")
    assert code == 0
    assert "first against second: not distinguishable, p = 0.25" in out
    assert "the first is ahead in 3 of 3 seeds that both have" in out
    told = json.loads(say("best", "--json")[1])
    assert [row["params"]["learning_rate"] for row in told["rows"]] == [1e-5, 1e-4]
    assert told["rows"][0]["mean"] == pytest.approx(0.4)
    assert told["rows"][0]["ci95"] == pytest.approx([0.1515862, 0.6484138])
    assert told["first_against_second"]["verdict"] == "not distinguishable"
    assert told["first_against_second"]["probability"] == 1.0


def test_best_of_single_runs_has_no_interval(say):
    """One seed says nothing about the spread, and best says so."""
    sweep("[params]\nlearning_rate = [1e-5, 1e-4]\n", by_rate)
    assert say("best")[1].count("n=1, no interval") == 3
    assert json.loads(say("best", "--json")[1])["rows"][0]["ci95"] is None


def test_best_of_a_sweep_that_has_begun_names_the_setting_and_counts_what_is_missing(say):
    """One of three runs is done: its parameter is shown, and only the other two are missing."""
    Path("s.toml").write_text('config = "base.toml"\n[params]\nlearning_rate = [1e-5, 1e-4, 1e-3]')
    expansion = expand(read_spec(Path("s.toml")))
    with Store.open(home().db) as store:
        store.submissions.add_sweep("s", lambda name: expansion.plan(name, str(Path.cwd())))
    finish_next(write=lambda run: write_run(run.folder, 1.0, 20))
    code, out, err = say("best", "s")
    assert code == 0
    head, row = (line.split() for line in out.splitlines())
    assert head[:3] == ["rank", "learning_rate", "em"]
    assert row[:2] == ["1", "1e-5"]
    assert "2 runs without a result: 2 queued" in err


def test_best_by_the_interquartile_mean(say):
    """One lucky seed of four moves the mean, not the middle."""
    text = "seeds = [0, 1, 2, 3]\n[params]\nlearning_rate = [1e-5, 1e-4]\n"
    lucky = (0.1, 0.1, 0.1, 0.9)
    sweep(text, lambda r: lucky[r.seed] if r.overrides["learning_rate"] == 1e-5 else 0.2)
    first = [
        json.loads(say("best", "--json", *more)[1])["rows"][0]["params"] for more in ([], ["--iqm"])
    ]
    assert first == [{"learning_rate": 1e-5}, {"learning_rate": 1e-4}]


def test_the_best_so_far_against_gpu_hours(say):
    """Each run takes half an hour; a point for each that has ended."""
    sweep("[params]\nnum_generations = [2, 4, 8]\n", lambda r: 1 / r.overrides["num_generations"])
    points = json.loads(say("best", "--history", "--json")[1])["points"]
    assert points == [{"gpu_hours": h, "best": 0.5} for h in (0.5, 1.0, 1.5)]
    assert "30m 00s" in say("best", "--history")[1]


def test_compare_pairs_runs_that_share_the_rest(say):
    """The same difference in every pair is told apart, however far the pairs are from another."""
    sweep(RATES + "lora_rank = [4, 8]\n", lambda r: by_rate(r) + 0.001 * r.overrides["lora_rank"])
    told = json.loads(say("compare", "--by", "lora_rank", "--json")[1])
    assert [(row["value"], row["n"]) for row in told["rows"]] == [(8, 6), (4, 6)]
    assert told["rows"][1]["best_against"]["meetings"] == 6
    assert told["rows"][1]["best_against"]["verdict"] == "first"
    assert told["rows"][1]["best_against"]["difference"] == pytest.approx(0.004)
    code, out, _ = say("compare", "--by", "lora_rank")
    assert code == 0
    assert "6 pairs" in out
    assert say("compare", "--by", "lora_rnk")[0] == 2
    assert say("compare", "--by", "batch_size")[0] == 2


def test_importance_names_what_decided(say):
    """The rate decides everything, the rank nothing."""
    rates = ", ".join(f"{10**-e:g}" for e in range(2, 8))
    text = f"[params]\nlearning_rate = [{rates}]\nlora_rank = [2, 4, 8, 16]\n"
    sweep(text, lambda r: r.overrides["learning_rate"])
    told = json.loads(say("importance", "--json")[1])
    assert told["settings"] == 24
    assert told["params"][0]["param"] == "learning_rate"
    assert told["params"][0]["share"] > 0.9
    assert say("importance")[1].splitlines()[1].startswith("learning_rate")


def test_importance_of_few_settings_is_not_made_up(say):
    """It says how many it needs."""
    sweep(RATES, by_rate)
    code, out, err = say("importance")
    assert (code, out) == (0, "")
    assert "needs 20 finished settings, there are 2" in err


def rising(run):
    """Exact match in ten steps up to the run's value."""
    for update in range(1, 11):
        em = update / 10 * run.overrides["kl_coeff"]
        yield {"update": update, "updates_total": 10, "em": em, "split": "test", "loss": 0.0}


def test_stop_check_replays_a_finished_sweep(say):
    """Curves that keep their order: the median rule stops the worst, nobody stops the best."""
    text = "[params]\nkl_coeff = [0.8, 0.6, 0.9, 0.1]\n"
    sweep(text, lambda r: r.overrides["kl_coeff"], log=rising)
    told = {row["rule"]: row for row in json.loads(say("stop-check", "--json")[1])}
    # Halving: two of four end at update 3, one of two at update 6.
    assert [told[rule]["updates_saved"] for rule in ("none", "median", "halving")] == [0, 7, 18]
    assert [len(told[rule]["stopped"]) for rule in ("none", "median", "halving")] == [0, 1, 3]
    assert not any(row["winner_stopped"] for row in told.values())
    code, out, _ = say("stop-check", "--rule", "median")
    assert code == 0
    assert "run 4 kl0.1, update 3: median: em 3.0% at best" in out
    assert say("stop-check", "--warmup", "130%")[0] == 2
    assert say("stop-check", "--health", "klx > 1")[0] == 2


def reward(run):
    """A reward that rose with the rate, and a KL that did too."""
    large = run.overrides["learning_rate"] == 1e-4
    return {"reward_mean": 0.95 if large else 0.5, "kl": 0.9 if large else 0.1}


def test_an_export_without_an_extra_writes_the_rest_first(say, monkeypatch):
    """And says how to get it."""
    sweep(RATES, by_rate)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = say("export", "s", "--png", "plots", "--csv", "runs.csv")
    assert code == 2
    assert out == "runs.csv\n"
    assert Path("runs.csv").read_text().count("\n") == 1 + 6
    assert "pip install 'grpo-sweep[png]'" in err


def test_where_every_run_ties_best_says_so_and_names_what_moved(say):
    """Six times 0.0%, while the reward went from 0.5 to 0.95."""
    sweep(RATES, lambda run: 0.0, more=reward)
    err = say("best")[2]
    assert "all 6 runs tie at em 0.0%; reward_mean ended between 0.5000 and 0.9500" in err
    assert "grpo-sweep best s --metric reward_mean" in err
    first = json.loads(say("best", "--metric", "reward_mean", "--json")[1])
    assert (first["objective"], first["goal"]) == ("reward_mean", "max")
    assert first["rows"][0]["params"] == {"learning_rate": 1e-4}
    assert first["rows"][0]["mean"] == pytest.approx(0.95)


def test_another_metric_for_once_in_compare_and_pivot(say):
    """Of KL the least is best; what no run logged is named with what they did log."""
    sweep(RATES, by_rate, more=reward)
    told = json.loads(say("compare", "--by", "learning_rate", "--metric", "kl", "--json")[1])
    assert (told["goal"], [row["value"] for row in told["rows"]]) == ("min", [1e-5, 1e-4])
    told = json.loads(say("status", "s", "--by", "learning_rate", "--metric", "kl", "--json")[1])
    means = [row["mean"] for row in told["rows"]]
    assert means == pytest.approx([0.1, 0.9])
    assert [row["best"] for row in told["rows"]] == [True, False]
    code, _, err = say("best", "--metric", "reward_men")
    assert (code, "did you mean reward_mean?" in err) == (2, True)
    assert say("status", "--metric", "kl")[0] == 2


def test_a_sweep_that_is_over_has_no_result_and_not_none_yet(say):
    """No run has logged em, and none will."""
    sweep(RATES, lambda run: None, more=reward)
    for words in (("best",), ("best", "--history"), ("status", "s", "--by", "learning_rate")):
        err = say(*words)[2]
        assert "sweep s is completed and has no result for em (try --metric reward_mean)" in err
