"""Each known illness shows in a run that has it, and none in a healthy one."""

import pytest

from orchestrator.results.illnesses import WINDOW, IllnessCode, find_illnesses
from orchestrator.run import Progress
from orchestrator.views.learning_curves import read_learning_curves
from orchestrator.views.now import run_lines
from tests.records import a_run
from tests.sweep_kit import write_lines

UPDATES = 40


def run(evaluate=None, **curves):
    """The log of a run that learns; each of `curves` gives a value for the share that is done."""
    healthy = {
        "reward_mean": lambda x: 0.2 + 0.6 * x,
        "frac_reward_zero_std": lambda x: 0.4,
        "entropy": lambda x: 0.9 - 0.6 * x,
        "truncated_frac": lambda x: 0.1,
        "completion_length": lambda x: 60.0,
        "kl": lambda x: 0.05 * x,
        "clip_frac": lambda x: 0.02,
    }
    evaluate = evaluate or (lambda x: 0.3 + 0.4 * x)
    lines = []
    for update in range(UPDATES + 1):
        share = update / UPDATES
        if update:
            values = {name: curve(share) for name, curve in (healthy | curves).items()}
            lines.append({"update": update, **values})
        if update % 10 == 0:
            em = evaluate(share)
            ci95 = [max(0.0, em - 0.07), min(1.0, em + 0.07)]
            lines.append({"update": update, "em": em, "ci95": ci95, "split": "test", "n": 200})
            lines.append({"update": update, "em": 0.99 * share, "split": "train", "n": 200})
    return lines


SICK = {
    IllnessCode.ALL_FLAT: {"frac_reward_zero_std": lambda x: 1.0, "reward_mean": lambda x: 0.0},
    IllnessCode.ENTROPY: {"entropy": lambda x: 0.8 * (1 - x) ** 4},
    IllnessCode.LENGTH: {"truncated_frac": lambda x: x, "completion_length": lambda x: 500 * x},
    IllnessCode.PARTED: {"evaluate": lambda x: 0.6 - 0.5 * x},
    IllnessCode.KL: {"kl": lambda x: 2 * x},
    IllnessCode.CLIP: {"clip_frac": lambda x: 0.5 * x},
}


def test_a_run_that_learns_is_healthy():
    """Reward and exact match rise, entropy falls, as they should."""
    assert find_illnesses(run()) == []


@pytest.mark.parametrize("code", SICK)
def test_each_illness_shows_alone(code):
    """With its evidence and what to try."""
    (found,) = find_illnesses(run(**SICK[code]))
    assert found.code is code
    assert found.evidence
    assert found.remedy
    assert str(found).startswith(f"{code}: ")


def test_every_illness_has_a_run_that_shows_it():
    """No code without a fixture."""
    assert set(SICK) == set(IllnessCode)


@pytest.mark.parametrize("code", [c for c in SICK if c is not IllnessCode.PARTED])
def test_an_illness_that_is_over_is_not_reported(code):
    """What counts are the last updates."""
    recovered = [line for line in run() if "split" not in line][-WINDOW:]
    assert find_illnesses(run(**SICK[code]) + recovered) == []


def test_a_beginning_says_nothing_yet():
    """Fewer lines than a judgement rests on."""
    for curves in SICK.values():
        assert find_illnesses(run(**curves)[: WINDOW - 1]) == []
    assert find_illnesses([]) == []


@pytest.mark.parametrize(
    ("evaluate", "curves"),
    [
        (lambda x: 0.6 - 0.1 * x, {}),  # within the evaluations' own noise
        (lambda x: 0.6 - 0.5 * x, {"reward_mean": lambda x: 0.5 - 0.3 * x}),  # both fall
        (lambda x: 0.6 if x < 1 else 0.55, {}),
    ],
)
def test_held_out_and_reward_part_only_where_the_intervals_do(evaluate, curves):
    """A fall that the evaluations cannot tell from noise, or that the reward shares, is none."""
    assert find_illnesses(run(evaluate, **curves)) == []


def test_the_evidence_of_a_parting_is_both_curves():
    """From the best evaluation, which may be the one before training."""
    (found,) = find_illnesses(run(**SICK[IllnessCode.PARTED]))
    assert found.evidence == "reward 0.2825 → 0.7325 since update 0, while em went 60.0% → 10.0%"


def test_without_answers_the_held_out_reward_is_looked_at():
    """By its own interval."""
    lines = [
        {**line, "eval_reward": line["em"], "eval_reward_ci95": line.get("ci95")}
        if "split" in line
        else line
        for line in run(**SICK[IllnessCode.PARTED])
    ]
    for line in lines:
        line.pop("em", None)
    (found,) = find_illnesses(lines)
    assert "eval_reward went 0.6000 → 0.1000" in found.evidence


def test_values_that_are_no_numbers_are_passed_over():
    """A diverged run has lines of null."""
    lines = run()
    for line in lines:
        line.update({name: None for name in ("entropy", "kl", "ci95") if name in line})
    assert find_illnesses(lines) == []


def test_the_status_of_a_run_that_trains_says_it(tmp_path):
    """A line of its own, with what to try."""
    write_lines(tmp_path / "training_log.jsonl", run(**SICK[IllnessCode.KL]))
    curves = read_learning_curves(tmp_path)
    now = Progress(UPDATES, 2 * UPDATES)
    shown = [
        str(line)
        for line in run_lines(a_run(cwd=str(tmp_path), output_dir="."), now, curves, 90, None)
    ]
    (line,) = [line for line in shown if line.startswith("  ! ")]
    assert line.startswith("  ! KL runs off: 1.")
    assert "try a lower learning_rate" in line
