"""A tokenizer whose tokens are bytes: the length of a prompt is known without running it."""

from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '[' + message['role'] + ']' + message['content'] + '\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '[assistant]' }}{%- endif %}"
)


def byte_tokenizer(template=TEMPLATE, begin=False):
    """mlx-lm's wrapper around it; `begin`: encoding puts `<s>` first, as Llama's does."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: number for number, symbol in enumerate([*alphabet, "<s>", "</s>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    if begin:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", vocab["<s>"])]
        )
    return TokenizerWrapper(
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token="<s>" if begin else None,
            eos_token="</s>",
            chat_template=template,
        )
    )
