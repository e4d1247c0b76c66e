"""The tables of a spec that say how: `[search]`, `[objective]`, `[stop]`, `[limits]`, `[retry]`."""

import re
from typing import Any

from grpo_core.config import did_you_mean
from orchestrator.errors import SpecError
from orchestrator.run import RETRYABLE, Limits, Objective, Retry, Search
from orchestrator.search.suggest import METHODS
from orchestrator.spec.document import MISSING, Document
from orchestrator.stopping.health import HealthRule, parse_health
from orchestrator.stopping.rules import RULES, StopRule, parse_share

# The keys of training_log.jsonl that can rank runs (docs/run-folder.md), beside reward/NAME.
METRICS = (
    "em",
    "loss",
    "grad_norm",
    "policy_reward",
    "kl",
    "reward_mean",
    "reward_std",
    "completion_length",
    "truncated_frac",
    "frac_reward_zero_std",
    "entropy",
    "clip_frac",
    "tokens_per_s",
    "rollout_s",
    "update_s",
    "peak_bytes",
)

_UNITS_BYTES = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def read_search(document: Document) -> Search:
    """`[search]`: method, runs, seed."""
    values = document.known("search", ("method", "runs", "seed"))
    default = Search()
    method = document.checked("search", values, "method", _check_method)
    runs = document.checked("search", values, "runs", _check_some)
    seed = document.checked("search", values, "seed", _check_count)
    search = Search(
        method=default.method if method is MISSING else method,
        runs=default.runs if runs is MISSING else runs,
        seed=default.seed if seed is MISSING else seed,
    )
    if search.method != "grid" and "runs" not in values:
        document.faults.add(("search",), "needs runs: how many settings to try, such as 40")
    if search.method == "grid" and method is not MISSING and "seed" in values:
        document.faults.add(("search", "seed"), "a grid draws nothing; drop it")
    return search


def read_stop(document: Document, search: Search) -> StopRule:
    """`[stop]`: rule, warmup, health."""
    values = document.known("stop", ("rule", "warmup", "health"))
    default = StopRule()
    rule = document.checked("stop", values, "rule", _check_rule)
    if rule == "halving" and search.method == "tpe":
        words = "halving compares settings that are known from the start; tpe chooses later ones"
        document.faults.add(("stop", "rule"), words)
    return StopRule(
        rule=default.rule if rule is MISSING else rule,
        warmup=_read_share(document, values, default.warmup),
        health=_read_health(document, values, default.health),
    )


def _read_share(document: Document, values: dict[str, Any], default: float) -> float:
    try:
        return parse_share(values["warmup"]) if "warmup" in values else default
    except SpecError as e:
        document.faults.add(("stop", "warmup"), e.faults[0], " = ")
        return default


def _read_health(
    document: Document, values: dict[str, Any], default: tuple[HealthRule, ...]
) -> tuple[HealthRule, ...]:
    given = values.get("health", MISSING)
    if given is MISSING:
        return default
    if not isinstance(given, list):
        document.faults.add(("stop", "health"), f"{given!r}: must be a list of texts", " = ")
        return default
    rules = []
    for index, text in enumerate(given):
        try:
            if not isinstance(text, str):
                raise SpecError(f"{text!r}: must be text, such as 'nan'")
            rules.append(parse_health(text, METRICS))
        except SpecError as e:
            document.faults.add(("stop", "health", index), e.faults[0], " = ")
    return tuple(rules)


def read_keep(document: Document) -> dict[str, Any]:
    """`[keep] checkpoints` as the config fields that do it; empty: the trainer's own rule."""
    values = document.known("keep", ("checkpoints",))
    rule = document.checked("keep", values, "checkpoints", _check_keep)
    if rule is MISSING:
        return {}
    if rule == "all":
        return {"save_total_limit": 0}
    newest = int(rule.partition(":")[2] or 1)
    return {"save_best": rule.startswith("best+"), "save_total_limit": newest}


