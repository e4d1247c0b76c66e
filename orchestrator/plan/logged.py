"""What a run never logs: an objective or a health rule on it would wait for ever; pure."""

from collections.abc import Sequence

from grpo_core.config import MLXGRPOConfig, did_you_mean
from grpo_core.run.protocol import INTERVALS
from orchestrator.plan.runs import PlannedSetting, setting_config
from orchestrator.spec.document import Faults
from orchestrator.spec.positions import KeyPath
from orchestrator.spec.spec import Spec

_EVALUATION = ("eval_steps", "eval_samples")
_NEEDS_VALUES = "chooses by it; set the field, or name another metric under [objective]"


def never_logged(metric: str, config: MLXGRPOConfig) -> str:
    """Why a run of this configuration logs no such metric, or always 0; empty where it may."""
    if metric in INTERVALS or metric.startswith("eval_reward/"):
        return _never_evaluated(metric, config)
    if metric == "kl" and config.kl_coeff == 0:
        return "kl is logged as 0 with kl_coeff = 0"
    if metric.startswith("reward/"):
        known = [*config.rewards, *(["overlong"] if config.overlong_buffer else [])]
        return _no_such_reward(metric.removeprefix("reward/"), known)
    return ""


def _never_evaluated(metric: str, config: MLXGRPOConfig) -> str:
    off = next((key for key in _EVALUATION if getattr(config, key) == 0), "")
    if off:
        return f"{metric} is not evaluated with {off} = 0"
    if metric == "em" and not config.answer_key:
        return "em is not evaluated without reference answers (answer_key is empty)"
    if metric in INTERVALS:
        return ""
    known = config.eval_rewards or config.rewards
    return _no_such_reward(metric.removeprefix("eval_reward/"), known)


def _no_such_reward(name: str, known: Sequence[str]) -> str:
    if name in known:
        return ""
    near = did_you_mean(name, known) or f"; there are {', '.join(known)}"
    return f"no run has a reward {name!r}{near}"


def check_logged(spec: Spec, settings: Sequence[PlannedSetting], faults: Faults) -> None:
    """Faults for an objective that a setting never logs, and health rules that none does."""
    configs = [setting_config(spec, setting) for setting in settings]
    if spec.search.method != "grid":
        # What is drawn later is as the base, but for the parameters.
        fixed = {key: value for key, value in spec.fixed.items() if key != "seed"}
        configs.append(setting_config(spec, PlannedSetting(fixed, None, (), ())))
    drawn = {name for parameter in spec.parameters for name in parameter.names}
    _check_objective(spec, configs, drawn, faults)
    for index, rule in enumerate(spec.stop.health):
        told = [never_logged(rule.metric, config) for config in configs]
        if all(told) and not _decided_by(rule.metric) & drawn:
            text = f"{str(rule)!r}: {told[0]}, so it never ends a run"
            faults.add(("stop", "health", index), text, " = ")


def _check_objective(
    spec: Spec, configs: Sequence[MLXGRPOConfig], drawn: set[str], faults: Faults
) -> None:
    """Only where somebody asks for it: a grid may train without any evaluation."""
    metric = spec.objective.metric
    asks: dict[KeyPath, bool] = {
        ("objective", "metric"): ("objective", "metric") in faults.positions,
        ("search", "method"): spec.search.method == "tpe",
        ("stop", "rule"): spec.stop.rule != "none",
    }
    place = next((path for path, does in asks.items() if does), None)
    told = [why for config in configs if (why := never_logged(metric, config))]
    if place is None or not told or (spec.search.method != "grid" and _decided_by(metric) & drawn):
        return
    share = "" if len(told) == len(configs) else f" (in {len(told)} of {len(configs)} settings)"
    if place[0] == "objective":
        faults.add(place, f"{metric!r}: {told[0]}{share}", " = ")
    else:
        by = spec.search.method if place[0] == "search" else spec.stop.rule
        faults.add(place, f"{by!r}: {told[0]}, and {by} {_NEEDS_VALUES}{share}", " = ")


def _decided_by(metric: str) -> set[str]:
    """The fields that decide whether a metric is logged."""
    if metric.startswith("reward/"):
        return {"rewards", "overlong_buffer"}
    if metric.startswith("eval_reward"):
        return {*_EVALUATION, "rewards", "eval_rewards"}
    return {"em": {*_EVALUATION, "answer_key"}, "kl": {"kl_coeff"}}.get(metric, set())
