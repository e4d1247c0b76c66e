"""Rows for reward plug-ins, and what a plug-in says of completions."""

from grpo_core.config import MLXGRPOConfig
from grpo_core.data.examples import Example
from grpo_core.rewards.builtin import load_rewards


def example(index=0, **columns):
    row = {"question": f"q{index}", "answer": f"so #### {index}"} | columns
    return Example(index, f"q{index}", str(index), row, f"rows.jsonl:{index + 1}")


def score(name, completions=("a", "bb"), examples=None, **fields):
    """The values of one plug-in, one list item for each completion."""
    cfg = MLXGRPOConfig(
        rewards=[name],
        **{"reward_timeout_s": 60.0, **fields},
    )
    with load_rewards(cfg) as rewards:
        ids = [[n, n] for n in range(len(completions))]
        texts = [f"<p>{text}" for text in completions]
        values = rewards(texts, ids, examples or [example()] * len(completions))
    return values[0].tolist()
