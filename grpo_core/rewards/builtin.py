"""Text -> float: the built-in rewards, and all of a run's rewards as one call.

The built-ins are MLX-GRPO's (and before it those of the "GSM8K demo" that most GRPO code starts
from) with its weights: 2 for a correct answer, up to 0.5 for each of int, strict_format,
soft_format and xmlcount. Ours differ where theirs could not be earned: the text that is judged
begins with the assistant prefix, what a model thinks before it is left out, reasoning may have
several lines, and a line feed at the very end changes nothing. What counts as the right answer
stands in `answers.py`, the user's own functions run in `plugins.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from grpo_core.config import MLXGRPOConfig, did_you_mean
from grpo_core.data.answers import CLOSE, OPEN, TAGS, extract_answer, is_correct, is_whole_number
from grpo_core.data.examples import Example
from grpo_core.data.prompts import Prompt, conversation
from grpo_core.data.thinking import answer_of
from grpo_core.errors import RewardError
from grpo_core.rewards.plugins import Plugin, PluginFault, Value

__all__ = ["BUILTINS", "Rewards", "combine", "is_correct", "load_rewards"]

# -- built-in rewards: (text, reference answer) -> float ----------------------------------------


def correctness(text: str, answer: str) -> float:
    """2 for the right answer between the last answer tags, else 0."""
    return 2.0 if is_correct(text, answer) else 0.0


def whole_number(text: str, answer: str) -> float:
    """0.5 for an answer that is written as a whole number, right or wrong."""
    given = extract_answer(text)
    return 0.5 if given is not None and is_whole_number(given) else 0.0


def strict_format(text: str, answer: str) -> float:
    """0.5 where the four tags stand once each, on lines of their own, with nothing around them."""
    lines = text.removesuffix("\n").split("\n")
    if not _once_each(text) or lines[0] != TAGS[0] or lines[-1] != CLOSE:
        return 0.0
    if "</reasoning>" not in lines:
        return 0.0
    middle = lines.index("</reasoning>")
    reasoning, given = lines[1:middle], lines[middle + 2 : -1]
    is_laid_out = lines[middle + 1] == OPEN and _has_text(reasoning) and _has_text(given)
    return 0.5 if is_laid_out else 0.0


def soft_format(text: str, answer: str) -> float:
    """0.5 where a reasoning block and then an answer block open the text, however spaced."""
    reasoning, end, rest = text.lstrip().partition("</reasoning>")
    given, close, _ = rest.lstrip().partition(CLOSE)
    opens = reasoning.startswith("<reasoning>") and given.startswith(OPEN)
    return 0.5 if end and close and opens else 0.0


def xmlcount(text: str, answer: str) -> float:
    """0.125 for each tag that stands once and on its line, less 0.001 a character after the end.

    Never below 0: a long tail must not make an answer worse than no format at all.
    """
    laid_out = ("<reasoning>\n", "\n</reasoning>\n", "\n<answer>\n", "\n</answer>")
    pairs = zip(TAGS, laid_out, strict=True)
    found = sum(text.count(tag) == 1 and form in text for tag, form in pairs)
    tail = text.rpartition(CLOSE)[2].strip() if CLOSE in text else ""
    return max(0.0, 0.125 * found - 0.001 * len(tail))


def answer_block(text: str, answer: str) -> float:
    """0.5 where one answer block ends the text: for tasks that need no reasoning."""
    once = text.count(OPEN) == 1 and text.count(CLOSE) == 1
    is_filled = bool(extract_answer(text))
    return 0.5 if once and is_filled and text.strip().endswith(CLOSE) else 0.0


def _once_each(text: str) -> bool:
    return all(text.count(tag) == 1 for tag in TAGS)


def _has_text(lines: Sequence[str]) -> bool:
    return any(line.strip() for line in lines)


Builtin = Callable[[str, str], float]

BUILTINS: dict[str, Builtin] = {
    "correctness": correctness,
    "int": whole_number,
    "strict_format": strict_format,
    "soft_format": soft_format,
    "xmlcount": xmlcount,
    "answer_block": answer_block,
}


# -- all rewards of a run -----------------------------------------------------------------------

LARGEST = 1e15
"""Rewards beyond it are refused: beside them smaller ones are lost, and their squares overflow."""

# What Python says where a text is taken for a chat message.
_TAKEN_FOR_MESSAGES = "string indices must be integers"


@dataclass(frozen=True, slots=True)
class ExampleCompletions:
    """The completions of one example: their texts as rewards get them, and their ids."""

    example: Example
    texts: list[str]
    ids: list[list[int]]

    def arguments(self, cfg: MLXGRPOConfig) -> dict[str, Any]:
        """What a plug-in gets, by name, as TRL calls it; `completion_format` says texts or chats.

        Every column of the row comes as a list, one item for each completion; our own names win.
        """
        n = len(self.texts)
        columns = {name: [value] * n for name, value in self.example.row.items()}
        prompt: Any = self.example.prompt
        completions: list[Any] = self.texts
        if cfg.completion_format == "messages":
            prompt = conversation(self.example, cfg.system_prompt)
            completions = [[{"role": "assistant", "content": text}] for text in self.texts]
        answer = self.example.answer
        return {
            **columns,
            "prompts": [prompt] * n,
            "completions": completions,
            "completion_ids": self.ids,
            **({} if answer is None else {"answers": [answer] * n}),
        }


class Rewards:
    """A run's rewards and their weights [R]; a context manager, since plug-ins own a process.

    A plug-in is called once for each example, with all of its completions: so the row at fault is
    always known, and what it returns does not depend on how the run is batched.
    """

    def __init__(
        self,
        rewards: Mapping[str, Builtin | Plugin],
        cfg: MLXGRPOConfig,
    ) -> None:
        self.names = list(rewards)
        self.weights = np.array(cfg.reward_weights or [1.0] * len(rewards))
        self._rewards = dict(rewards)
        self._cfg = cfg

    def __call__(
        self,
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        examples: Sequence[Example],
        should_stop: Callable[[], bool] = lambda: False,
    ) -> np.ndarray:
        """Rewards [R, N] in float64, NaN where one is missing; `of_groups` calls it for prompts.

        `completions` are texts that begin as their prompts' `opening` says; those of one example
        stand side by side. Raises RewardError with the row at fault, and Interrupted soon after
        `should_stop()`.
        """
        groups = list(self._groups(completions, completion_ids, examples))
        values = [
            [value for group in groups for value in self._score(name, group, should_stop)]
            for name in self.names
        ]
        return np.array(values, dtype=np.float64).reshape(len(self.names), len(completions))

    def of_groups(
        self,
        prompts: Sequence[Prompt],
        texts: Sequence[Sequence[str]],
        ids: Sequence[Sequence[Sequence[int]]],
        should_stop: Callable[[], bool] = lambda: False,
    ) -> np.ndarray:
        """Rewards [R, N] of what was written to each prompt, with the prompt's opening before it.

        `texts` and `ids` are those of each prompt's completions. Raises as a call does.
        """
        pairs = list(zip(prompts, texts, strict=True))
        return self(
            [prompt.opening + text for prompt, written in pairs for text in written],
            [tokens for group in ids for tokens in group],
            [prompt.example for prompt, written in pairs for _ in written],
            should_stop,
        )

    def check(self, example: Example) -> None:
        """RewardError where a plug-in wants what rows like this one do not have."""
        for reward in self._rewards.values():
            if isinstance(reward, Plugin):
                reward.check(ExampleCompletions(example, [], []).arguments(self._cfg))

    def close(self) -> None:
        """End the processes of plug-ins."""
        for reward in self._rewards.values():
            if isinstance(reward, Plugin):
                reward.close()

    def __enter__(self) -> Rewards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _groups(
        self,
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        examples: Sequence[Example],
    ) -> Iterator[ExampleCompletions]:
        rows = zip(completions, completion_ids, examples, strict=True)
        for _, group in groupby(rows, key=lambda row: row[2].line):
            texts, ids, same = zip(*group, strict=True)
            yield ExampleCompletions(same[0], list(texts), [list(i) for i in ids])

    def _score(
        self, name: str, group: ExampleCompletions, should_stop: Callable[[], bool]
    ) -> list[float]:
        reward = self._rewards[name]
        if not isinstance(reward, Plugin):
            # Without reference answers only rewards that look at none are allowed.
            wanted = group.example.answer or ""
            return [reward(answer_of(text), wanted) for text in group.texts]
        try:
            values = reward(group.arguments(self._cfg), should_stop)
            return [
                self._number(name, group, i, v) for i, v in enumerate(_of_length(values, group))
            ]
        except PluginFault as e:
            hint = ""
            if _TAKEN_FOR_MESSAGES in str(e) and self._cfg.completion_format == "text":
                hint = '; completion_format = "messages" gives it chats, completion[0]["content"]'
            self._missing_or_raise(name, group, f"{e}{hint}")
            return [math.nan] * len(group.texts)

    def _number(self, name: str, group: ExampleCompletions, i: int, value: Value) -> float:
        """A plug-in's value as a reward; None is missing, as in TRL."""
        if value is None:
            return math.nan
        if isinstance(value, float) and abs(value) <= LARGEST:
            return value
        shown = value["bad"] if isinstance(value, dict) else value
        where = f"for completion {i + 1} of {len(group.texts)}"
        is_large = isinstance(value, float) and math.isfinite(value)
        fault = f"beyond what can be averaged ({LARGEST:g})" if is_large else "not a finite number"
        self._missing_or_raise(name, group, f"returned {shown} {where}, {fault}")
        return math.nan

    def _missing_or_raise(self, name: str, group: ExampleCompletions, fault: str) -> None:
        if self._cfg.reward_on_error != "nan":
            raise RewardError(
                f"reward {name!r}: {fault}; on row {group.example.line} "
                '(reward_on_error = "nan" counts such rewards as missing)'
            )


