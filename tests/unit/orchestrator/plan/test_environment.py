"""What of a shell's environment is kept at a submit, and how another one differs."""

from orchestrator.plan.environment import differences, kept

ENV = {
    "PATH": "/opt/bin:/usr/bin",
    "PYTHONPATH": "",
    "HF_HOME": "/models",
    "HF_TOKEN": "hf_secret",
    "HOME": "/home/me",
    "GRPO_DEVICE": "cpu",
}


def test_what_a_trainer_may_depend_on_is_kept_and_no_secret():
    """Of a token only that there is one; what is empty counts as not set."""
    assert kept(ENV) == {
        "GRPO_DEVICE": "cpu",
        "HF_HOME": "/models",
        "HF_TOKEN": "(set)",
        "PATH": "/opt/bin:/usr/bin",
    }


def test_each_difference_is_a_line():
    """Of a list of folders what is missing and what is new, else both values."""
    other = {"PATH": "/usr/bin:/sbin", "PYTHONPATH": "/mine", "HF_HOME": "/other"}
    assert differences(kept(ENV), kept(other)) == [
        "GRPO_DEVICE is not set here, and was cpu at the submit",
        "HF_HOME is /other here, and was /models at the submit",
        "HF_TOKEN is not set here, and was (set) at the submit",
        "PATH here lacks /opt/bin and has /sbin besides, unlike at the submit",
        "PYTHONPATH here has /mine besides, unlike at the submit",
    ]
    turned = {"PATH": "/usr/bin:/opt/bin"}
    (line,) = differences({"PATH": ENV["PATH"]}, turned)
    assert line == "PATH here is in another order, unlike at the submit"


def test_an_environment_that_is_not_known_differs_in_nothing():
    """A sweep of an earlier version kept none."""
    assert differences(None, kept(ENV)) == []