def read_objective(document: Document) -> Objective:
    """`[objective]`: metric, goal, reduce."""
    values = document.known("objective", ("metric", "goal", "reduce"))
    checks = {"metric": _check_metric, "goal": _check_goal, "reduce": _check_reduce}
    found = {
        name: document.checked("objective", values, name, check) for name, check in checks.items()
    }
    return Objective(**{name: value for name, value in found.items() if value is not MISSING})


def read_limits(document: Document) -> Limits:
    """`[limits]`: max_failures, wall, run_wall, disk."""
    values = document.known("limits", ("max_failures", "wall", "run_wall", "disk"))
    default = Limits()
    count = document.checked("limits", values, "max_failures", _check_count)
    wall = document.checked("limits", values, "wall", _check_duration)
    run_wall = document.checked("limits", values, "run_wall", _check_duration)
    disk = document.checked("limits", values, "disk", _check_size)
    return Limits(
        max_failures=default.max_failures if count is MISSING else count,
        wall_s=default.wall_s if wall is MISSING else duration_s(wall),
        run_wall_s=default.run_wall_s if run_wall is MISSING else duration_s(run_wall),
        disk_bytes=default.disk_bytes if disk is MISSING else size_bytes(disk),
    )


def read_retry(document: Document) -> Retry:
    """`[retry]`: max, on."""
    values = document.known("retry", ("max", "on"))
    most = document.checked("retry", values, "max", _check_count)
    causes = document.checked("retry", values, "on", _check_causes)
    default = Retry()
    return Retry(
        max=default.max if most is MISSING else most,
        on=default.on if causes is MISSING else tuple(causes),
    )


def duration_s(text: str) -> float:
    """The seconds in `90s`, `45m`, `1.5h` or `2d`; ValueError."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?) ?([smhd])", text)
    if found is None or float(found[1]) == 0:
        raise ValueError(text)
    return float(found[1]) * _UNITS_S[found[2]]


def size_bytes(text: str) -> int:
    """The bytes in `500MB`, `40GB` or `1.5TB`, decimal as disks are sold; ValueError."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?) ?([KMGT]B)", text)
    if found is None or float(found[1]) == 0:
        raise ValueError(text)
    return round(float(found[1]) * _UNITS_BYTES[found[2]])


def _check_method(value: Any) -> str:
    methods = ("grid", *METHODS)
    near = did_you_mean(value, methods) if isinstance(value, str) else ""
    return "" if value in methods else f"one of {', '.join(methods)}{near}"


def _check_rule(value: Any) -> str:
    near = did_you_mean(value, RULES) if isinstance(value, str) else ""
    return "" if value in RULES else f"one of {', '.join(RULES)}{near}"


def _check_keep(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"all|(best\+)?last(:[1-9][0-9]{0,5})?", value):
        return ""
    return "best+last, last, best+last:N, last:N or all"


def _check_metric(value: Any) -> str:
    if isinstance(value, str) and (value in METRICS or value.startswith("reward/")):
        return ""
    near = did_you_mean(value, METRICS) if isinstance(value, str) else ""
    return f"a key of the training log: {', '.join(METRICS)} or reward/NAME{near}"


def _check_goal(value: Any) -> str:
    return "" if value in ("max", "min") else "max or min"


def _check_reduce(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"last|best|last:[1-9][0-9]{0,5}", value):
        return ""
    return "last, best or last:N (the mean of the last N)"


def _check_count(value: Any) -> str:
    return "" if type(value) is int and value >= 0 else "a whole number, 0 or more"


def _check_some(value: Any) -> str:
    return "" if type(value) is int and value >= 1 else "a whole number, 1 or more"


def _check_causes(value: Any) -> str:
    if isinstance(value, list) and all(item in tuple(RETRYABLE) for item in value):
        return ""
    return f"a list out of {', '.join(RETRYABLE)}"


def _check_duration(value: Any) -> str:
    try:
        duration_s(value)
    except (TypeError, ValueError):
        return 'a time above 0, such as "90s", "45m", "1.5h" or "2d"'
    return ""


def _check_size(value: Any) -> str:
    try:
        size_bytes(value)
    except (TypeError, ValueError):
        return 'a size above 0, such as "500MB", "40GB" or "1.5TB"'
    return ""
