"""Which rows train and which are held out; a run's data as prompts.

`sources.py` reads the rows, `examples.py` checks them, `prompts.py` makes token ids of them. Every
choice follows a fixed order, a digest of the prompt: so runs of a sweep train and evaluate on the
same rows, whatever their seed. Held-out rows are in two parts that never meet: `test`, which a
sweep selects by, and `confirm`, which no selection sees.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grpo_core.config import MLXGRPOConfig
from grpo_core.data.columns import Keys, choose_columns
from grpo_core.data.examples import Example, row_notes, to_examples
from grpo_core.data.prompts import Prompt, make_prompts, template_notes
from grpo_core.data.sources import Source, read_source, read_with_test
from grpo_core.errors import DataError

# Without a test split: a tenth is held out, or more where eval_samples asks for it, up to a third.
HELD_OUT_SHARE = 10
HELD_OUT_MOST = 3
# What of all rows (a third of that tenth), or of a test split, is kept for `confirm`.
CONFIRM_SHARE = 30
CONFIRM_SHARE_OF_TEST = 4
# Fewer rows confirm nothing, and the test part needs them more.
CONFIRM_LEAST = 12


@dataclass(frozen=True, slots=True)
class Data:
    """What one run trains and evaluates on.

    `train` stands in the order of its source; `test` and `train_eval` in the fixed order, so that
    fewer rows are always the first of more. `dropped` counts training prompts over
    max_prompt_length; `fingerprint` is the SHA-256 of all rows; `notes` are lines for the user.
    """

    train: list[Prompt]
    test: list[Prompt]
    train_eval: list[Prompt]
    dropped: int
    fingerprint: str
    notes: tuple[str, ...] = ()


def load_data(cfg: MLXGRPOConfig, tokenizer: Any) -> Data:
    """The rows of a run as prompts; `tokenizer` is mlx-lm's TokenizerWrapper.

    `max_train_samples`, `eval_subset_size` and `eval_samples` choose first, then what is over
    max_prompt_length is dropped: so which rows count does not depend on the tokenizer. Raises
    DataError where the rows cannot be had, are at fault, or none is left to train on.
    """
    splits = _read_splits(cfg)
    n_train = cfg.max_train_samples or len(splits.train)
    needed = splits.train[: max(n_train, cfg.eval_subset_size)]
    test = _part(splits, cfg)[: cfg.eval_samples]
    prompts = make_prompts([*needed, *test], cfg, tokenizer)
    drawn, drawn_test = prompts[: len(needed)][:n_train], prompts[len(needed) :]
    train = _fitting(drawn, cfg.max_prompt_length)
    if not train:
        raise DataError(_none_fits(cfg, drawn))
    return Data(
        train=sorted(train, key=lambda prompt: prompt.example.index),
        test=_fitting(drawn_test, cfg.max_prompt_length),
        train_eval=_fitting(prompts[: len(needed)][: cfg.eval_subset_size], cfg.max_prompt_length),
        dropped=len(drawn) - len(train),
        fingerprint=splits.fingerprint,
        notes=(
            *splits.notes,
            *template_notes(needed[0], cfg, tokenizer),
            *_notes(cfg, drawn, drawn_test),
        ),
    )


def _part(splits: "_Splits", cfg: MLXGRPOConfig) -> list[Example]:
    """The held-out rows that a run evaluates on."""
    if cfg.eval_part == "confirm" and cfg.eval_samples and not splits.confirm:
        raise _too_few(cfg, cfg.eval_part)
    return splits.confirm if cfg.eval_part == "confirm" else splits.test


def _too_few(cfg: MLXGRPOConfig, part: str) -> DataError:
    return DataError(
        f"dataset {cfg.eval_dataset or cfg.dataset}: too few rows for the part {part!r}; "
        "give more held-out rows with eval_dataset"
    )


# -- lengths ----------------------------------------------------------------------------------


def _fitting(prompts: Sequence[Prompt], limit: int) -> list[Prompt]:
    return [prompt for prompt in prompts if len(prompt.ids) <= limit]


def _none_fits(cfg: MLXGRPOConfig, prompts: Sequence[Prompt]) -> str:
    shortest = min(prompts, key=lambda prompt: len(prompt.ids))
    return (
        f"dataset {cfg.dataset}: none of {len(prompts)} prompts fits max_prompt_length = "
        f"{cfg.max_prompt_length}; the shortest, {shortest.example.line}, has "
        f"{len(shortest.ids)} tokens"
    )


def _notes(cfg: MLXGRPOConfig, train: Sequence[Prompt], test: Sequence[Prompt]) -> list[str]:
    notes = []
    for kind, prompts in (("training", train), ("held-out", test)):
        dropped = len(prompts) - len(_fitting(prompts, cfg.max_prompt_length))
        if dropped:
            notes.append(
                f"{dropped} of {len(prompts)} {kind} prompts dropped: "
                f"longer than max_prompt_length = {cfg.max_prompt_length} tokens"
            )
    if len(test) < cfg.eval_samples:
        notes.append(f"eval_samples = {cfg.eval_samples}: there are {len(test)} held-out rows")
    return notes


# -- splits -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Splits:
    """The rows of a data set by their use, each list in the fixed order.

    That of the training rows runs backwards: so its first rows, which max_train_samples takes,
    stay the same however many rows are held out at the other end.
    """

    train: list[Example]
    test: list[Example]
    confirm: list[Example]
    fingerprint: str
    notes: tuple[str, ...] = ()


def _read_splits(cfg: MLXGRPOConfig) -> _Splits:
    train_source, test_source = _read_sources(cfg)
    train, notes = _examples(train_source, cfg)
    if test_source is None:
        splits = _hold_out(train, cfg.eval_samples)
    else:
        test, _ = _examples(test_source, cfg)
        splits = _divide(train, test)
    return replace(splits, notes=(*splits.notes, *notes))


def _examples(source: Source, cfg: MLXGRPOConfig) -> tuple[list[Example], list[str]]:
    """The examples of a source in the fixed order, and lines on how it was read."""
    keys, taken = choose_columns(source, Keys(cfg.prompt_key, cfg.answer_key, cfg.system_key))
    examples = _in_fixed_order(to_examples(source, keys))
    return examples, [*([taken] if taken else []), *row_notes(examples, keys)]


def _read_sources(cfg: MLXGRPOConfig) -> tuple[Source, Source | None]:
    if not cfg.eval_dataset:
        return read_with_test(cfg.dataset, cfg.dataset_config, cfg.dataset_split, cfg.eval_split)
    train = read_source(cfg.dataset, cfg.dataset_config, cfg.dataset_split)
    # A configuration is a repository's own: another one has others.
    config = cfg.dataset_config if cfg.eval_dataset == cfg.dataset else ""
    return train, read_source(cfg.eval_dataset, config, cfg.eval_split)


def _hold_out(rows: list[Example], eval_samples: int) -> _Splits:
    """Hold out the first rows of the fixed order, the very first of them for `confirm`.

    How many are kept for `confirm` depends on the data alone, so that a sweep with another
    eval_samples never trains on them or selects by them.
    """
    n_confirm = _cut(rows, _at_least(CONFIRM_LEAST, len(rows) // CONFIRM_SHARE))
    wanted = max(len(rows) // HELD_OUT_SHARE, n_confirm + eval_samples)
    n_held_out = _cut(rows, min(wanted, len(rows) // HELD_OUT_MOST))
    return _Splits(
        train=rows[n_held_out:][::-1],
        test=rows[n_confirm:n_held_out],
        confirm=rows[:n_confirm],
        fingerprint=_fingerprint(rows),
        notes=(f"no test split: {n_held_out} of {len(rows)} rows are held out",),
    )


def _divide(train: list[Example], held_out_rows: list[Example]) -> _Splits:
    """Keep the first of the held-out rows for `confirm`."""
    rows = held_out_rows
    n_confirm = _cut(rows, _at_least(CONFIRM_LEAST, len(rows) // CONFIRM_SHARE_OF_TEST))
    seen = {_rank(row) for row in train}
    overlap = sum(_rank(row) in seen for row in rows)
    note = f"{overlap} of {len(rows)} held-out prompts stand among the training rows too"
    return _Splits(
        train=train[::-1],
        test=rows[n_confirm:],
        confirm=rows[:n_confirm],
        fingerprint=_fingerprint([*train, *rows]),
        notes=(note,) if overlap else (),
    )


def _at_least(least: int, n: int) -> int:
    return n if n >= least else 0


def _cut(rows: Sequence[Example], n: int) -> int:
    """`n`, or fewer where equal prompts would come to stand on both sides of the cut."""
    while 0 < n < len(rows) and _rank(rows[n - 1]) == _rank(rows[n]):
        n -= 1
    return n


def _in_fixed_order(examples: Iterable[Example]) -> list[Example]:
    return sorted(examples, key=lambda example: (_rank(example), example.index))


def _rank(example: Example) -> bytes:
    """A digest of the prompt: a random order that is the same for every run and machine."""
    return hashlib.sha256(_canonical(example.prompt)).digest()


def _fingerprint(examples: Iterable[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(_canonical(example.row) + b"\n")
    return digest.hexdigest()


# Made once: json.dumps with options makes a new one for each of thousands of rows.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=str)


def _canonical(value: Any) -> bytes:
    """One text for equal values; what JSON does not know (dates, bytes) by its `str`."""
    return _ENCODER.encode(value).encode()
