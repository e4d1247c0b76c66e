"""What the report says of a sweep, and what it says where something is missing."""

import json
import random
import re
import shlex
from pathlib import Path

from orchestrator.queue.store import Store
from orchestrator.run import Objective, Outcome, Verdict
from orchestrator.system.paths import home
from tests.queue_kit import attempts, nothing_before
from tests.report_kit import (
    THREE,
    a_search_with_a_pruned_run,
    curves,
    data,
    facts_of,
    figures,
    read,
)
from tests.sweep_kit import (
    add_sweep,
    finish_next,
    finished_sweep,
    lines_of,
    planned_run,
    sample,
    write_lines,
    write_run,
)


def test_a_report_tells_the_best_setting_its_interval_and_what_it_was_before(tmp_path):
    """The numbers are those of the logs: gain 0.9 ends near 0.3 + 0.4 * 0.98 * 0.9."""
    reader = read(finished_sweep(tmp_path, THREE, seeds=(0, 1, 2)))
    head = reader.words("header")
    assert "Best setting: learning_rate 1e-3" in head
    assert re.search(
        r"exact match 6[3-7]\.\d% 95% interval 6\d\.\d% –\u2060 6\d\.\d%, 3 seeds", head
    )
    assert re.search(r"before training (29|30|31)\.\d%", head)
    assert "runs 9 9 completed trained 9m 00s" in head
    ranking = reader.words("ranking")
    assert [m[1] for m in re.finditer(r"(1e-5|1e-3|0\.1) \d\d\.\d%", ranking)] == [
        "1e-3", "0.1", "1e-5",
    ]  # fmt: skip
    assert "The first differs from every other setting" in ranking


def test_what_is_swept_stands_in_columns_of_the_runs(tmp_path):
    """As people know it: a run's values beside its name, and as numbers for who sorts them."""
    settings = [(0.5, {"learning_rate": 1e-5, "lora_rank": 8}), (0.4, {"learning_rate": 0.5})]
    reader = read(finished_sweep(tmp_path, settings))
    words = reader.words("runs")
    assert "id run state em learning_rate lora_rank seed" in words
    assert re.search(r"completed \d\d\.\d% 1e-5 8 \d", words)
    assert re.search(r"completed \d\d\.\d% 0\.5 – \d", words)
    table = data(reader, "table")
    assert table["keys"] == ["learning_rate", "lora_rank"]
    assert [row["values"] for row in table["runs"]] == [[1e-5, 8], [0.5, None]]


def test_one_run_a_setting_is_said_to_prove_little(tmp_path):
    """No interval over seeds is invented; the evaluation's own is named as such."""
    reader = read(finished_sweep(tmp_path, THREE))
    assert "Every setting ran once." in reader.words("ranking")
    assert "one run; " in reader.words("header")
    assert reader.words("ranking").count("one run") == 3


def test_settings_that_seeds_cannot_tell_apart_are_counted(tmp_path):
    """Two settings of the same gain, one far below."""
    near = [(0.8, {"lora_rank": 8}), (0.805, {"lora_rank": 16}), (0.1, {"lora_rank": 2})]
    words = read(finished_sweep(tmp_path, near, seeds=(0, 1, 2))).words("ranking")
    assert "These seeds do not distinguish the first from 1 other setting " in words


def test_a_lower_objective_can_be_the_better_one(tmp_path):
    """The run with the shortest completions leads, and is the best run of the samples."""
    runs = [planned_run(f"r{gain}", 0, {"kl_coeff": gain}) for gain in (0.9, 0.1)]
    name = add_sweep(tmp_path, runs, objective=Objective("completion_length", "min", "last:3"))
    for gain in (0.9, 0.1):
        finish_next(write=lambda run, gain=gain: write_run(run.folder, gain, 20))
    reader = read(name)
    assert "Best setting: kl_coeff 0.1" in reader.words("header")
    assert "mean of the last 3, lower is better" in reader.words("header")
    assert "before training" not in reader.words("header")  # The first length is that of update 1.
    assert reader.words("samples").startswith("What the model wrote Best run 2 r0.1")
    assert "completion_length" in data(reader, "curves")["panels"]


