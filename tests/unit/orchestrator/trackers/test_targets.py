"""Which tools can be named, and what is said where one is missing."""

import sys

import pytest

from orchestrator.errors import UsageError
from orchestrator.trackers.targets import NAMES, Target, parse_targets


def test_a_tool_has_a_place_or_its_own_default(monkeypatch):
    """As typed, else as the tool's variable says, else ours."""
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    assert parse_targets(["tensorboard=logs/a=b", "wandb,mlflow"]) == [
        Target("tensorboard", "logs/a=b"),
        Target("wandb", "mine"),
        Target("mlflow", "grpo-sweep"),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["wandbb"], "did you mean wandb?"),
        (["comet"], "known are tensorboard, wandb, mlflow, trackio"),
        (["wandb", "wandb=b"], "wandb is named twice"),
        ([""], "no such tool"),
    ],
)
def test_a_tool_that_does_not_exist_is_refused(words, message):
    """With what there is instead."""
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        parse_targets(words)


@pytest.mark.parametrize("tool", NAMES)
def test_a_missing_library_is_reported_with_what_installs_it(tool, monkeypatch):
    """Before anything is done, also where nothing is to be sent."""
    library = {"tensorboard": "tensorboardX"}.get(tool, tool)
    monkeypatch.setitem(sys.modules, library, None)
    for act in (Target(tool, "x").check, Target(tool, "x").open):
        with pytest.raises(UsageError, match=rf"pip install 'grpo-sweep\[{tool}\]'"):
            act()
