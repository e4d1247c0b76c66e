"""Keys and values of rows that decode together: what each sees, and how rows leave and come in."""

import mlx.core as mx
import numpy as np

from grpo_core.model import decode_cache
from grpo_core.model.decode_cache import (
    DecodeCache,
    DecodeRows,
    behind_prompts,
    join_rows,
    keep_rows,
)

DRAW = np.random.default_rng(0)


def random_kv(*shape):
    """Keys and values in numpy."""
    return tuple(DRAW.normal(size=shape).astype(np.float32) for _ in range(2))


def cache_of(kv, lengths, owner, window=0):
    """A cache behind prompts that are padded behind."""
    rows = DecodeRows([lengths[p] for p in owner])
    given = (mx.array(kv[0]), mx.array(kv[1]))
    return DecodeCache(behind_prompts(given, lengths, owner), rows, window)


def decode(cache, tokens=1):
    """Random tokens taken in; what they were, by keys and values, and what was fetched."""
    new = random_kv(len(cache.lengths), 1, tokens, 4)
    for t in range(tokens):
        given = (mx.array(kind[:, :, t : t + 1]) for kind in new)
        found = cache.update_and_fetch(*given)
    return new, [np.array(kind) for kind in found]


def seen(cache):
    """The mask of each row, as numbers."""
    return np.array(cache.make_mask(1))[:, 0, 0].astype(int).tolist()


def test_rows_of_shorter_prompts_do_not_see_the_padding():
    """Prompts of 2 and 4 tokens: places 0 and 1 of the first row are padding."""
    prompts = random_kv(2, 1, 4, 4)
    cache = cache_of(prompts, [2, 4], [0, 1, 1])
    new, found = decode(cache)
    for kind, own, fetched in zip(prompts, new, found, strict=True):
        assert np.array_equal(fetched[0, :, 2:], np.concatenate([kind[0, :, :2], own[0]], axis=1))
        for row in (1, 2):
            assert np.array_equal(fetched[row], np.concatenate([kind[1], own[row]], axis=1))
    assert cache.offset.tolist() == [3, 5, 5]
    assert seen(cache) == [[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]
    keep_rows([cache], [1, 2])
    assert cache.offset == 5
    assert cache.make_mask(1) is None


def test_a_row_decodes_within_its_window():
    """Prompts of 2 and 4 tokens, one token decoded, a window of 3: as seen from the next token."""
    cache = cache_of(random_kv(2, 1, 4, 4), [2, 4], [0, 1], window=5)
    decode(cache)
    assert seen(cache) == [[0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]]
    cache.window = 3
    assert seen(cache) == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]]
    alike = cache_of(random_kv(2, 1, 4, 4), [4, 4], [0, 1], window=5)
    assert alike.make_mask(1) is None
    decode(alike)
    assert seen(alike) == [[0, 1, 1, 1, 1, 1]]


def test_layers_share_positions_and_masks():
    """What is made once a step is the same array in all layers, and another one a step later."""
    rows = DecodeRows([2, 4])
    kv = tuple(map(mx.array, random_kv(2, 1, 4, 4)))
    layers = [DecodeCache(kv, rows), DecodeCache(kv, rows)]
    firsts = [(layer.offset, layer.make_mask(1)) for layer in layers]
    assert firsts[0][0] is firsts[1][0]
    assert firsts[0][1] is firsts[1][1]
    for layer in layers:
        decode(layer)
    assert [layer.offset.tolist() for layer in layers] == [[3, 5], [3, 5]]


def test_a_cache_gets_more_room_and_forgets_nothing(monkeypatch):
    """Two places at a time, seven tokens, a row dropped halfway: always all that came before."""
    monkeypatch.setattr(decode_cache, "ROOM", 2)
    prompts = random_kv(2, 1, 3, 4)
    cache = cache_of(prompts, [3, 3], [1, 0])
    kept = [kind[[1, 0]] for kind in prompts]
    for step in range(7):
        if step == 4:
            keep_rows([cache], [1])
            kept = [rows[1:] for rows in kept]
        new, found = decode(cache)
        kept = [np.concatenate(pair, axis=2) for pair in zip(kept, new, strict=True)]
        for rows, expected in zip(found, kept, strict=True):
            assert np.array_equal(rows, expected)
        assert cache.offset == 4 + step


def test_rows_join_others_that_are_under_way():
    """Longer or shorter ones: each row goes on behind its own tokens, which all end together."""
    for lengths in ([2, 5], [5, 2]):
        prompts = [random_kv(1, 1, length, 4) for length in lengths]
        first, second = (
            cache_of(kv, [length], [0, 0]) for kv, length in zip(prompts, lengths, strict=True)
        )
        before, _ = decode(first, 2)
        keep_rows([first], [1])
        join_rows([first], [second])
        behind, found = decode(first)
        assert first.lengths.tolist() == [lengths[0] + 3, lengths[1] + 1, lengths[1] + 1]
        for kind in range(2):
            own = [prompts[0][kind][0], before[kind][1], behind[kind][0]]
            expected = [np.concatenate(own, axis=1)]
            expected += [
                np.concatenate([prompts[1][kind][0], behind[kind][row]], axis=1) for row in (1, 2)
            ]
            for row, wanted in zip(found[kind], expected, strict=True):
                assert np.array_equal(row[:, -wanted.shape[1] :], wanted)


def test_no_place_is_kept_for_rows_that_are_gone():
    """The longest row ends: the others move to the front."""
    cache = cache_of(random_kv(2, 1, 5, 4), [5, 2], [0, 1, 1])
    decode(cache)
    keep_rows([cache], [1, 2])
    assert cache.end == 3
    assert decode(cache)[1][0].shape == (2, 1, 4, 4)
