"""The tables of a spec that say how: `[search]`, `[objective]`, `[stop]`, `[limits]`, `[retry]`.

`KEYS` says what each key can hold; the JSON Schema of a spec is made from it as well.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.errors import SpecError
from orchestrator.run import RETRYABLE, Limits, Objective, Retry, Search
from orchestrator.search.suggest import METHODS
from orchestrator.spec.document import Document
from orchestrator.spec.keys import Key, count, one_of, text_like
from orchestrator.stopping.health import HealthRule, health_pattern, parse_health
from orchestrator.stopping.rules import (
    RULES,
    SHARE_NUMBER,
    SHARE_TEXT,
    SHARE_WORDS,
    StopRule,
    parse_share,
)

# The keys of training_log.jsonl that can rank runs (docs/run-folder.md), beside reward/NAME
# and eval_reward/NAME.
METRICS = (
    "em",
    "eval_reward",
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
# A number above 0, of few enough digits that nothing is lost.
_ABOVE_0 = r"(?=[0-9.]*[1-9])[0-9]{1,9}(\.[0-9]{1,6})?"
_DURATION = text_like(
    rf"^{_ABOVE_0} ?[smhd]$", 'a time above 0, such as "90s", "45m", "1.5h" or "2d"'
)
_SIZE = text_like(rf"^{_ABOVE_0} ?[KMGT]B$", 'a size above 0, such as "500MB", "40GB" or "1.5TB"')

KEYS: Mapping[str, Mapping[str, Key]] = {
    "search": {
        "method": one_of(("grid", *METHODS), default=Search().method),
        "runs": count(1, description="how many settings"),
        "seed": count(default=Search().seed),
    },
    "objective": {
        "metric": Key(
            {
                "anyOf": [
                    {"type": "string", "enum": list(METRICS)},
                    {"type": "string", "pattern": "^(eval_)?reward/.+$"},
                ]
            },
            f"a key of the training log: {', '.join(METRICS)}, reward/NAME or eval_reward/NAME",
            METRICS,
        ),
        "goal": one_of(("max", "min"), "max or min", Objective().goal),
        "reduce": text_like(
            r"^(last|best|last:[1-9][0-9]{0,5})$",
            "last, best or last:N (the mean of the last N)",
            Objective().reduce,
        ),
    },
    "stop": {
        "rule": one_of(RULES, default=StopRule().rule),
        "warmup": Key({"anyOf": [SHARE_NUMBER, SHARE_TEXT], "default": "30%"}, SHARE_WORDS),
        "health": Key(
            {
                "type": "array",
                "items": {"type": "string", "pattern": health_pattern(METRICS)},
                "default": ["nan"],
            },
            "a list of texts",
        ),
    },
    "limits": {
        "max_failures": count(default=Limits().max_failures),
        "wall": _DURATION,
        "run_wall": _DURATION,
        "disk": _SIZE,
        "stall": _DURATION,
    },
    "retry": {
        "max": count(default=Retry().max),
        "on": Key(
            {"type": "array", "items": {"type": "string", "enum": [str(v) for v in RETRYABLE]}},
            f"a list out of {', '.join(RETRYABLE)}",
        ),
    },
    "keep": {
        "checkpoints": text_like(
            r"^(all|(best\+)?last(:[1-9][0-9]{0,5})?)$",
            "best+last, last, best+last:N, last:N or all",
        )
    },
}


def read_search(document: Document) -> Search:
    """`[search]`: method, runs, seed."""
    given = document.read("search", KEYS["search"])
    search = Search(**given)
    if search.method != "grid" and "runs" not in document.table("search"):
        document.faults.add(("search",), "needs runs: how many settings to try, such as 40")
    if search.method == "grid" and "method" in given and "seed" in document.table("search"):
        document.faults.add(("search", "seed"), "a grid draws nothing; drop it")
    return search


def read_stop(document: Document, search: Search) -> StopRule:
    """`[stop]`: rule, warmup, health."""
    # Of health rules the reader names the one that is wrong, and why.
    health = {**KEYS["stop"]["health"].schema, "items": {}}
    keys = {**KEYS["stop"], "health": replace(KEYS["stop"]["health"], schema=health)}
    given = document.read("stop", keys)
    if given.get("rule") == "halving" and search.method == "tpe":
        words = "halving compares settings that are known from the start; tpe chooses later ones"
        document.faults.add(("stop", "rule"), words)
    if "warmup" in given:
        given["warmup"] = parse_share(given["warmup"])
    if "health" in given:
        given["health"] = tuple(_read_health(document, given["health"]))
    return StopRule(**given)


def _read_health(document: Document, texts: Sequence[Any]) -> Iterator[HealthRule]:
    for index, given in enumerate(texts):
        try:
            if not isinstance(given, str):
                raise SpecError(f"{given!r}: must be text, such as 'nan'")
            yield parse_health(given, METRICS)
        except SpecError as e:
            document.faults.add(("stop", "health", index), e.faults[0], " = ")


def read_keep(document: Document) -> dict[str, Any]:
    """`[keep] checkpoints` as the config fields that do it; empty: the trainer's own rule."""
    rule = document.read("keep", KEYS["keep"]).get("checkpoints")
    if rule is None:
        return {}
    if rule == "all":
        return {"save_total_limit": 0}
    newest = int(rule.partition(":")[2] or 1)
    return {"save_best": rule.startswith("best+"), "save_total_limit": newest}


def read_objective(document: Document, metric: str) -> Objective:
    """`[objective]`: metric, goal, reduce; without a metric of its own that of the base."""
    return Objective(**{"metric": metric, **document.read("objective", KEYS["objective"])})


def read_limits(document: Document) -> Limits:
    """`[limits]`: max_failures, wall, run_wall, disk, stall."""
    given = document.read("limits", KEYS["limits"])
    default = Limits()
    return Limits(
        max_failures=given.get("max_failures", default.max_failures),
        wall_s=duration_s(given["wall"]) if "wall" in given else default.wall_s,
        run_wall_s=duration_s(given["run_wall"]) if "run_wall" in given else default.run_wall_s,
        disk_bytes=size_bytes(given["disk"]) if "disk" in given else default.disk_bytes,
        stall_s=duration_s(given["stall"]) if "stall" in given else default.stall_s,
    )


def read_retry(document: Document) -> Retry:
    """`[retry]`: max, on."""
    given = document.read("retry", KEYS["retry"])
    if "on" in given:
        given["on"] = tuple(given["on"])
    return Retry(**given)


def duration_s(text: str) -> float:
    """The seconds in `90s`, `45m`, `1.5h` or `2d`."""
    return float(text[:-1]) * _UNITS_S[text[-1]]


def size_bytes(text: str) -> int:
    """The bytes in `500MB`, `40GB` or `1.5TB`, decimal as disks are sold."""
    return round(float(text[:-2]) * _UNITS_BYTES[text[-2:]])
