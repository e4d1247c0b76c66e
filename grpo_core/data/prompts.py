"""Examples -> prompts: the chat template's text with the assistant prefix, and its token ids.

The same for training and evaluation. The text is what counts: its ids are those of the text as a
whole, so that no token boundary falls between the template and the prefix by accident.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from grpo_core.config import MLXGRPOConfig, did_you_mean, format_value, toml_value
from grpo_core.data.examples import Example, Message
from grpo_core.data.thinking import BLOCKS, begin_answer, opened_by
from grpo_core.data.token_cache import encode_texts
from grpo_core.errors import DataError, first_line

# Some templates (Llama 3) write today's date into the prompt, so that a run resumed tomorrow would
# be another one. They always get one day, the one that Llama's own template falls back to.
_DAY = {
    "%d": "26", "%-d": "26", "%a": "Fri", "%A": "Friday", "%b": "Jul", "%B": "July", "%m": "07",
    "%-m": "7", "%y": "24", "%Y": "2024", "%H": "00", "%M": "00", "%S": "00",
}  # fmt: skip
_REPLACED = "".join(f"|replace('{code}','{text}')" for code, text in _DAY.items())
# What transformers gives to every template.
_GIVEN = {"messages", "add_generation_prompt", "tools", "documents", "raise_exception"} | {
    *("strftime_now", "bos_token", "eos_token", "pad_token", "unk_token", "namespace"),
}
FIXED_DAY = "{%- macro strftime_now(form) -%}{{- form" + _REPLACED + " -}}{%- endmacro +%}"


@dataclass(frozen=True, slots=True)
class Prompt:
    """An example as the model gets it: `text` and its `ids` end with the assistant prefix.

    `opening` is what the text of an answer begins with: that prefix, or the thinking block that the
    chat template opens.
    """

    example: Example
    ids: tuple[int, ...]
    text: str
    opening: str = ""


def make_prompts(examples: Sequence[Example], cfg: MLXGRPOConfig, tokenizer: Any) -> list[Prompt]:
    """The prompts of all examples, in order; `tokenizer` is mlx-lm's TokenizerWrapper.

    Raises DataError with the first row that the chat template refuses.
    """
    rendered = _render(examples, cfg, tokenizer)
    begun = [begin_answer(text, cfg.assistant_prefix) for text in rendered]
    texts = [text + added for text, (added, _) in zip(rendered, begun, strict=True)]
    ids = encode_texts(tokenizer, texts)
    return [
        Prompt(example, tuple(tokens), text, opening)
        for example, tokens, text, (_, opening) in zip(examples, ids, texts, begun, strict=True)
    ]


def _render(examples: Sequence[Example], cfg: MLXGRPOConfig, tokenizer: Any) -> list[str]:
    chats = [conversation(example, cfg.system_prompt) for example in examples]
    if not tokenizer.has_chat_template:
        return [_plain_text(chat, tokenizer) for chat in chats]
    options: dict[str, Any] = dict(cfg.chat_template_kwargs)
    options |= {"tokenize": False, "add_generation_prompt": True}
    template = tokenizer.chat_template
    if isinstance(template, str) and "strftime_now" in template:
        options = {"chat_template": FIXED_DAY + template, **options}
    texts = _at_once(chats, options, tokenizer)
    if texts is None:
        pairs = zip(examples, chats, strict=True)
        texts = [_one(example, chat, options, cfg, tokenizer) for example, chat in pairs]
    return texts


def _at_once(
    chats: list[list[Message]], options: dict[str, Any], tokenizer: Any
) -> list[str] | None:
    """All texts in one call, which takes two thirds of the time; None where that cannot be done."""
    try:
        texts = tokenizer.apply_chat_template(chats, **options)
    # A template is a program that raises what it likes; which row it was shows one by one.
    except Exception:  # noqa: BLE001
        return None
    # Templates that mlx-lm brings along, written in Python, take one conversation for another.
    return texts if isinstance(texts, list) and len(texts) == len(chats) else None


def _one(
    example: Example,
    chat: list[Message],
    options: dict[str, Any],
    cfg: MLXGRPOConfig,
    tokenizer: Any,
) -> str:
    try:
        text: str = tokenizer.apply_chat_template(chat, **options)
    # A template is a program that comes with the model: it raises what it likes.
    except Exception as e:  # noqa: BLE001
        raise DataError(_template_fault(example, cfg, e)) from None
    return text


def conversation(example: Example, system_prompt: str) -> list[Message]:
    """The example's messages, after its own or else this system prompt.

    Not where a system message is among them.
    """
    prompt, system = example.prompt, example.system or system_prompt
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if not system or any(message["role"] == "system" for message in messages):
        return messages
    return [{"role": "system", "content": system}, *messages]


def _plain_text(messages: Sequence[Message], tokenizer: Any) -> str:
    """For base models, whose tokenizers have no chat template: `User: ...`, `Assistant:`."""
    turns = [
        message["content"]
        if message["role"] == "system"
        else f"{message['role'].capitalize()}: {message['content']}"
        for message in messages
    ]
    return _begin_token(tokenizer) + "\n\n".join([*turns, "Assistant:\n"])


def _begin_token(tokenizer: Any) -> str:
    """The text of the token that this tokenizer puts first, as a chat template would write it."""
    begin = tokenizer.bos_token_id
    if begin is None or tokenizer.encode("a")[:1] != [begin]:
        return ""
    return str(tokenizer.bos_token)


def template_notes(example: Example, cfg: MLXGRPOConfig, tokenizer: Any) -> list[str]:
    """Lines about what the chat template does with the configuration, seen on one example."""
    [text] = _render([example], cfg, tokenizer)
    notes = _void_kwargs(example, cfg, tokenizer, text)
    tag = opened_by(text).rstrip()
    if not tag:
        return notes
    added, _ = begin_answer(text, cfg.assistant_prefix)
    prefix = cfg.assistant_prefix.strip()
    left_out = f"; assistant_prefix = {cfg.assistant_prefix!r} would stand within and is left out"
    note = f"the chat template opens {tag} itself"
    note += left_out if prefix not in ("", tag) and not added else ""
    note += ": rewards get texts that begin with it, and the built-in ones judge what follows "
    return [*notes, note + BLOCKS[tag]]


def _void_kwargs(example: Example, cfg: MLXGRPOConfig, tokenizer: Any, with_all: str) -> list[str]:
    """A line for each of chat_template_kwargs without which the prompt is the same."""
    notes = []
    for key, value in cfg.chat_template_kwargs.items():
        others = {k: v for k, v in cfg.chat_template_kwargs.items() if k != key}
        try:
            [without] = _render([example], replace(cfg, chat_template_kwargs=others), tokenizer)
        except DataError:
            # The template demands the key: so it does change something.
            continue
        if without == with_all:
            name = f"chat_template_kwargs.{key} = {toml_value(value)}"
            notes.append(f"{name} changes nothing in the prompt{_why_void(key, tokenizer)}")
    return notes


def _why_void(key: str, tokenizer: Any) -> str:
    if not tokenizer.has_chat_template:
        return ": the model has no chat template"
    template = tokenizer.chat_template
    # Some are written in Python, or are several.
    read = _variables(template) if isinstance(template, str) else {key}
    if key in read:
        return ": without it the template writes the same"
    known = f"it reads {', '.join(sorted(read))}" if read else "it reads none"
    return f": the chat template does not read it, {known}{did_you_mean(key, read)}"


def _variables(template: str) -> set[str]:
    """What a chat template reads beside what every template is given."""
    # Late, as only a user with chat_template_kwargs needs it.
    from jinja2 import Environment, TemplateSyntaxError, meta

    try:
        found = meta.find_undeclared_variables(Environment().parse(template))
    except TemplateSyntaxError:
        # transformers knows statements of its own, such as generation.
        found = set()
    return found - _GIVEN


def _template_fault(example: Example, cfg: MLXGRPOConfig, error: Exception) -> str:
    reason = first_line(error)
    tries = [f"chat_template_kwargs = {format_value(cfg.chat_template_kwargs)}"]
    if cfg.system_prompt:
        tries.append('system_prompt = "" (some models know no system role)')
    return (
        f"{example.line}: the model's chat template refuses this prompt: {reason}; look at "
        + " and ".join(tries)
    )
