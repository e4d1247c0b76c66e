"""Which tokens end a completion: the model's end tokens, and what closes a turn of its template.

Many fine-tunes keep the base's end token (`<|endoftext|>`) under a template that closes turns with
another one (`<|im_end|>`): such a model writes on into turns that nobody asked for.
"""

from dataclasses import dataclass
from typing import Any

from grpo_core.config.fields import MLXGRPOConfig

_ANSWER = "The answer is 42."


@dataclass(frozen=True, slots=True)
class EndTokens:
    """Ids that end a completion, and lines for the user about them."""

    ids: frozenset[int]
    notes: tuple[str, ...] = ()


def end_tokens(tokenizer: Any, cfg: MLXGRPOConfig) -> EndTokens:
    """The end tokens of a run; `tokenizer` is mlx-lm's TokenizerWrapper."""
    own = frozenset(int(i) for i in tokenizer.eos_token_ids)
    closing = _closing_token(tokenizer)
    if closing is not None and closing not in own:
        text = tokenizer.convert_ids_to_tokens(closing)
        # A config.json may name an end token that the tokenizer does not have.
        known = (
            ", ".join(sorted(tokenizer.convert_ids_to_tokens(i) or str(i) for i in own)) or "none"
        )
        said = (
            f"[model] the chat template closes a turn with {text}, the model's end token: {known}"
        )
        if cfg.stop_at_turn_end:
            return EndTokens(
                own | {closing}, (f"{said}; both end a completion (stop_at_turn_end = false: not)",)
            )
        return EndTokens(own, (f"{said}; it ends no completion (stop_at_turn_end = false)",))
    if own or cfg.stop:
        return EndTokens(own)
    return EndTokens(
        own, ("[model] no end token is known: every completion runs to its limit; set stop",)
    )


def _closing_token(tokenizer: Any) -> int | None:
    """The special token that stands right behind an assistant's text; None where there is none."""
    if not tokenizer.has_chat_template:
        return None
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = str(tokenizer.apply_chat_template(chat, tokenize=False))
    # A template is a program that raises what it likes; one that renders prompts only is no fault.
    except Exception:  # noqa: BLE001
        return None
    _, found, behind = text.rpartition(_ANSWER)
    ids = tokenizer.encode(behind.lstrip(), add_special_tokens=False) if found else []
    return int(ids[0]) if ids and int(ids[0]) in tokenizer.added_tokens_decoder else None
