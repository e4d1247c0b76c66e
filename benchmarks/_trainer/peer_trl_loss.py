"""TRL's loss of given log-probs, and its gradient by them, in the peer's own environment.

    PEER_PYTHON peer_trl_loss.py CASES.json

CASES.json is a list of cases; a line of JSON for each goes out. Only `_compute_loss` of TRL's
trainer runs, over log-probs and entropies instead of a model. Imports nothing of ours.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import torch
from trl import GRPOConfig, GRPOTrainer


def trainer(case, logps, entropies):
    """What `_compute_loss` asks of a trainer, in one process and one micro-batch."""
    defaults = GRPOConfig.__dataclass_fields__
    constants = {
        name: defaults[name].default
        for name in defaults
        if name.startswith(("sapo_temperature_", "vespo_"))
    }
    accelerator = SimpleNamespace(
        num_processes=1,
        reduce=lambda value, reduction: value,
        gather=lambda value: value,
        pad_across_processes=lambda value, dim, pad_index: value,
    )
    made = SimpleNamespace(
        args=SimpleNamespace(
            delta=case["delta"],
            use_bias_correction_kl=False,
            steps_per_generation=1,
            **constants,
        ),
        accelerator=accelerator,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        use_vllm=case["weights"] is not None,
        vllm_importance_sampling_correction=True,
        top_entropy_quantile=case["top_entropy_quantile"],
        off_policy_mask_threshold=case["off_policy_mask_threshold"],
        importance_sampling_level=case["level"],
        beta=case["beta"],
        epsilon_low=case["epsilon_low"],
        epsilon_high=case["epsilon_high"],
        loss_type=case["loss_type"],
        max_completion_length=case["limit"],
        get_gamma_weights=GRPOTrainer.get_gamma_weights,
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
        _get_per_token_logps_and_entropies=lambda *_, **__: (logps, entropies, None),
    )
    made.get_high_entropy_mask = lambda *args: GRPOTrainer.get_high_entropy_mask(made, *args)
    return made


def tensor(values):
    return None if values is None else torch.tensor(values, dtype=torch.float64)


def loss(case):
    """Loss and gradient of one case."""
    logps = tensor(case["logps"]).requires_grad_()
    mask = tensor(case["mask"])
    width = mask.shape[1]
    ids = torch.zeros(mask.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": mask[:, :1],
        "completion_ids": ids[:, :width],
        "completion_mask": mask,
        "advantages": tensor(case["advantages"]),
        "num_items_in_batch": mask.sum(),
        "old_per_token_logps": tensor(case["old"]),
        "ref_per_token_logps": tensor(case["ref"]),
        "importance_sampling_ratio": tensor(case["weights"]),
    }
    if inputs["importance_sampling_ratio"] is None:
        del inputs["importance_sampling_ratio"]
    made = trainer(case, logps, tensor(case["entropies"]))
    value = GRPOTrainer._compute_loss(made, made.model, inputs)
    value.backward()
    return {"loss": value.item(), "gradient": logps.grad.tolist()}


if __name__ == "__main__":
    for each in json.loads(Path(sys.argv[1]).read_text()):
        print(json.dumps(loss(each)), flush=True)
