"""What samples.jsonl says of one completion."""

from grpo_core.data.examples import Example
from grpo_core.data.prompts import Prompt
from grpo_core.rollout.generate import Group
from grpo_core.rollout.sample_line import sample_line


def test_a_line_holds_what_was_asked_answered_and_earned():
    """Of the second of two completions."""
    example = Example(4, "2 + 2?", "4", {}, "rows.jsonl:5")
    prompt = Prompt(example, (1, 2, 3), "Q: 2 + 2?\nA:")
    group = Group((1, 2, 3), [[7, 0], [8, 9, 6]], [], None, [True, False], ["4", "5 or"])
    assert sample_line(prompt, group, 1, 0.5, {"correctness": 0.0, "int": 1.0}) == {
        "row": "rows.jsonl:5",
        "prompt": "Q: 2 + 2?\nA:",
        "completion": "5 or",
        "answer": "4",
        "reward": 0.5,
        "rewards": {"correctness": 0.0, "int": 1.0},
        "completion_length": 3,
        "finished": False,
    }
