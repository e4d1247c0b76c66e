"""Built-in rewards by hand, and a run's rewards as one call."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_core.config import REWARD_NAMES, MLXGRPOConfig
from grpo_core.data.examples import Example
from grpo_core.errors import RewardError
from grpo_core.rewards.builtin import BUILTINS, combine, load_rewards

PREFIX = "<reasoning>"
PERFECT = "\n48 + 24 = 72\nso 72\n</reasoning>\n<answer>\n72\n</answer>"
MOST = {
    "correctness": 2.0,
    "int": 0.5,
    "strict_format": 0.5,
    "soft_format": 0.5,
    "xmlcount": 0.5,
}


def example(answer="72", index=0):
    row = {"question": "How many?", "answer": f"... #### {answer}"}
    return Example(index, "How many?", answer, row, f"a.jsonl:{index + 1}")


def score(completion, prefix=PREFIX, answer="72", **fields):
    """Each reward of one completion, by name."""
    cfg = MLXGRPOConfig(**fields)
    with load_rewards(cfg) as rewards:
        values = rewards([prefix + completion], [[1, 2, 3]], [example(answer)])
    assert values.shape == (len(cfg.rewards), 1)
    return dict(zip(rewards.names, values[:, 0].tolist(), strict=True))


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize(
    ("prefix", "completion"),
    [
        ("<reasoning>", PERFECT),
        ("<reasoning>\n", PERFECT[1:]),
        ("", PREFIX + PERFECT),
        ("<reasoning>\nLet me see", ":" + PERFECT),
    ],
)
def test_a_perfect_completion_earns_every_reward(prefix, completion, end):
    """With the assistant prefix or without, with a line feed at the end or without: 4 points."""
    assert score(completion + end, prefix) == MOST


def test_the_names_are_those_of_the_configuration():
    """The configuration and the code know the same rewards."""
    assert tuple(BUILTINS) == REWARD_NAMES


def test_a_second_opening_tag_is_not_what_is_rewarded():
    """The prefix opens the reasoning; a model that opens it again loses format points."""
    values = score("\n<reasoning>\n48 + 24\n</reasoning>\n<answer>\n72\n</answer>")
    assert values == MOST | {"strict_format": 0.0, "xmlcount": 0.375}


R, A = "<reasoning>\nx\n</reasoning>\n", "<answer>\n7\n</answer>"


@pytest.mark.parametrize(
    ("text", "strict", "soft", "xml"),
    [
        (R + A, 0.5, 0.5, 0.5),
        (R + A + "\n\n", 0.0, 0.5, 0.5),  # one line feed may end the text, not two
        (R + A + " 7", 0.0, 0.5, 0.499),  # one character after the end
        (R + A + "\n" + "y" * 600, 0.0, 0.5, 0.0),  # 0.5 - 0.6, but never below 0
        ("\n" + R + A, 0.0, 0.5, 0.5),
        ("So: " + R + A, 0.0, 0.0, 0.5),
        (R + "\n" + A, 0.0, 0.5, 0.5),
        ("<reasoning>x</reasoning><answer>7</answer>", 0.0, 0.5, 0.0),
        ("<reasoning>\n\n</reasoning>\n" + A, 0.0, 0.5, 0.5),  # nothing was reasoned
        (R + "<answer>\n \n</answer>", 0.0, 0.5, 0.5),
        (R + R + A, 0.0, 0.0, 0.25),
        (R + A + "\n" + A, 0.0, 0.5, 0.25),
        (A + "\n" + R, 0.0, 0.0, 0.349),  # three tags, less 11 + 3 + 12 characters after the end
        (R, 0.0, 0.0, 0.25),
        (A, 0.0, 0.0, 0.125),
        ("x\n</reasoning>\n" + A, 0.0, 0.0, 0.375),
        ("", 0.0, 0.0, 0.0),
        ("7", 0.0, 0.0, 0.0),
    ],
)
def test_format_rewards_by_hand(text, strict, soft, xml):
    """Each row of the table was worked out on paper."""
    values = [BUILTINS[name](text, "7") for name in ("strict_format", "soft_format", "xmlcount")]
    assert values == pytest.approx([strict, soft, xml])


@pytest.mark.parametrize(
    ("given_answer", "correct", "whole"),
    [
        ("72", 2.0, 0.5),
        ("71", 0.0, 0.5),
        ("$72.00", 2.0, 0.0),
        ("seventy-two", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_correctness_and_int_by_hand(given_answer, correct, whole):
    """The number counts for one, the form for the other."""
    values = score(f"</reasoning><answer>{given_answer}</answer>")
    assert (values["correctness"], values["int"]) == (correct, whole)


PARTS = ["<reasoning>", "</reasoning>", "<answer>", "</answer>", "\n", "72", " ", "x"]


@settings(deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=20).map("".join))
def test_built_in_rewards_stay_in_their_range(text):
    """From 0 to the most that a perfect completion earns, whatever the tags do."""
    for name, most in MOST.items():
        assert 0.0 <= BUILTINS[name](text, "72") <= most


@settings(deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=20).map("".join))
def test_who_earns_the_strict_format_earns_the_others(text):
    """Strict is stricter than soft, and needs every tag where xmlcount counts it."""
    if BUILTINS["strict_format"](text, "72"):
        assert BUILTINS["soft_format"](text, "72") == 0.5
        assert BUILTINS["xmlcount"](text, "72") == 0.5


def test_format_rewards_take_time_in_proportion_to_the_text():
    """A megabyte that would keep a backtracking expression busy for years comes back at once."""
    for text in ("<reasoning>\n" * 90_000, R * 40_000 + "<answer>", "<answer>\n1,1" * 90_000):
        assert all(0.0 <= reward(text, "7") <= 0.5 for reward in BUILTINS.values())


def test_rewards_come_by_reward_and_completion():
    """Shape [R, N] in the order of the configuration, each completion against its own row."""
    cfg = MLXGRPOConfig(rewards=["int", "correctness"], reward_weights=[0.5, 3.0])
    right, wrong = "</reasoning><answer>72</answer>", "</reasoning><answer>x</answer>"
    with load_rewards(cfg) as rewards:
        examples = [example("72"), example("72"), example("x", 1), example("x", 1)]
        values = rewards([right, wrong, right, wrong], [[1]] * 4, examples)
    assert rewards.names == ["int", "correctness"]
    assert rewards.weights.tolist() == [0.5, 3.0]
    assert values.dtype == np.float64
    assert values.tolist() == [[0.5, 0.0, 0.5, 0.0], [2.0, 0.0, 0.0, 2.0]]


def test_weights_are_one_by_default():
    """Without reward_weights every reward counts as it is."""
    assert load_rewards(MLXGRPOConfig()).weights.tolist() == [1.0] * 5


def test_no_completions_give_no_rewards():
    """An empty batch keeps its shape."""
    assert load_rewards(MLXGRPOConfig())([], [], []).shape == (5, 0)


def test_a_weighted_sum_passes_over_what_is_missing():
    """2*1 + 3*0.5; 2*1 alone; 3*0.5 alone; nothing at all is NaN."""
    nan = float("nan")
    values = np.array([[1.0, 1.0, nan, nan], [0.5, nan, 0.5, nan]])
    total = combine(values, np.array([2.0, 3.0]))
    np.testing.assert_array_equal(total, [3.5, 2.0, 1.5, nan])


def test_a_weight_of_0_makes_a_reward_a_metric():
    """It adds nothing, and stands for none of those that are missing."""
    nan = float("nan")
    values = np.array([[1.0, nan, 2.0], [9.0, 9.0, nan]])
    np.testing.assert_array_equal(combine(values, np.array([1.0, 0.0])), [1.0, nan, 2.0])


def test_an_unknown_reward_is_refused_with_the_nearest_name():
    """Before a model loads, and with every name that there is."""
    with pytest.raises(RewardError, match=r"'correctnes': unknown.*did you mean correctness\?"):
        load_rewards(MLXGRPOConfig(rewards=["correctnes"]))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<answer>7</answer>", 0.5),
        ("So <answer>\n7\n</answer>\n", 0.5),
        ("<answer>7</answer>.", 0.0),
        ("<answer>7", 0.0),
        ("<answer> </answer>", 0.0),
        ("<answer>6</answer><answer>7</answer>", 0.0),
        ("", 0.0),
    ],
)
def test_answer_block_wants_one_answer_at_the_end(text, value):
    """For tasks without reasoning: one block, filled, and nothing after it."""
    assert BUILTINS["answer_block"](text, "7") == value


@pytest.mark.parametrize("opening", ["<think>\n", "<think>", " <seed:think>", "[THINK]"])
def test_what_is_thought_before_the_answer_is_not_judged(opening):
    """Tags and answers within the block count for nothing, neither for nor against."""
    close = opening.strip().replace("<", "</").replace("[", "[/")
    thought = f"Is it <answer>3</answer>? <reasoning>\n{close}\n\n"
    assert score(thought + PREFIX + PERFECT, opening) == MOST


def test_a_thought_without_an_end_earns_nothing():
    """Cut at the limit: no answer was given, though a right one was thought of."""
    assert set(score("Is it <answer>72</answer>? Or", "<think>").values()) == {0.0}
