"""Prompts -> completions: token ids as sampled, their log-probs, how each ended.

A decode loop of our own over mlx-lm's models. Each prompt is run once and its keys and values serve
its whole group; every completion draws from its own key, so neither batch nor order changes a
token; ids are kept and never made from text again; the end token is part of a completion. The host
looks at the tokens now and then only. Rewards, prompts and keys come from elsewhere.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import CacheList, make_prompt_cache

from grpo_core.errors import Diverged, Interrupted
from grpo_core.model.finite import first_fault, gives_numbers
from grpo_core.model.lean_operations import lean_operations
from grpo_core.model.policy import Policy
from grpo_core.model.random_keys import Key, to_array
from grpo_core.model.shared_prefix import DecodeCache, decode_caches, run_prompts
from grpo_core.model.trunk_head import SplitModel
from grpo_core.rollout.sampling import Drawn, Sampling, draw

# Steps between two looks of the host: a row that has ended decodes this many tokens too much.
LOOK_EVERY = 8

# Rows decoded together; beyond it the gain is small and the caches grow.
MAX_ROWS = 128


@dataclass(frozen=True, slots=True)
class Group:
    """The completions of one prompt; lists run over its samples.

    `logprobs`: of each drawn token in nats, by softmax(logits / temperature) over the whole
    vocabulary (temperature 1 when greedy). `sampling_logprobs`: after repetition_penalty, top_k,
    top_p and min_p; None where none of them is on. `finished`: ended by the end token or a stop
    text, not the limit. `texts`: decoded without end token and padding.
    """

    prompt_ids: tuple[int, ...]
    completions: list[list[int]]
    logprobs: list[np.ndarray]
    sampling_logprobs: list[np.ndarray] | None
    finished: list[bool]
    texts: list[str]


def generate_groups(
    policy: Policy,
    prompts: Sequence[tuple[int, ...]],
    n: int,
    keys: Sequence[Sequence[Key]] | None,
    sampling: Sampling,
    should_stop: Callable[[], bool] | None = None,
    most_rows: int = MAX_ROWS,
) -> list[Group]:
    """`n` completions of each prompt, in the order given; at most `most_rows` decode together.

    `keys[p][s]` is the key of sample s of prompt p; None only when greedy. The same keys give the
    same tokens, whatever else is in the batch. `should_stop` is asked every few tokens; then
    Interrupted is raised.
    """
    if keys is None and sampling.temperature > 0:
        raise ValueError("sampling needs a key for each completion")
    policy.model.eval()
    with lean_operations(policy.model, gradient=False):
        return _groups(policy, prompts, n, keys, sampling, should_stop, most_rows)


def _groups(
    policy: Policy,
    prompts: Sequence[tuple[int, ...]],
    n: int,
    keys: Sequence[Sequence[Key]] | None,
    sampling: Sampling,
    should_stop: Callable[[], bool] | None,
    most_rows: int,
) -> list[Group]:
    groups: dict[int, Group] = {}
    for chosen in _batches(policy, prompts, n, most_rows):
        rows = [
            _Row(p, prompts[p], keys[p][s] if keys is not None else (0, 0))
            for p in chosen
            for s in range(n)
        ]
        # More rows than `most_rows` are of one prompt, which then runs once for each part.
        for start in range(0, len(rows), most_rows):
            part = rows[start : start + most_rows]
            _decode(policy, [prompts[p] for p in chosen], part, sampling, should_stop)
        for p in chosen:
            groups[p] = _group(policy, [r for r in rows if r.prompt == p], sampling)
    return [groups[p] for p in range(len(prompts))]


def _batches(
    policy: Policy, prompts: Sequence[tuple[int, ...]], n: int, most_rows: int
) -> Iterator[list[int]]:
    """Which prompts decode together: of similar or the same length, at most `most_rows` rows."""
    order = sorted(range(len(prompts)), key=lambda p: len(prompts[p]))
    size = max(1, most_rows // n)
    mixes = policy.can_share_prefix and policy.can_mix_lengths
    batch: list[int] = []
    for p in order:
        fits = mixes or not batch or len(prompts[p]) == len(prompts[batch[0]])
        if len(batch) == size or not fits:
            yield batch
            batch = []
        batch.append(p)
    if batch:
        yield batch


@dataclass(slots=True)
class _Row:
    """One completion as it grows, on the host."""

    prompt: int
    prompt_ids: tuple[int, ...]
    key: Key
    tokens: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    sampler_logps: list[float] = field(default_factory=list)
    done: bool = False
    finished: bool = False


def _group(policy: Policy, rows: list[_Row], sampling: Sampling) -> Group:
    return Group(
        prompt_ids=rows[0].prompt_ids,
        completions=[row.tokens for row in rows],
        logprobs=[np.array(row.logps, np.float32) for row in rows],
        sampling_logprobs=(
            [np.array(row.sampler_logps, np.float32) for row in rows] if sampling.filters else None
        ),
        finished=[row.finished for row in rows],
        texts=[decode_text(policy, row.tokens) for row in rows],
    )


def decode_text(policy: Policy, tokens: Sequence[int]) -> str:
    """The text of a completion as the model wrote it, special tokens and all.

    Only the end token and padding are left out: tags such as `<answer>` may be special tokens.
    """
    ids = list(tokens[:-1]) if tokens and tokens[-1] in policy.eos_ids else list(tokens)
    padding = policy.tokenizer.pad_token_id
    text: str = policy.tokenizer.decode(
        [token for token in ids if token != padding],
        skip_special_tokens=False,
        clean_up_tokenization_spaces=False,
    )
    return text


# --- the loop


def _decode(
    policy: Policy,
    prompts: list[tuple[int, ...]],
    rows: list[_Row],
    sampling: Sampling,
    should_stop: Callable[[], bool] | None,
) -> None:
    """Fills `rows`, which come prompt by prompt, the same number of each."""
    state = _prefill(policy, prompts, len(rows) // len(prompts))
    if sampling.penalises:
        state.seen = _seen([row.prompt_ids for row in rows], state.logits.shape[-1])
    alive = list(rows)
    keys = to_array([row.key for row in rows])
    done = 0
    while True:
        if should_stop is not None and should_stop():
            raise Interrupted("stopped while sampling; the same command goes on")
        count = min(LOOK_EVERY, sampling.max_tokens - done)
        drawn = []
        for t in range(done, done + count):
            drawn.append(draw(state.logits, keys, t, sampling, state.seen))
            # At once, so that no two steps' logits are alive; the host does not wait for it.
            mx.async_eval(*drawn[-1])  # type: ignore[no-untyped-call]
            if t + 1 < sampling.max_tokens:
                state.step(drawn[-1][0])
        done += count
        _look(policy, alive, drawn, sampling)
        if done == sampling.max_tokens:
            return
        kept = [i for i, row in enumerate(alive) if not row.done]
        if not kept:
            return
        if len(kept) < len(alive):
            alive = [alive[i] for i in kept]
            index = mx.array(kept)
            keys = keys[index]
            state.keep(index)


def _look(policy: Policy, rows: list[_Row], drawn: list[Drawn], sampling: Sampling) -> None:
    """Brings the tokens of some steps to the host and ends the rows that have ended."""
    tokens = mx.stack([d[0] for d in drawn], axis=1)
    logps = mx.stack([d[1] for d in drawn], axis=1)
    sampler_logps = mx.stack([d[2] for d in drawn], axis=1) if sampling.filters else logps
    mx.eval(tokens, logps, sampler_logps)
    parts = (np.array(tokens), np.array(logps), np.array(sampler_logps))
    for row, ids, own, sampled in zip(rows, *parts, strict=True):
        before = len(row.tokens)
        keep = _length(policy, row.tokens, ids.tolist(), sampling)
        row.finished = keep is not None
        keep = len(ids) if keep is None else keep
        if not np.isfinite(own[:keep]).all():
            raise _no_numbers(policy, [*row.prompt_ids, *row.tokens])
        row.tokens += ids[:keep].tolist()
        row.logps += own[:keep].tolist()
        if sampling.filters:
            row.sampler_logps += sampled[:keep].tolist()
        row.done = row.finished or before + keep >= sampling.max_tokens


def must_still_give_numbers(policy: Policy, ids: Sequence[int]) -> None:
    """Reads `ids` as the policy is now. Raises Diverged."""
    policy.model.eval()
    if not gives_numbers(policy.model(mx.array([list(ids)]))):
        raise _no_numbers(policy, ids)


def _no_numbers(policy: Policy, ids: Sequence[int]) -> Diverged:
    return Diverged(
        "the policy gives no numbers any more (its log-probs are NaN): "
        f"{first_fault(policy.model, ids)}; lower learning_rate"
    )


def _length(policy: Policy, old: list[int], new: list[int], sampling: Sampling) -> int | None:
    """How many of the new tokens belong to the completion; None if it goes on."""
    end = next((i + 1 for i, token in enumerate(new) if token in policy.eos_ids), None)
    if not sampling.stop:
        return end
    body = new[: end - 1] if end is not None else new
    stop = _stop_length(policy, old, body, sampling.stop)
    return end if stop is None else stop


def _stop_length(
    policy: Policy, old: list[int], new: list[int], stops: tuple[str, ...]
) -> int | None:
    """The fewest new tokens with which the text holds a stop text.

    Only the end of the text is looked at, or a long completion would be decoded again and again.
    """
    # A character takes four tokens at most (bytes of UTF-8); the rest is for tokens without any.
    before = old[-(4 * max(map(len, stops)) + 8) :]

    def holds(count: int) -> bool:
        text = decode_text(policy, before + new[:count])
        return any(stop in text for stop in stops)

    if not holds(len(new)):
        return None
    return next(count for count in range(len(new) + 1) if holds(count))


# --- the rows on the device


class _State:
    """The rows being decoded: their caches, and the logits that the next tokens come from."""

    def __init__(self, split: SplitModel, caches: list[Any], logits: mx.array) -> None:
        self.split = split
        self.caches = caches
        self.logits = logits  # [B, V]
        self.seen: mx.array | None = None  # [B, V], where it matters which tokens came before

    def step(self, token: mx.array) -> None:
        """Takes one more token of each row in, [B]."""
        if self.seen is not None:
            self.seen = mx.put_along_axis(self.seen, token[:, None], mx.array(True), axis=1)
        hidden = self.split.trunk(token[:, None], self.caches)
        self.logits = self.split.head(hidden[:, -1])

    def keep(self, rows: mx.array) -> None:
        """Drops every row that is not among `rows` (numbers of rows, [K])."""
        self.logits = self.logits[rows]
        self.seen = None if self.seen is None else self.seen[rows]
        for cache in self.caches:
            _keep(cache, rows)


def _seen(prompts: Sequence[Sequence[int]], vocab: int) -> mx.array:
    """Which tokens each row's prompt holds, [B, V]."""
    seen = np.zeros((len(prompts), vocab), bool)
    for row, ids in zip(seen, prompts, strict=True):
        row[list(ids)] = True
    return mx.array(seen)