def _of_length(values: list[Value], group: ExampleCompletions) -> list[Value]:
    if len(values) != len(group.texts):
        raise PluginFault(f"returned {len(values)} values for {len(group.texts)} completions")
    return values


def load_rewards(cfg: MLXGRPOConfig) -> Rewards:
    """The rewards that `cfg` names; RewardError where one is unknown or cannot be loaded."""
    rewards: dict[str, Builtin | Plugin] = {}
    try:
        for name in cfg.rewards:
            rewards[name] = _load(name, cfg)
    except BaseException:  # a stop as well: no process of a plug-in outlives this
        Rewards(rewards, cfg).close()
        raise
    return Rewards(rewards, cfg)


def load_eval_rewards(cfg: MLXGRPOConfig) -> Rewards:
    """What `cfg` scores held-out rows by, if not by its rewards. Raises RewardError."""
    return load_rewards(
        replace(cfg, rewards=cfg.eval_rewards, reward_weights=cfg.eval_reward_weights)
    )


def _load(name: str, cfg: MLXGRPOConfig) -> Builtin | Plugin:
    if name in BUILTINS:
        return BUILTINS[name]
    if ":" in name:
        return Plugin(name, cfg.reward_timeout_s, cfg.reward_load_timeout_s)
    raise RewardError(
        f"reward {name!r}: unknown; there are {', '.join(BUILTINS)}, file.py:function and "
        f"package.module:function{did_you_mean(name, BUILTINS)}"
    )


def known_mean(values: np.ndarray) -> float:
    """The mean of the rewards that are there; NaN where none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def combine(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sum of rewards [R, N] by weights [R] -> [N]; NaN only where all are missing.

    A reward of weight 0 is a metric: it makes up for none that is missing.
    """
    total: np.ndarray = np.nansum(values * weights[:, None], axis=0)
    return np.where(np.isnan(values[weights != 0]).all(axis=0), np.nan, total)
