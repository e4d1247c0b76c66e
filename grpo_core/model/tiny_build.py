"""`python -m grpo_core.model.tiny_build build DIR`: makes the embedded model again from nothing.

Its tokenizer, and its weights by supervised training on the lessons of `arithmetic.py`. The shipped
files, which nothing but this makes, are found by `tiny.py`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten
from mlx_lm.models import qwen2
from tokenizers import AddedToken, Tokenizer, decoders, models, trainers
from tokenizers.pre_tokenizers import ByteLevel, Digits
from tokenizers.pre_tokenizers import Sequence as Both

from grpo_core.data.answers import TAGS
from grpo_core.data.arithmetic import arithmetic_rows, lessons
from grpo_core.errors import ConfigError, GRPOError
from grpo_core.run.atomic import new_folder

MAX_POSITIONS = 4096

# The shipped weights were made with mlx-cpu 0.32.4 on x86-64 over OpenBLAS 0.3.21, one thread, in
# 15 minutes; the reference BLAS in mlx-cpu's wheel takes two hours and ends with other bytes.
BUILD_SEED = 0
BUILD_STEPS = 5000
BUILD_BATCH = 64  # lessons
BUILD_WARMUP = 100  # steps
BUILD_LEARNING_RATE = 4e-3


# -- the tokenizer ----------------------------------------------------------------------------

PAD, START, END = SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MAX_VOCAB = 500

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


def chat_prompt(question: str) -> str:
    """What the chat template makes of one question, without a system message."""
    return f"{START}user\n{question}{END}\n{START}assistant\n"


def build_tokenizer() -> Tokenizer:
    """A byte-level BPE trained on the task's own texts: it encodes any text and loses none.

    A digit is a token, and so is each tag.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = Both(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCAB - len(SPECIAL) - len(TAGS),
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_words(), trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    # Not special, so that they survive `decode(skip_special_tokens=True)`.
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in TAGS])
    return tokenizer


def _words() -> list[str]:
    questions = [row["question"] for row in arithmetic_rows("train")]
    return [*questions, *["system\n", "user\n", "assistant\n"] * len(questions)]


def _token_id(tokenizer: Tokenizer, token: str) -> int:
    return tokenizer.get_vocab()[token]


# -- the model --------------------------------------------------------------------------------


def build_model(tokenizer: Tokenizer, seed: int, steps: int) -> nn.Module:
    """A new model after `steps` batches of lessons."""
    mx.random.seed(seed)
    model = qwen2.Model(qwen2.ModelArgs.from_dict(_model_config(tokenizer)))
    optimizer = optim.AdamW(BUILD_LEARNING_RATE, weight_decay=0.01, bias_correction=True)
    loss_and_grad = nn.value_and_grad(model, lesson_loss)
    batches = lesson_batches(tokenizer, lessons(seed), seed)
    for step, batch in enumerate(islice(batches, steps), start=1):
        optimizer.learning_rate = _learning_rate(step, steps)
        loss, grads = loss_and_grad(model, *(mx.array(part) for part in batch))
        optimizer.update(model, grads)
        mx.eval(model.parameters(), optimizer.state)
        if step % 100 == 0 or step == steps:
            print(f"[tiny] step {step}/{steps} loss {loss.item():.4f}", file=sys.stderr, flush=True)
    return model


def _learning_rate(step: int, steps: int) -> float:
    """A linear warm-up, then half a cosine; `step` counts from 1."""
    warmup = min(BUILD_WARMUP, steps)
    if step <= warmup:
        return BUILD_LEARNING_RATE * step / warmup
    progress = (step - warmup) / (steps - warmup + 1)
    return BUILD_LEARNING_RATE * (1 + math.cos(math.pi * progress)) / 2


def lesson_loss(model: nn.Module, ids: mx.array, where: mx.array, mask: mx.array) -> mx.array:
    """Mean cross-entropy over the answers' tokens.

    `ids` [B, T]; `where` [B, C] holds the positions that predict an answer's token, and `mask`
    [B, C] is 0 where a shorter answer left room. The head sees these positions only: on the CPU
    it is the dearest layer.
    """
    hidden = mx.take_along_axis(model.model(ids), where[..., None], axis=1)
    logits = model.model.embed_tokens.as_linear(hidden)
    losses = nn.losses.cross_entropy(logits, mx.take_along_axis(ids, where + 1, axis=1))
    return mx.sum(losses * mask) / mx.sum(mask)


