"""What the measurements of `doctor --deep` mean: a row each, ok, odd or bad; pure.

docs/mac.md says what a row settles.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

DISPLAY_S = 45.0
ADOPTED = "a killed worker's trainer"

Numbers = Mapping[str, Any]


class Mark(StrEnum):
    """What a row shows: as it should be, worth a look, wrong, or nothing on this machine."""

    OK = "ok"
    ODD = "odd"
    BAD = "bad"
    NONE = "none"


@dataclass(frozen=True)
class Row:
    """One answer: the numbers that were measured, and what they mean."""

    name: str
    verdict: Mark
    text: str
    numbers: Numbers = field(default_factory=dict)

    @property
    def shape(self) -> dict[str, Any]:
        """As it stands in the JSON."""
        return {**asdict(self), "verdict": str(self.verdict)}


Judge = Callable[[Numbers], tuple[Mark, str]]


def judged(name: str) -> Callable[[Judge], Callable[[Numbers], Row]]:
    """Makes a row of that name of what a judge says of numbers that were measured."""

    def make(judge: Judge) -> Callable[[Numbers], Row]:
        @functools.wraps(judge)
        def row(found: Numbers) -> Row:
            return _unmeasured(name, found) or Row(name, *judge(found), found)

        return row

    return make


def _unmeasured(name: str, found: Numbers) -> Row | None:
    if "failed" in found:
        return Row(name, Mark.BAD, str(found["failed"]), found)
    if "skipped" in found:
        return Row(name, Mark.NONE, str(found["skipped"]), found)
    return None


@judged("device")
def judge_device(found: Numbers) -> tuple[Mark, str]:
    """Metal that is said to be there, and is not, was met in virtual machines."""
    if found["metal"] and found["device"] != "gpu":
        return Mark.ODD, "Metal is available, but nothing computes on it"
    return Mark.OK, str(found.get("device_name", found["device"]))


@judged("gradient, CPU against GPU")
def judge_gradient(found: Numbers) -> tuple[Mark, str]:
    """fp32 on both: rounding gives 1e-6; tokens may part where two are as likely."""
    apart, same = float(found["relative"]), float(found["same_tokens"])
    text = f"{apart:.1e} apart, {same:.0%} of the greedy tokens the same"
    if not apart < 1e-2:
        return Mark.BAD, text
    return (Mark.OK if apart < 1e-3 and same == 1.0 else Mark.ODD), text


def judge(name: str, found: Numbers, *, odd: float, bad: float) -> Row:
    """By the largest of the numbers; the text says which."""
    if (row := _unmeasured(name, found)) is not None:
        return row
    worst = max(found, key=lambda key: float(found[key]))
    value = float(found[worst])
    # What is no number is below no limit.
    mark = Mark.OK if value < odd else Mark.ODD if value < bad else Mark.BAD
    return Row(name, mark, f"at most {value:.2g} ({worst})", found)


@judged("shared prompt, worst difference")
def judge_prefix(found: Numbers) -> tuple[Mark, str]:
    """Above the tolerances of the probe a model would lose shared prompts."""
    fp32, bf16 = float(found["float32"]), float(found["bfloat16"])
    text = f"{fp32:.1e} in fp32, {bf16:.1e} in bf16"
    if not (fp32 < 1e-2 and bf16 < 1.0):
        return Mark.BAD, text
    return (Mark.OK if fp32 < 1e-3 and bf16 < 0.1 else Mark.ODD), text


@judged("decoding beyond the caches")
def judge_decoding(found: Numbers) -> tuple[Mark, str]:
    """Beyond the caches there are logits and room for more places: a share that falls with length.

    0.9 and 0.7 on a CPU. Where each step copies the caches it stays, or grows.
    """
    text = ", ".join(f"{places} places: {float(share):.2f}" for places, share in found.items())
    shares = [float(share) for share in found.values()]
    falls = shares[-1] < shares[0]
    return (Mark.OK if falls and shares[-1] < 1 else Mark.ODD if shares[-1] < 2 else Mark.BAD), text


@judged("peak over estimate")
def judge_peaks(found: Numbers) -> tuple[Mark, str]:
    """The estimate may be a quarter off; far above it a plan would not fit."""
    text = ", ".join(f"{phase} {float(value):.2f}" for phase, value in found.items())
    worst = max(map(float, found.values()))
    return (Mark.OK if worst < 1.25 else Mark.ODD if worst < 2 else Mark.BAD), text


@judged("seconds of an update by cache limit")
def judge_cache(found: Numbers) -> tuple[Mark, str]:
    """Whether a smaller cache of buffers costs time."""
    text = ", ".join(f"{size} GB: {float(s):.3f}" for size, s in found.items())
    times = [float(s) for s in found.values()]
    return (Mark.OK if max(times) < 1.5 * min(times) else Mark.ODD), text


def judge_display(name: str, found: Numbers) -> Row:
    """Whether the display's watchdog let the updates live."""
    text = f"{found.get('updates')} updates in {DISPLAY_S:.0f} s"
    return _unmeasured(name, found) or Row(name, Mark.OK, text, found)


def judge_adoption(found: Numbers) -> Row:
    """Taken over: completed by the attempt that the dead worker had started."""
    good = found == {"seen": True, "state": "completed", "attempts": 1, "exit_code": 0}
    text = f"{found['state']} in {found['attempts']} attempt(s)"
    return Row(ADOPTED, Mark.OK if good else Mark.BAD, text, found)
