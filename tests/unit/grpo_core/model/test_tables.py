"""Ids and positions beyond a model's tables are refused: MLX would read foreign memory."""

import mlx.nn as nn
import pytest

from grpo_core.errors import ModelError
from grpo_core.model.tables import must_fit_tables
from tests.zoo import zoo_model


def rows(model, name):
    """The rows of the table whose name ends so."""
    (found,) = [m for n, m in model.named_modules() if n.endswith(name)]
    return found.weight.shape[0]


@pytest.mark.parametrize("make", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("quantized", [False, True])
def test_an_id_beyond_the_table_is_refused(make, quantized):
    """The last row is the last id."""
    model = zoo_model(make, 0, 2, 512)
    if quantized:
        nn.quantize(model, 32, 4)
    last = rows(model, "wte" if make == "gpt2" else "embed_tokens") - 1
    must_fit_tables(model, [[3, last]], 1, "max_new_tokens")
    with pytest.raises(ModelError, match=f"token {last + 1} .* {last + 1} rows.*not resized"):
        must_fit_tables(model, [[3], [last + 1, 2]], 1, "max_new_tokens")


def test_learned_positions_end_and_rotary_ones_do_not():
    """GPT-2 has a row for each position, Llama has none; the last token drawn is never read."""
    model = zoo_model("gpt2", 0, 1, 512)
    last = rows(model, "wpe")
    must_fit_tables(model, [[3] * 4], last - 3, "max_new_tokens")
    with pytest.raises(
        ModelError, match=rf"reach {last + 1} tokens.*positions for {last};.* or eval_max"
    ):
        must_fit_tables(model, [[3] * 4], last - 2, "eval_max_new_tokens")
    must_fit_tables(zoo_model("llama", 0, 1, 512), [[3] * 4], 10**6, "max_new_tokens")
