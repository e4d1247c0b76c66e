"""What a run that goes on must find as it was, where --strict is given."""

from pathlib import Path

import pytest

from grpo_core.errors import ConfigError
from grpo_core.run.checkpoint import Checkpoint, RunState
from grpo_core.trainer import must_be_same_device


def stopped_on(**versions):
    """A checkpoint of a run that was made with these."""
    return Checkpoint(Path("out/checkpoint-4"), RunState(versions=versions), {}, None)


def refusal(found, now):
    """Why a run may not go on on this device; nothing where it may."""
    try:
        must_be_same_device(found, now)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("before", "now"), [("cpu", "gpu (Apple M4)"), ("gpu (Apple M4)", "cpu"), ("gpu", "cpu")]
)
def test_a_run_does_not_go_on_on_the_other_kind_of_device(before, now):
    """The message names both, and how to go on where it began."""
    assert refusal(stopped_on(device=before), now) == (
        f"out/checkpoint-4: trained on the {before}, and now it would be the {now}; set "
        f"GRPO_DEVICE={before.split()[0]}, go on without --strict, or choose another output_dir"
    )


@pytest.mark.parametrize(
    "before",
    [{"device": "gpu (Apple M4)"}, {"device": "gpu (Apple M2 Max)"}, {"device": "gpu"}, {}],
)
def test_another_gpu_and_a_run_that_recorded_none_go_on(before):
    """Two GPUs differ by rounding, which a line says."""
    assert refusal(stopped_on(**before), "gpu (Apple M4)") == ""