TokenIds = list[int]
LessonBatch = tuple[list[TokenIds], list[TokenIds], list[TokenIds]]


def lesson_batches(
    tokenizer: Tokenizer, source: Iterator[tuple[str, str]], seed: int
) -> Iterator[LessonBatch]:
    """Batches for `lesson_loss`; lessons of like length stand together, to save padding."""
    draw = random.Random(seed)
    pad = _token_id(tokenizer, PAD)
    while True:
        drawn = list(islice(source, 8 * BUILD_BATCH))
        prompts = tokenizer.encode_batch([chat_prompt(question) for question, _ in drawn])
        answers = tokenizer.encode_batch([answer + END for _, answer in drawn])
        pairs = [(p.ids, a.ids) for p, a in zip(prompts, answers, strict=True)]
        pairs.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
        for start in sorted(range(0, len(pairs), BUILD_BATCH), key=lambda _: draw.random()):
            yield _pad(pairs[start : start + BUILD_BATCH], pad)


def _pad(pairs: Sequence[tuple[TokenIds, TokenIds]], pad: int) -> LessonBatch:
    """Prompts and answers -> `ids`, `where` and `mask` of `lesson_loss`."""
    width = max(len(prompt) + len(answer) for prompt, answer in pairs)
    longest = max(len(answer) for _, answer in pairs)
    ids, where, mask = [], [], []
    for prompt, answer in pairs:
        first, room = len(prompt) - 1, longest - len(answer)
        ids.append(prompt + answer + [pad] * (width - len(prompt) - len(answer)))
        where.append([*range(first, first + len(answer)), *[0] * room])
        mask.append([1] * len(answer) + [0] * room)
    return ids, where, mask


# -- the folder -------------------------------------------------------------------------------


def build(folder: Path, seed: int = BUILD_SEED, steps: int = BUILD_STEPS) -> None:
    """Makes tokenizer and model, and puts the whole folder in place at the end.

    The same seed gives the same bytes on the same MLX backend. Raises ConfigError before any work
    if `folder` is there already.
    """
    if folder.exists():
        raise ConfigError(f"{folder}: is there already; name a folder that is not")
    with new_folder(folder) as beside:
        tokenizer = build_tokenizer()
        save_model(beside, tokenizer, build_model(tokenizer, seed, steps))


def save_model(folder: Path, tokenizer: Tokenizer, model: nn.Module) -> None:
    """The files of a model of this shape, as `mlx_lm.load` reads them."""
    texts = {
        "config.json": json.dumps(_model_config(tokenizer), indent=2),
        "tokenizer.json": tokenizer.to_str(pretty=True),
        "tokenizer_config.json": json.dumps(_tokenizer_config(), indent=2),
    }
    for name, text in texts.items():
        (folder / name).write_text(text + "\n", encoding="utf-8")
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})


def _model_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """Every input width is a multiple of 64, so that 4-bit quantisation works on each layer."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": MAX_POSITIONS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "vocab_size": tokenizer.get_vocab_size(),
        "eos_token_id": _token_id(tokenizer, END),
        "torch_dtype": "float32",
    }


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_POSITIONS,
        "eos_token": END,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


# -- the command ------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m grpo_core.model.tiny_build build DIR`; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m grpo_core.model.tiny_build")
    command = parser.add_subparsers(required=True).add_parser("build", help="make the model anew")
    command.add_argument("folder", type=Path, metavar="DIR", help="a folder that is not there yet")
    command.add_argument("--seed", type=_at_least(0), default=BUILD_SEED)
    command.add_argument("--steps", type=_at_least(1), default=BUILD_STEPS, help="lesson batches")
    args = parser.parse_args(argv)
    try:
        _build_or_explain(args.folder, args.seed, args.steps)
    except GRPOError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _build_or_explain(folder: Path, seed: int, steps: int) -> None:
    try:
        build(folder, seed, steps)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror}") from error


def _at_least(minimum: int) -> Callable[[str], int]:
    """A parser of whole numbers from `minimum` up, for argparse."""

    def number(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{text}: must be at least {minimum}")
        return value

    return number


if __name__ == "__main__":
    sys.exit(main())
