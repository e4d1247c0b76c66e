"""Arrays that are joined into vectors come back as they were, and only small ones are joined."""

import mlx.core as mx
import numpy as np
import pytest

from grpo_core.update import bundles
from grpo_core.update.bundles import Bundles


def numbers(*shape, start=0):
    """Each number another, so that none can take the place of another."""
    return np.arange(start, start + int(np.prod(shape)), dtype=np.float32).reshape(shape)


def test_arrays_come_back_as_they_were(monkeypatch):
    """Whatever their shapes are, and in the order of their names."""
    monkeypatch.setattr(bundles, "ALIGNED", 1)
    own = {"b": numbers(2, 3), "a": numbers(4, start=10), "c": numbers(1, 1, 5, start=20)}
    found = Bundles({name: mx.array(array) for name, array in own.items()})
    vectors = found.join({name: mx.array(array) for name, array in own.items()})
    [vector] = vectors.values()
    wanted = np.concatenate([own[name].reshape(-1) for name in "abc"])
    np.testing.assert_array_equal(np.array(vector), wanted)
    parted = found.part(vectors)
    assert parted.keys() == own.keys()
    for name, array in own.items():
        np.testing.assert_array_equal(np.array(parted[name]), array)


def test_large_arrays_stay_by_themselves_and_types_apart(monkeypatch):
    """As a copy of a large one takes memory, and a vector has one type."""
    monkeypatch.setattr(bundles, "ALIGNED", 1)
    monkeypatch.setattr(bundles, "SMALL", 4)
    monkeypatch.setattr(bundles, "LONG", 6)
    arrays = {
        "a": mx.zeros(3),
        "b": mx.zeros(5),
        "c": mx.zeros(3),
        "d": mx.zeros(2),
        "e": mx.zeros(4, mx.bfloat16),
    }
    joined = Bundles(arrays).join(arrays)
    assert {name: vector.size for name, vector in joined.items()} == {
        "a": 6,
        "b": 5,
        "d": 2,
        "e": 4,
    }


def test_joined_arrays_begin_at_256_bytes_in_16_bits():
    """One of an odd size would move all behind it; what is empty is nobody's first."""
    sizes = {"a": 0, "b": 128, "c": 1, "d": 256, "e": 100}
    arrays = {name: mx.zeros(size, mx.bfloat16) for name, size in sizes.items()}
    found = Bundles(arrays)
    joined = found.join(arrays)
    assert {name: v.size for name, v in joined.items()} == {"a": 0, "b": 384, "c": 1, "e": 100}
    assert {name: a.size for name, a in found.part(joined).items()} == sizes


def test_a_lone_array_is_not_touched():
    """Gradients are transposes: to make them flat is to copy them, of a large model gigabytes."""
    array = mx.array(numbers(600, 500)).T
    found = Bundles({"a": array})
    joined = found.join({"a": array})
    assert joined["a"] is array
    assert found.part(joined)["a"] is array


def test_vectors_are_cast_to_the_types_of_the_model(monkeypatch):
    """Masters are in fp32; what the model gets is in its own numbers, rounded as one by one."""
    monkeypatch.setattr(bundles, "ALIGNED", 1)
    arrays = {"a": mx.array([0.1, 1.0]).astype(mx.bfloat16), "b": mx.array([0.1])}
    found = Bundles(arrays)
    masters = found.join({name: array.astype(mx.float32) for name, array in arrays.items()})
    weights = found.part(found.cast(masters))
    assert [weights[name].dtype for name in "ab"] == [mx.bfloat16, mx.float32]
    assert mx.array_equal(weights["a"], arrays["a"]).item()


def test_an_array_that_lacks_is_named():
    """A state of another model is refused, not half taken."""
    arrays = {"a": mx.zeros(2), "b": mx.zeros(2)}
    with pytest.raises(KeyError, match="b"):
        Bundles(arrays).join({"a": mx.zeros(2)})
