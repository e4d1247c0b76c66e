"""What GRPO_DEVICE may say."""

import pytest

from grpo_core.errors import ConfigError
from grpo_core.run.device_choice import wanted_device


@pytest.mark.parametrize("word", ["", "cpu", "gpu"])
def test_one_of_two_devices_or_none(word):
    """Empty is as not set."""
    assert wanted_device({"GRPO_DEVICE": word}) == word
    assert wanted_device({}) == ""


@pytest.mark.parametrize("word", ["CPU", "metal", "mps", "0", "gpu "])
def test_another_word_is_a_fault(word):
    """With what there is to choose from."""
    with pytest.raises(ConfigError) as error:
        wanted_device({"GRPO_DEVICE": word})
    assert str(error.value) == f"GRPO_DEVICE = {word!r}: must be cpu or gpu, or not set"
