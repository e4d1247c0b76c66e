"""A sweep that varies what has no effect is refused: it would rank the same run with itself."""

import pytest

from orchestrator.errors import SpecError
from tests.expansion_kit import expansion

pytestmark = pytest.mark.usefixtures("folder")

ADAPTERS = 'adapter_path = "earlier/final"'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"[set]\n{ADAPTERS}\n[params]\nlora_rank = [4, 8]", "params.lora_rank: .*adapter_path"),
        ('[set]\ntrain_type = "full"\n[params]\nlora_scale = [1.0, 2.0]', "train_type = full"),
        (
            "[set]\nnum_iterations = 1\n[[run]]\nclip_eps = 0.1\n[[run]]\nclip_eps = 0.2",
            "run.*clip_eps.*num_iterations = 1",
        ),
        (
            "[[zip]]\nlearning_rate = [1e-5, 1e-4]\nkl_estimator = ['k2', 'k3']",
            "zip.*kl_estimator has no effect, as kl_coeff = 0",
        ),
        (
            '[search]\nmethod = "random"\nruns = 3\n'
            '[params]\nrollout_is_max = { dist = "uniform", min = 1.0, max = 3.0 }',
            "rollout_is_max has no effect",
        ),
        (
            '[params]\ntrain_type = ["lora", "full"]\nlora_rank = [4, 8]',
            r"lora_rank differs between settings 3 and 4 without effect.*exclude",
        ),
    ],
    ids=["adapters", "full", "explicit", "zip", "drawn", "half"],
)
def test_a_sweep_over_a_void_field_is_refused(text, words):
    """At its place, with the field that makes it void."""
    with pytest.raises(SpecError, match=words) as caught:
        expansion(text)
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize(
    "text",
    [
        f"[set]\n{ADAPTERS}\n[params]\nlearning_rate = [1e-5, 1e-4]",
        "[[run]]\nclip_eps = 0.1",
        '[params]\ntrain_type = ["lora", "full"]\nlora_rank = [4, 8]\n'
        "[[exclude]]\nwhen = \"train_type == 'full' and lora_rank == 8\"",
        "[params]\nkl_coeff = [0.0, 0.1]\n"
        "[derive]\nkl_estimator = \"'k3' if kl_coeff > 0 else 'k2'\"",
    ],
)
def test_a_sweep_whose_settings_differ_in_effect_is_not(text):
    """A void field may be set, or vary where it counts."""
    expansion(text)


def test_what_a_search_has_drawn_is_to_say_when_it_counts():
    """An [[exclude]] would throw the draw away; the parameter can say when it is drawn at all."""
    search = (
        '[search]\nmethod = "sobol"\nruns = 8\n[params]\ntrain_type = ["lora", "full"]\n'
        "lora_rank = [4, 8]\n"
    )
    with pytest.raises(SpecError, match=r'lora_rank.*say `when = "\.\.\."` on it') as caught:
        expansion(search)
    assert "exclude" not in str(caught.value)
