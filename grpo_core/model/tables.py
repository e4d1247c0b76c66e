"""Whether ids and positions fit the model's tables: MLX reads foreign memory where they do not.

Tokens that were added to a tokenizer without resizing the model, and learned positions, which end.
"""

from collections.abc import Sequence

import mlx.nn as nn

from grpo_core.errors import ModelError

# How mlx-lm's models call a table of learned positions.
POSITION_NAMES = ("wpe", "embed_positions", "position_embeddings", "pos_embed")


def must_fit_tables(
    model: nn.Module, prompts: Sequence[Sequence[int]], limit: int, field: str
) -> None:
    """ModelError unless `prompts` and `limit` tokens more can be looked up in its tables.

    `field` is what bounds those tokens. The last of them is never read.
    """
    kinds = (nn.Embedding, nn.QuantizedEmbedding)
    tables = [(name, m) for name, m in model.named_modules() if isinstance(m, kinds)]
    positions = [int(m.weight.shape[0]) for name, m in tables if name.endswith(POSITION_NAMES)]
    rows = [int(m.weight.shape[0]) for name, m in tables if not name.endswith(POSITION_NAMES)]
    highest = max((max(ids) for ids in prompts if ids), default=0)
    if rows and highest >= max(rows):
        raise ModelError(
            f"token {highest} stands in a prompt, and the model's table has {max(rows)} rows: "
            "tokens were added to its tokenizer, and the model was not resized; resize it, or use "
            "the tokenizer that it was made with"
        )
    longest = max(map(len, prompts), default=0) + limit - 1
    if positions and longest > min(positions):
        raise ModelError(
            f"prompts and completions reach {longest} tokens, and the model has learned positions "
            f"for {min(positions)}; lower max_prompt_length or {field}"
        )