def test_every_command_is_the_one_that_trains_the_run(tmp_path):
    """Folder, config and each --set, as a shell takes them."""
    facts = facts_of(finished_sweep(tmp_path / "it's", THREE))
    for run in facts.runs:
        words = shlex.split(run.command)
        assert words[:3] == ["cd", str(tmp_path / "it's"), "&&"]
        assert words[4:7] == ["-P", "-m", "grpo_core"]
        assert [words[i + 1] for i, word in enumerate(words) if word == "--set"] == list(
            run.run.set
        )


def test_failures_are_told_with_their_evidence(tmp_path):
    """Which run, why, and the line that proves it; its time counts as lost."""
    name = add_sweep(tmp_path, [planned_run("a", 0, {"lora_rank": 8}), planned_run("b", 0, {})])
    diverged = Outcome(Verdict.DIVERGED, "loss is not a number", "update 7: loss nan", 6)
    finish_next(diverged, 90.0, lambda run: write_run(run.folder, 1.0, 20))
    finish_next(write=lambda run: write_run(run.folder, 0.5, 20))
    reader = read(name)
    assert [score.run.name for score in facts_of(name).scores] == ["b"]
    words = reader.words("not-well")
    assert "a failed loss is not a number" in words.replace("diverged: ", "")
    assert "update 7: loss nan" in words
    assert "1m 30s of it in runs that failed" in reader.words("header")
    kinds = {trace["name"]: trace for trace in figures(reader)["timeline"]["data"]}
    assert set(kinds) == {"completed", "failed"}


def test_a_pruned_run_is_seen_and_is_no_failure(tmp_path):
    """Hollow where it stood, dotted through its values; the time line does not call it failed."""
    drawn = figures(read(a_search_with_a_pruned_run(tmp_path)))
    dots = drawn["slice/learning_rate"]["data"]
    hollow = [trace for trace in dots if trace["marker"].get("symbol") == "circle-open"]
    assert [len(trace["x"]) for trace in hollow] == [3]
    assert "pruned at update" in hollow[0]["hovertext"][0]
    dotted = [t for t in drawn["parallel"]["data"] if t["line"].get("dash") == "dot"]
    assert len(dotted) == 1
    kinds = {trace["name"]: trace["marker"] for trace in drawn["timeline"]["data"]}
    assert set(kinds) == {"completed", "pruned by the stop rule"}
    assert len({marker["pattern"]["shape"] for marker in kinds.values()}) == 2


def test_draws_are_written_with_three_digits_on_their_own_scale(tmp_path):
    """`1.23e-6`, and not three categories of seven digits."""
    reader = read(a_search_with_a_pruned_run(tmp_path))
    assert "3.46e-4" in reader.words("ranking")
    assert "3.45678e-4" not in reader.words("ranking") + reader.words("header")
    ticks = figures(reader)["slice/learning_rate"]["layout"]["xaxis"]["ticktext"]
    assert ticks == ["3e-6", "1e-5", "3e-5", "1e-4", "3e-4"]


def test_a_long_curve_says_how_many_updates_a_point_stands_for(tmp_path):
    """1,000 updates in 250 points; twenty-one evaluations stay as they are."""
    reader = read(finished_sweep(tmp_path, THREE[:2], updates=1000))
    told = data(reader, "curves")["metrics"]
    assert told["reward_mean"]["note"] == "each point is the mean of 4 updates"
    assert [x for x, _ in curves(reader, "reward_mean")[0]] == [2.5 + 4 * n for n in range(250)]
    assert told["em"]["note"] == ""
    assert [x for x, _ in curves(reader, "em")[0]] == [*range(0, 1001, 50)]


