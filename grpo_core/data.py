"""Rows -> prompts: which rows train, which are held out, and the token ids of each prompt.

Where rows come from (GSM8K, JSONL, Parquet, the hub, builtin/arithmetic) is `sources.py`'s
business, how one becomes text and ids `prompts.py`'s. Nothing here depends on the run's seed, so
runs of a sweep train and evaluate on the same rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from grpo_core.config import MLXGRPOConfig

Row = Mapping[str, Any]
Message = dict[str, Any]
Part = Literal["test", "confirm"]


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a data set; `line` names it in messages: `train.jsonl:17`."""

    index: int
    prompt: str | list[Message]
    answer: str
    row: Row
    line: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """An example as the model gets it: `text` and its `ids` end with the assistant prefix."""

    example: Example
    ids: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Data:
    """What one run trains and evaluates on.

    `train` stands in the order of its source; `test` and `train_eval` in a fixed random order.
    `dropped` counts training prompts over max_prompt_length; `fingerprint` is the SHA-256 of the
    rows; `notes` are lines that the user should see.
    """

    train: list[Prompt]
    test: list[Prompt]
    train_eval: list[Prompt]
    dropped: int
    fingerprint: str
    notes: tuple[str, ...] = ()


def load_data(cfg: MLXGRPOConfig, tokenizer: Any) -> Data:
    """The rows of a run as prompts; `tokenizer` is mlx-lm's TokenizerWrapper.

    Raises DataError where the rows cannot be had, are at fault, or none is left.
    """
    raise NotImplementedError


def held_out(cfg: MLXGRPOConfig, tokenizer: Any, part: Part) -> list[Prompt]:
    """Every held-out row of a part, in its fixed order; `confirm` rows are never among `test`.

    Raises DataError as `load_data`, or where the part has no rows.
    """
    raise NotImplementedError
