"""Whole runs on windows, recurrent layers, and a model that cannot share its prompts."""

import pytest

from tests.trainer_kit import complete, log_of, result_of
from tests.zoo import zoo_folder

# llama4 attends by chunks; the others share a prompt behind a window, or a recurrent state.
MAKES = {"llama4": False, "gpt_oss": True, "lfm2": True}


@pytest.mark.parametrize("make", MAKES)
def test_a_model_of_another_kind_trains_and_a_line_says_how(make, tmp_path):
    """Prompts here are longer than the window, and of several lengths."""
    model = zoo_folder(make, tmp_path / "model")
    done = complete(tmp_path / "out", model_name=str(model), entropy_coef=0.1, zero_variance="keep")
    assert ("is not shared" not in done.stderr) == MAKES[make]
    assert result_of(tmp_path / "out")["status"] == "completed"
    updates = [line for line in log_of(tmp_path / "out") if "loss" in line]
    assert updates
    assert all(line["grad_norm"] > 0 for line in updates)  # by the entropy bonus at least
