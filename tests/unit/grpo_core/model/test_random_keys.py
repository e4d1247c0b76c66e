"""Keys: functions of their arguments, each different, with nothing in common."""

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.model.random_keys import derive_key, sample_key, shuffled, to_array

NUMBERS = st.tuples(*[st.integers(0, 2**63 - 1) for _ in range(5)])


@given(NUMBERS, NUMBERS)
def test_two_samples_share_a_key_only_if_they_are_the_same(first, second):
    """Seed, update, prompt, sample and round all count, and none stands for another."""
    assert (sample_key(*first) == sample_key(*second)) == (first == second)


def test_numbers_do_not_run_into_each_other():
    """(1, 23) is not (12, 3), and a purpose is not part of a number."""
    keys = [
        derive_key("a", 1, 23),
        derive_key("a", 12, 3),
        derive_key("a1", 23),
        derive_key("b", 1),
    ]
    assert len(set(keys)) == len(keys)


def test_a_key_is_the_same_in_another_process():
    """Python salts its own hashes; ours must outlive a restart."""
    code = "from grpo_core.model.random_keys import sample_key; print(sample_key(1, 2, 3, 4, 5))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == str(sample_key(1, 2, 3, 4, 5))


def test_the_device_gets_the_words_as_they_are():
    """Two 32-bit words a key, the high one first."""
    words = np.array(to_array([(0, 2**32 - 1), (7, 9)]))
    assert words.dtype == np.uint32
    assert words.tolist() == [[0, 2**32 - 1], [7, 9]]


@given(st.integers(0, 300), st.integers(0, 2**63 - 1))
def test_a_shuffle_is_an_order_of_all_items_made_by_its_key(count, seed):
    """Nothing is lost or doubled, and the same numbers give the same order."""
    order = shuffled(count, "rows", seed)
    assert sorted(order) == list(range(count))
    assert order == shuffled(count, "rows", seed)


def test_shuffles_of_other_seeds_and_epochs_differ():
    """Sixteen orders of 200 rows; and a longer list keeps the order of a shorter one."""
    orders = {tuple(shuffled(200, "rows", seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16
    longer = shuffled(300, "rows", 1)
    assert [item for item in longer if item < 200] == shuffled(200, "rows", 1)
