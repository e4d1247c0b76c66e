"""Reward plug-ins: what they are given, where they are found, and what they may return."""

from datetime import date

import numpy as np
import pytest

from grpo_core.config import MLXGRPOConfig
from grpo_core.errors import RewardError
from grpo_core.rewards.builtin import load_rewards
from tests.plugin_kit import example, score

TIMEOUT_S = 0.5


# -- what a plug-in is given --------------------------------------------------------------------


def test_a_plugin_gets_texts_ids_and_every_column(write):
    """By name, one item for each completion; texts begin with the assistant prefix."""
    write(
        """
        def f(**given):
            assert given == {
                "completions": ["<p>a", "<p>bb"],
                "completion_ids": [[0, 0], [1, 1]],
                "prompts": ["q7", "q7"],
                "answers": ["7", "7"],
                "question": ["q7", "q7"],
                "answer": ["so #### 7", "so #### 7"],
                "level": [3, 3],
                "day": ["2024-07-26", "2024-07-26"],
            }, given
            return [1, 2]
        """
    )
    row = example(7, level=3, day=date(2024, 7, 26))
    assert score("score.py:f", examples=[row, row]) == [1.0, 2.0]


def test_a_plugin_gets_only_what_its_signature_takes(write):
    """Parameters with a default may be missing among the columns."""
    write(
        """
        def f(completions, answers, scale=2.0):
            return [scale * len(text) for text in completions]
        """
    )
    assert score("score.py:f") == [8.0, 10.0]


def test_a_reward_function_written_for_trl_works(write):
    """Called by keyword with a column of the row; None counts as missing."""
    write(
        """
        def f(prompts, completions, answer, **kwargs):
            return [None if c.endswith("b") else float(a[-1]) for c, a in zip(completions, answer)]
        """
    )
    assert score("score.py:f", examples=[example(4)] * 2) == pytest.approx(
        [4.0, np.nan], nan_ok=True
    )


def test_an_asynchronous_plugin_is_awaited(write):
    """TRL takes them too."""
    write(
        """
        import asyncio
        async def f(completions, **kwargs):
            return await asyncio.gather(*[one(text) for text in completions])
        async def one(text):
            await asyncio.sleep(0)
            return len(text)
        """
    )
    assert score("score.py:f") == [4.0, 5.0]


def test_a_plugin_is_called_once_for_each_example(write):
    """So that what it returns does not depend on how the run is batched."""
    write(
        "def f(completions, prompts): return [len(set(prompts)) + len(completions)] * len(prompts)"
    )
    rows = [example(0), example(0), example(1)]
    assert score("score.py:f", ["a", "b", "c"], rows) == [3.0, 3.0, 2.0]


@pytest.mark.parametrize(
    "values",
    [
        "[1, 2.5]",
        "(True, 2.5)",
        "(x for x in (1, 2.5))",
        "numpy.array([1, 2.5], dtype='float16')",
        "[numpy.float32(1), Fraction(5, 2)]",
        "[numpy.array(1), Decimal('2.5')]",
    ],
)
def test_numbers_of_any_kind_are_rewards(write, values):
    """What `float` takes, text aside."""
    write(
        f"""
        import numpy
        from decimal import Decimal
        from fractions import Fraction
        def f(completions): return {values}
        """
    )
    assert score("score.py:f") == [1.0, 2.5]


def test_a_plugin_may_print_and_read(write, capfd):
    """Its output goes to stderr, and its stdin is empty: neither disturbs the answers."""
    write(
        """
        import os, sys
        print("loading")
        def f(completions):
            print("scoring")
            os.write(1, b"raw\\n")
            return [len(sys.stdin.read())] * len(completions)
        """
    )
    assert score("score.py:f") == [0.0, 0.0]
    output = capfd.readouterr()
    assert output.out == ""
    assert set(output.err.split()) == {"loading", "scoring", "raw"}


def test_large_arguments_and_values_pass(write):
    """More than a pipe holds, both ways."""
    write("def f(completions): return [len(text) for text in completions]")
    n = 5000
    assert score("score.py:f", ["é" * 200] * n, [example()] * n) == [203.0] * n