def _prefill(policy: Policy, prompts: list[tuple[int, ...]], n: int) -> _State:
    """Runs each prompt once and gives every row its prompt's logits."""
    if not policy.can_share_prefix:
        return _prefill_own(policy.split, prompts, n)
    split = policy.split
    prefix, last, lengths = run_prompts(split, prompts)
    owner = [p for p in range(len(prompts)) for _ in range(n)]
    caches = decode_caches(split, prefix, lengths, owner)
    return _State(split, caches, mx.repeat(split.head(last), n, axis=0))


def _prefill_own(split: SplitModel, prompts: list[tuple[int, ...]], n: int) -> _State:
    """With the model's own caches, one copy for each row, where a prompt cannot be shared.

    The prompts are of one length, since not every cache knows padding.
    """
    caches = make_prompt_cache(split.model)
    hidden = split.trunk(mx.array(prompts), caches)
    for cache in caches:
        _map_rows(cache, lambda a: mx.repeat(a, n, axis=0))
    return _State(split, caches, mx.repeat(split.head(hidden[:, -1]), n, axis=0))


def _keep(cache: Any, rows: mx.array) -> None:
    """Drops every row of a cache that is not among `rows`."""
    if isinstance(cache, CacheList):
        for inner in cache.caches:
            _keep(inner, rows)
    elif isinstance(cache, DecodeCache):
        cache.keep(rows)
    else:
        _map_rows(cache, lambda a: a[rows])


def _map_rows(cache: Any, change: Callable[[mx.array], mx.array]) -> None:
    """Applies `change` to every array [B, ...] that a cache of mlx-lm holds, in place."""
    if isinstance(cache, CacheList):
        for inner in cache.caches:
            _map_rows(inner, change)
        return
    for name, value in vars(cache).items():
        if isinstance(value, mx.array) and value.ndim > 0:
            setattr(cache, name, change(value))
        elif isinstance(value, list):
            setattr(cache, name, [change(v) if isinstance(v, mx.array) else v for v in value])
