"""The result of a real run, used: asked beside its base, and fused into one model."""

import json

import mlx_lm
import pytest

from grpo_core import result
from grpo_core.errors import ModelError
from grpo_core.model.tiny import model_path
from orchestrator.cli import main
from tests.sweep_kit import add_sweep, planned_run
from tests.trainer_kit import complete

# A rate so high that four updates change what it writes.
RUN = {
    **{"max_train_samples": 16, "learning_rate": 0.3, "eval_steps": 0, "eval_every_updates": 0},
    **{"eval_at_start": False, "eval_at_end": False, "save_steps": 0},
}
PROMPT = "84+59="


def test_base_and_trained_answer_as_they_were_trained_and_fused_is_trained(tmp_path):
    """The base as mlx-lm loads it by hand; the fused model writes what the adapters do."""
    run, fused = tmp_path / "out", tmp_path / "fused"
    complete(run, **RUN)
    [found] = result.answers(run, [PROMPT], 24)
    model, tokenizer = mlx_lm.load(str(model_path()))[:2]
    chat = [{"role": "user", "content": PROMPT}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True)
    by_hand = mlx_lm.generate(model, tokenizer, prompt=ids, max_tokens=24)
    assert found == {"prompt": PROMPT, "base": by_hand, "trained": found["trained"]}
    assert found["trained"] != by_hand
    result.fuse(run, fused, False)
    model, tokenizer = mlx_lm.load(str(fused))[:2]
    assert mlx_lm.generate(model, tokenizer, prompt=ids, max_tokens=24) == found["trained"]
    with pytest.raises(ModelError, match="is there already"):
        result.fuse(run, fused, False)


def test_a_folder_without_a_result_is_a_message(tmp_path):
    """Nothing recorded, and recorded but nothing trained yet; a whole model is not fused."""
    with pytest.raises(ModelError, match="no run has recorded"):
        result.trained_config(tmp_path / "gone")
    with pytest.raises(ModelError, match="neither final/ nor a checkpoint"):
        result.trained_folder(tmp_path)
    (tmp_path / "config.resolved.json").write_text(json.dumps({"train_type": "full"}))
    (tmp_path / "final").mkdir()
    with pytest.raises(ModelError, match="a whole model already"):
        result.fuse(tmp_path, tmp_path / "new", False)


def test_a_run_that_has_not_trained_is_a_message(tmp_path, capfd):
    """By the command, which asks a process of its own."""
    add_sweep(tmp_path, [planned_run("r0", 0, {})])
    assert main(["chat", "1", "--prompt", "a"]) == 1
    said = capfd.readouterr()
    assert "no run has recorded its configuration" in said.err
    assert "Traceback" not in said.err
    assert main(["fuse", "9", "-o", str(tmp_path / "new")]) == 3