def test_every_logged_metric_can_be_chosen_over_updates_or_time(tmp_path):
    """The first ones are what people look at; 1.234 s an update, by rollout_s and update_s."""
    reader = read(finished_sweep(tmp_path, THREE[:1]))
    found = data(reader, "curves")
    names = list(found["metrics"])
    assert names[:2] == ["reward_mean", "em"]
    assert {"loss", "grad_norm", "reward/correctness", "tokens_per_s", "peak_bytes"} <= set(names)
    assert not {"update", "batch_step", "n", "split", "updates_total"} & set(names)
    grid, _ = found["metrics"]["loss"]["of"]["1"]
    assert found["times"]["1"][str(grid)] == [round(1.234 * n, 1) for n in range(1, 21)]


def test_importance_is_told_where_there_are_enough_settings(tmp_path):
    """Twenty-four settings of which the rate alone decides."""
    rates = [10.0**-power for power in range(2, 8)]
    settings = [
        (1 - number / 6, {"learning_rate": rate, "lora_rank": rank})
        for number, rate in enumerate(rates)
        for rank in (2, 4, 8, 16)
    ]
    spec = f"config = 'base.toml'\n[params]\nlearning_rate = {rates}\nlora_rank = [2, 4, 8, 16]\n"
    drawn = figures(read(finished_sweep(tmp_path, settings, spec=spec)))
    bars = drawn["importance"]["data"][0]
    assert bars["y"] == ["lora_rank", "learning_rate"]
    assert bars["x"][1] > 0.8


def test_importance_is_never_made_up(tmp_path):
    """Too few settings, or a spec that can no longer be read: the reason, and all the rest."""
    few = read(finished_sweep(tmp_path / "few", THREE)).words("parameters")
    assert "Not estimated: needs 20 finished settings, there are " in few
    bad = read(finished_sweep(tmp_path / "bad", THREE, name="bad", spec="[params"))
    assert "Not estimated: " in bad.words("parameters")
    assert "Best setting" in bad.words("header")


def test_a_sweep_without_results_says_so_and_what_to_do(tmp_path):
    """No run has started: no ranking, no curves, but spec and commands."""
    name = add_sweep(tmp_path, [planned_run("a", 0, {"lora_rank": 8})])
    reader = read(name)
    assert "No run has a value of em yet (1 queued)" in reader.words("ranking")
    assert "No result yet" in reader.words("header")
    assert not reader.texts.keys() & {"curves", "parameters", "time", "samples", "not-well"}
    assert "learning_rate = [1e-5, 1e-3]" in reader.words("spec")
    assert "grpo_core" in reader.words("runs")


def test_a_running_sweep_shows_what_is_logged_so_far(tmp_path):
    """A torn last line and a run without a folder are passed over."""
    name = add_sweep(tmp_path, [planned_run(n, 0, {"lora_rank": n}) for n in (2, 4, 8)])
    finish_next(write=lambda run: write_run(run.folder, 0.5, 20))
    with Store.open(home().db) as store:
        run, _ = store.claims.claim("host", "boot", nothing_before)
    write_run(run.folder, 0.5, 20)
    for file in ("training_log.jsonl", "samples.jsonl"):
        with open(run.folder / file, "a") as log:
            log.write('{"update": 21, "reward_mean": 3')
    reader = read(name)
    assert [max(x for x, _ in run) for run in curves(reader, "reward_mean")] == [20, 20]
    assert "runs 3 1 completed, 1 running, 1 queued" in reader.words("header")


def test_a_flat_metric_is_words_instead_of_an_empty_plot(tmp_path):
    """KL without a reference, and a metric that nobody logged."""

    def write(run):
        lines = [{**line, "kl": 0.0, "entropy": None} for line in lines_of(Still(), 0.5, 20)]
        write_lines(run.folder / "training_log.jsonl", lines)

    name = add_sweep(tmp_path, [planned_run("a", 0, {"lora_rank": 8})])
    finish_next(write=write)
    reader = read(name)
    told = data(reader, "curves")["metrics"]
    words = "0 in every run, at every update; with kl_coeff = 0 there is no reference"
    assert (told["kl"]["flat"], told["kl"]["note"]) == (True, words)
    assert "entropy" not in told
    assert data(reader, "curves")["panels"] == ["reward_mean", "em", "kl", "completion_length"]
    assert "This run kept no completions (log_completions = 0)." in reader.words("samples")


