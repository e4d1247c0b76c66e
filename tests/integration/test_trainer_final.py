"""What a run leaves in final/ is what it was trained to: reloaded, it scores the same."""

import mlx_lm
import pytest

from grpo_core.config import resolve_config
from grpo_core.data.splits import load_data
from grpo_core.evaluate import evaluate
from grpo_core.model.policy import load_policy
from grpo_core.model.tiny import model_path
from grpo_core.rewards.builtin import load_rewards
from tests.toy import put_in
from tests.trainer_kit import command, complete, result_of

KINDS = {
    "lora": {},
    "qlora": {"quantize_for_rollouts": True, "dtype": "float32"},
    "dora": {"train_type": "dora"},
    "full": {"train_type": "full", "learning_rate": 1e-4},
    "sampled": {"eval_num_generations": 3, "eval_temperature": 0.9},
}
RUN = {
    "max_train_samples": 4,
    "num_epochs": 1,
    "eval_samples": 40,
    "eval_every_updates": 0,
    "eval_at_start": False,
    "save_steps": 1,
}


@pytest.mark.parametrize("kind", KINDS)
def test_reloaded_final_has_the_exact_match_that_was_logged_last(tmp_path, kind):
    """On the same rows; also with sampled answers."""
    folder = tmp_path / "out"
    fields = RUN | KINDS[kind]
    complete(folder, **fields)
    cfg = resolve_config(command(folder, **fields)[5])
    policy = put_in(load_policy(cfg), folder / "final")
    with load_rewards(cfg) as rewards:
        done = evaluate(policy, load_data(cfg, policy.tokenizer).test, cfg, "test", rewards)
    assert done.em == result_of(folder)["final"]["em"]
    assert 0 < done.em < 1
    for made in [folder / "final", *folder.glob("checkpoint-*")]:
        if kind == "full":
            mlx_lm.load(str(made))
        else:
            mlx_lm.load(str(model_path()), adapter_path=str(made))
