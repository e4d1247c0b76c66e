"""A completion as samples.jsonl has it, drawn in training or in an evaluation.

Which completions are kept is decided by who draws them; the file is written by `training_loop`.
"""

from collections.abc import Mapping
from typing import Any

from grpo_core.data.prompts import Prompt
from grpo_core.rollout.generate import Group


def sample_line(
    prompt: Prompt, group: Group, sample: int, reward: float, rewards: Mapping[str, float]
) -> dict[str, Any]:
    """Sample number `sample` of the group, with its reward and what that is made of by name."""
    return {
        "row": prompt.example.line,
        "prompt": prompt.text,
        "completion": group.texts[sample],
        "answer": prompt.example.answer,
        "reward": float(reward),
        "rewards": {name: float(value) for name, value in rewards.items()},
        "completion_length": len(group.completions[sample]),
        "finished": group.finished[sample],
    }