class Still:
    """A random source that never moves."""

    def gauss(self, center, _):
        """The center."""
        return center

    def random(self):
        """The middle."""
        return 0.5


def test_what_ails_a_run_is_told_with_evidence_and_what_to_try(tmp_path):
    """Reward up while held-out rows get worse; a sweep of healthy runs has no such section."""
    name = finished_sweep(tmp_path, [(0.9, {"lora_rank": 8})])
    assert read(name).words("ill") == ""
    folder = facts_of(name).runs[0].run.folder
    lines = list(lines_of(random.Random(0), 0.9, 200))
    for line in lines:
        if "em" in line:
            em = 0.8 - line["update"] / 500
            line |= {"em": em, "ci95": [em - 0.05, em + 0.05]}
    write_lines(folder / "training_log.jsonl", lines)
    words = read(name).words("ill")
    assert "reward up, held-out down" in words
    assert "while em went 80.0% → 40.0%" in words
    assert "samples.jsonl" in words


def test_the_best_run_answers_the_same_held_out_prompt_beside_the_worst(tmp_path):
    """Before and after; what training drew stands apart, below it."""

    def write(run, gain):
        write_run(run.folder, gain, 20)
        said = [(0, "dunno", 0.0), (20, f"answer of {gain}", gain)]
        held_out = [{**sample(at, text, reward, "2 + 2?"), "split": "test"}
                    for at, text, reward in said]  # fmt: skip
        kept = lines_in(run.folder / "samples.jsonl")
        write_lines(run.folder / "samples.jsonl", [held_out[0], *kept, held_out[1]])

    name = add_sweep(tmp_path, [planned_run(f"r{gain}", 0, {"kl_coeff": gain}) for gain in (9, 1)])
    for gain in (0.9, 0.1):
        finish_next(write=lambda run, gain=gain: write(run, gain))
    reader = read(name)
    words = reader.words("samples")
    assert re.search(
        r"same held-out prompt .*2 \+ 2\? expected 25 "
        r"Best run 1 Before update 0 dunno reward 0 = .* After update 20 answer of 0\.9 .*"
        r"Worst run 2 Before update 0 dunno .* After update 20 answer of 0\.1 .* In training Best",
        words,
    )
    assert words.count("2 + 2?") == 1
    pair = data(reader, "details")["1"]["held_out"][0]
    assert (pair["before"]["completion"], pair["after"]["completion"]) == (
        "dunno", "answer of 0.9",
    )  # fmt: skip


def lines_in(path):
    """The objects of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_all_that_is_known_of_a_run_is_in_the_file(tmp_path):
    """As the live page shows it: settings beside the base, attempts, and of a failure the log."""
    name = add_sweep(tmp_path, [planned_run("a", 3, {"lora_rank": 64})])

    finish_next(
        Outcome(Verdict.DATA, "data: out of paper", "line 7", 3),
        write=lambda run: write_run(run.folder, 1.0, 20),
    )
    log = Path(attempts()[-1].log)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("before\nTraceback: out of paper\n")
    found = data(read(name), "details")["1"]
    assert found["settings"] == [["lora_rank", "64", "16"]]  # The default of the field.
    assert (found["state"], found["seed"], found["folder"]) == (
        "failed", 3, str(tmp_path / "out" / "a"),
    )  # fmt: skip
    assert [(one["n"], one["evidence"]) for one in found["attempts"]] == [(1, "line 7")]
    assert "Traceback: out of paper" in found["tail"]
    assert "grpo_core" in found["command"]