# -- where a plug-in is found --------------------------------------------------------------------


def test_a_plugin_imports_its_neighbours(write):
    """From its own folder, which is not the current one; our modules are not in their way."""
    write("def f(completions): return [data.VALUE] * 2\nimport data", "lib/score.py")
    write("VALUE = 5", "lib/data.py")
    assert score("lib/score.py:f") == [5.0, 5.0]


def test_neighbours_shadow_nothing_that_is_installed(write):
    """Nor does the plug-in itself, whatever its file is called."""
    write("raise RuntimeError('the wrong one')", "numpy.py")
    write("raise RuntimeError('the wrong one')", "queue.py")
    write(
        "import colorsys, numpy, queue\n"
        "def f(completions): return colorsys.rgb_to_hsv(1, 1, 1)[1:]",
        "colorsys.py",
    )
    assert score("colorsys.py:f") == [0.0, 1.0]


def test_a_plugin_may_be_named_by_its_module(write):
    """A package in the current folder, or an installed one."""
    write("", "mine/__init__.py")
    write("from mine.b import f", "mine/a.py")
    write("def f(completions): return [3, 4]", "mine/b.py")
    assert score("mine.a:f") == [3.0, 4.0]


def test_an_absolute_path_is_a_file_too(write):
    """Wherever the run was started."""
    path = write("def f(completions): return [3, 4]", "elsewhere/score.py")
    assert score(f"{path}:f") == [3.0, 4.0]


LOADABLE = """
def score_length(completions): return []
def only_by_position(completions, /): return []
number = 3
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("~nobody-here/scor.py:f", "no file ~nobody-here/scor.py"),
        ("scor.py:score_length", r"no file scor\.py; the nearest is score\.py.*looked from"),
        ("score.py:score_lenght", r"no function 'score_lenght'.*did you mean score_length\?"),
        ("score.py:number", "number is not a function but of type int"),
        ("score.py:only_by_position", "must take its arguments by name, but for 'completions'"),
        ("score.py:", "write file.py:function or package.module:function"),
        ("no.such.module:f", "cannot be loaded: raised ModuleNotFoundError: No module named 'no'"),
        ("broken.py:f", r"cannot be loaded: raised SyntaxError: .* at broken\.py:3"),
        ("raising.py:f", r"cannot be loaded: raised KeyError: 'x' at raising\.py:2"),
        ("exits.py:f", "cannot be loaded: raised SystemExit: 4"),
    ],
)
def test_what_cannot_be_loaded_is_refused_at_once(write, name, message):
    """By load_rewards, before a model loads."""
    write(LOADABLE)
    write("\n\ndef f(:\n", "broken.py")
    write("import os\nos.environ.copy()['x' if not {} else ''] if 0 else {}['x']", "raising.py")
    write("import sys\nsys.exit(4)", "exits.py")
    with pytest.raises(RewardError, match=rf"^reward '{name}': .*{message}"):
        load_rewards(MLXGRPOConfig(rewards=["int", name]))


# -- what goes wrong in a call ------------------------------------------------------------------

FAULTS = {
    "raises": ("raise ValueError('no\\nway')", r"raised ValueError: no at score\.py:7"),
    "exits": ("sys.exit(1)", "raised SystemExit: 1"),
    "is_short": ("return [1]", "returned 1 values for 2 completions"),
    "is_long": ("return [1, 2, 3]", "returned 3 values for 2 completions"),
    "is_number": ("return 3", "returned 3, not a list of numbers"),
    "is_text": ("return 'ab'", "returned 'ab', not a list of numbers"),
    "is_none": ("return None", "returned None, not a list of numbers"),
    "is_dict": ("return {1: 2, 3: 4}", "returned {1: 2, 3: 4}, not a list of numbers"),
    "sleeps": ("time.sleep(1000)", r"gave no answer in 0\.5 s \(reward_timeout_s\) at score\.py:7"),
    "spins": ("while True: pass", r"gave no answer in 0\.5 s .* at score\.py:7"),
    # Holds the interpreter's lock for hours: no thread of the same process could stop it.
    "backtracks": ("re.match('(a+)+$', 'a' * 60 + 'b')", r"gave no answer .* at score\.py:7"),
    "dies": ("os._exit(3)", r"its process died \(exit code 3\)"),
}


MODULE = """\
import os, re, signal, sys, time
def f(completions, prompts):
    calls = 1
    if prompts[0] == "q0":
        return [1, 2]
    # the row at fault
    {}
