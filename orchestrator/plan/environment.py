"""What of a shell's environment decides what a trainer finds: kept at the submit, compared later.

A run is trained in the worker's environment, which may be another shell's or a service's: with
another Python path a reward imports something else, with another HF_HOME a model is not there, on
another device it computes other bits.
"""

import os
import re
from collections.abc import Mapping

_NAMES = re.compile(
    r"PATH|PYTHONPATH|GRPO_DEVICE|GRPO_BLAS|HF_\w+|TRANSFORMERS_\w+|HUGGINGFACE_\w+"
)
_SECRETS = re.compile(r"TOKEN|KEY|SECRET|PASSW")
_LISTS = ("PATH", "PYTHONPATH")
HIDDEN = "(set)"
"""What is kept of a variable that holds a secret."""


def kept(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that matter, by name; of secrets only that there is one."""
    return {
        name: HIDDEN if _SECRETS.search(name) else value
        for name, value in sorted(env.items())
        if _NAMES.fullmatch(name) and value
    }


def differences(then: Mapping[str, str] | None, now: Mapping[str, str]) -> list[str]:
    """How two of `kept` differ, a line each; none where the first is not known."""
    if then is None:
        return []
    names = sorted({*then, *now})
    return [_line(n, then.get(n, ""), now.get(n, "")) for n in names if then.get(n) != now.get(n)]


def _line(name: str, then: str, now: str) -> str:
    if name not in _LISTS:
        return f"{name} is {now or 'not set'} here, and was {then or 'not set'} at the submit"
    before, here = (list(filter(None, value.split(os.pathsep))) for value in (then, now))
    lacks = [folder for folder in before if folder not in here]
    has = [folder for folder in here if folder not in before]
    words = [f"lacks {', '.join(lacks)}"] if lacks else []
    words += [f"has {', '.join(has)} besides"] if has else []
    return f"{name} here {' and '.join(words) or 'is in another order'}, unlike at the submit"