"""


@pytest.mark.parametrize(("body", "message"), FAULTS.values(), ids=FAULTS)
def test_a_call_that_fails_ends_the_run_and_names_the_row(write, body, message):
    """Exit code 3, with the reward, what happened, and the row at fault."""
    write(MODULE.format(body))
    rows = [example(0), example(0), example(1), example(1)]
    with pytest.raises(RewardError, match=rf"^reward 'score.py:f': {message}.* row rows.jsonl:2 "):
        score("score.py:f", "abcd", rows, reward_timeout_s=TIMEOUT_S)


@pytest.mark.parametrize("body", [body for body, _ in FAULTS.values()], ids=FAULTS)
def test_a_call_that_fails_may_count_as_missing(write, body):
    """Its own row's values are missing, and the rows after it are scored as ever."""
    write(MODULE.format(body))
    rows = [example(1), example(1), example(0), example(0)]
    values = score("score.py:f", "abcd", rows, reward_timeout_s=TIMEOUT_S, reward_on_error="nan")
    assert values == pytest.approx([np.nan, np.nan, 1.0, 2.0], nan_ok=True)


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "'3'", "[1]", "1j"])
def test_a_value_that_is_no_number_is_named_or_missing(write, value):
    """The completion at fault is counted from 1; the others keep their values."""
    write(f"def f(completions): return [5, {value}]")
    with pytest.raises(
        RewardError, match=r"returned .* for completion 2 of 2, not a finite number"
    ):
        score("score.py:f")
    values = score("score.py:f", reward_on_error="nan")
    assert values == pytest.approx([5.0, np.nan], nan_ok=True)


@pytest.mark.parametrize("on_error", ["fail", "nan"])
def test_a_parameter_that_no_column_has_is_an_error_always(write, on_error):
    """It would be missing on every row: that is no accident of one call."""
    write("def f(completions, questions): return [1, 2]")
    message = r"has a parameter 'questions'.*question, answer.*did you mean question\?"
    with pytest.raises(RewardError, match=message):
        score("score.py:f", reward_on_error=on_error)


CHAT = """
    def f(completions, prompts):
        return [len(c[0]["content"]) + 100 * len(p) for c, p in zip(completions, prompts)]
"""


def test_a_reward_in_chat_style_gets_chats(write):
    """As TRL's conversational data sets have them: the prompt with its system message."""
    write(CHAT)
    fields = {"completion_format": "messages", "system_prompt": "S"}
    assert score("score.py:f", **fields) == [204.0, 205.0]  # "<p>a", "<p>bb", two messages each
    assert score("score.py:f", **fields | {"system_prompt": ""}) == [104.0, 105.0]


def test_a_reward_in_chat_style_is_told_how_to_get_chats(write):
    """What Python says of it helps nobody."""
    write(CHAT)
    hint = r'string indices must be.* at score\.py:3; completion_format = "messages" gives it chats'
    with pytest.raises(RewardError, match=hint):
        score("score.py:f")


def test_a_module_has_its_own_time_to_load(write):
    """A judge that is loaded for minutes is no call that hangs."""
    write("import time\ntime.sleep(1000)\ndef f(completions): return [1, 2]")
    message = r"gave no answer in 0\.2 s \(reward_load_timeout_s\)"
    with pytest.raises(RewardError, match=message):
        score("score.py:f", reward_load_timeout_s=0.2)


def test_a_reward_that_cannot_be_averaged_is_refused(write):
    """The square of 1e308 is infinite, and a group with it would teach nothing."""
    write("def f(completions): return [1.0, -1e308]")
    with pytest.raises(RewardError, match=r"returned -1e\+308 for completion 2 of 2, beyond what"):
        score("score.py:f")
    write("def f(completions): return [1e15, -1e15]")
    assert score("score.py:f") == [1e15, -1e15]
