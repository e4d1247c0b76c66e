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
from mlx_lm.models.cache import make_prompt_cache

from grpo_core.errors import Diverged, Interrupted
from grpo_core.model.decode_cache import change_rows, join_rows, keep_rows, parts_of
from grpo_core.model.finite import first_fault, gives_numbers
from grpo_core.model.lean_operations import lean_operations
from grpo_core.model.policy import Policy
from grpo_core.model.random_keys import Key, to_array
from grpo_core.model.shared_prefix import decode_caches, run_prompts
from grpo_core.model.trunk_head import SplitModel
from grpo_core.rollout.sampling import Drawn, Sampling, draw

# Steps between two looks of the host: a row that has ended decodes this many tokens too much.
LOOK_EVERY = 8

# Rows decoded together; beyond it the gain is small and the caches grow.
MAX_ROWS = 128

# New rows begin where they fill this part of the places: a quarter.
REFILL = 4


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
    rows = [
        [_Row(ids, keys[p][s] if keys is not None else (0, 0)) for s in range(n)]
        for p, ids in enumerate(prompts)
    ]
    for batch in _batches(policy, rows, most_rows):
        _decode(policy, batch, sampling, should_stop, most_rows)
    return [_group(policy, group, sampling) for group in rows]


def _batches(
    policy: Policy, groups: Sequence[list["_Row"]], most_rows: int
) -> Iterator[list[list["_Row"]]]:
    """What decodes together, in parts that begin together: rows of one prompt, at most so many.

    Prompts of similar length are neighbours. Where a model can decode rows of several lengths all
    is one batch, in which later parts take the places of rows that have ended; else a batch has
    prompts of one length, and no more rows than have places.
    """
    parts = [
        group[start : start + most_rows]
        for group in sorted(groups, key=lambda group: len(group[0].prompt_ids))
        for start in range(0, len(group), most_rows)
    ]
    if policy.can_share_prefix and policy.can_mix_lengths:
        yield parts
        return
    batch: list[list[_Row]] = []
    for part in parts:
        fits = sum(map(len, batch)) + len(part) <= most_rows
        if batch and not (fits and len(part[0].prompt_ids) == len(batch[0][0].prompt_ids)):
            yield batch
            batch = []
        batch.append(part)
    yield batch


@dataclass(slots=True)
class _Row:
    """One completion as it grows, on the host."""

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
    parts: Sequence[list[_Row]],
    sampling: Sampling,
    should_stop: Callable[[], bool] | None,
    most_rows: int,
) -> None:
    """Fills the rows of all `parts`, each of one prompt.

    Which rows are in the batch follows from tokens alone, never from time, so that a run that is
    killed draws the same to the last bit.
    """
    waiting = list(parts)
    alive: list[_Row] = []
    state: _State | None = None
    while alive or waiting:
        begin = _next_parts(waiting, most_rows - len(alive), most_rows)
        if begin:
            del waiting[: len(begin)]
            state = _joined(state, _prefill(policy, begin, sampling))
            alive += [row for part in begin for row in part]
        assert state is not None
        if should_stop is not None and should_stop():
            raise Interrupted("stopped while sampling; the same command goes on")
        # That of the row that has the farthest to go.
        left = sampling.max_tokens - min(len(row.tokens) for row in alive)
        drawn = state.draw(min(LOOK_EVERY, left), sampling, goes_on=left > LOOK_EVERY)
        _look(policy, alive, drawn, sampling)
        kept = [i for i, row in enumerate(alive) if not row.done]
        if not kept:
            state = None
        elif len(kept) < len(alive):
            state.keep(kept)
        alive = [alive[i] for i in kept]


def _next_parts(waiting: list[list[_Row]], room: int, most_rows: int) -> list[list[_Row]]:
    """Those of the waiting parts that begin now, which have `room` in all.

    Beside rows under way only as many as are worth it: all caches move.
    """
    begin: list[list[_Row]] = []
    rows = 0
    for part in waiting:
        if rows + len(part) > room:
            break
        begin.append(part)
        rows += len(part)
    is_worth_it = room == most_rows or len(begin) == len(waiting) or rows * REFILL >= most_rows
    return begin if is_worth_it else []


def _look(policy: Policy, rows: list[_Row], drawn: list[Drawn], sampling: Sampling) -> None:
    """Brings the tokens of some steps to the host and ends the rows that have ended."""
    tokens = mx.stack([d[0] for d in drawn], axis=1)
    logps = mx.stack([d[1] for d in drawn], axis=1)
    sampler_logps = mx.stack([d[2] for d in drawn], axis=1) if sampling.filters else logps
    mx.eval(tokens, logps, sampler_logps)
    parts = (np.array(tokens), np.array(logps), np.array(sampler_logps))
    for row, ids, own, sampled in zip(rows, *parts, strict=True):
        left = sampling.max_tokens - len(row.tokens)
        keep = _length(policy, row.tokens, ids[:left].tolist(), sampling)
        row.finished = keep is not None
        keep = min(len(ids), left) if keep is None else keep
        if not np.isfinite(own[:keep]).all():
            raise _no_numbers(policy, [*row.prompt_ids, *row.tokens])
        row.tokens += ids[:keep].tolist()
        row.logps += own[:keep].tolist()
        if sampling.filters:
            row.sampler_logps += sampled[:keep].tolist()
        row.done = row.finished or keep == left


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
    """The rows being decoded: their caches, and what their next tokens come from."""

    def __init__(
        self,
        split: SplitModel,
        caches: list[Any],
        logits: mx.array,
        keys: mx.array,
        seen: mx.array | None,
    ) -> None:
        self.split = split
        self.caches = caches
        self.logits = logits  # [B, V]
        self.keys = keys  # [B, 2], of the next tokens
        self.seen = seen  # [B, V], where it matters which tokens came before

    def draw(self, count: int, sampling: Sampling, goes_on: bool) -> list[Drawn]:
        """The next `count` tokens of each row; whether any row `goes_on` behind them."""
        drawn: list[Drawn] = []
        for t in range(count):
            drawn.append(draw(self.logits, self.keys, t, sampling, self.seen))
            # At once, so that no two steps' logits are alive; the host does not wait for it.
            mx.async_eval(*drawn[-1])  # type: ignore[no-untyped-call]
            if goes_on or t + 1 < count:
                self._step(drawn[-1][0][:, None])
        self.keys = self.keys + mx.array([0, count], mx.uint32)
        return drawn

    def _step(self, token: mx.array) -> None:
        """Takes one more token of each row in, [B, 1]."""
        if self.seen is not None:
            self.seen = mx.put_along_axis(self.seen, token, mx.array(True), axis=1)
        hidden = self.split.trunk(token, self.caches)
        self.logits = self.split.head(hidden[:, -1])

    def keep(self, rows: Sequence[int]) -> None:
        """Drops every row that is not among these."""
        index = mx.array(list(rows))
        self.logits, self.keys = self.logits[index], self.keys[index]
        self.seen = None if self.seen is None else self.seen[index]
        keep_rows(self.caches, rows)

    def join(self, other: "_State") -> None:
        """Adds the rows of `other`, which cannot be used any more."""
        self.logits = mx.concatenate([self.logits, other.logits])
        mx.eval(self.logits)  # which would hold all layers' old keys and values until it is made
        self.keys = mx.concatenate([self.keys, other.keys])
        if self.seen is not None and other.seen is not None:
            self.seen = mx.concatenate([self.seen, other.seen])
        join_rows(self.caches, other.caches)


def _joined(state: _State | None, new: _State) -> _State:
    if state is None:
        return new
    state.join(new)
    return state


def _prefill(policy: Policy, parts: Sequence[list[_Row]], sampling: Sampling) -> _State:
    """Runs each part's prompt once and gives every row its prompt's logits."""
    split = policy.split
    prompts = [part[0].prompt_ids for part in parts]
    owner = [p for p, part in enumerate(parts) for _ in part]
    keys = to_array([row.key for part in parts for row in part])
    if policy.can_share_prefix:
        prefix, last, lengths = run_prompts(split, prompts)
        caches = decode_caches(split, prefix, lengths, owner)
    else:
        caches, last = _run_in_own_caches(split, prompts, owner)
    logits = split.head(last)
    seen = _seen(prompts, logits.shape[-1]) if sampling.penalises else None
    rows = mx.array(owner)
    return _State(split, caches, logits[rows], keys, None if seen is None else seen[rows])


def _seen(prompts: Sequence[Sequence[int]], vocab: int) -> mx.array:
    """Which tokens each prompt holds, [P, V]."""
    seen = np.zeros((len(prompts), vocab), bool)
    for row, ids in zip(seen, prompts, strict=True):
        row[list(ids)] = True
    return mx.array(seen)


def _run_in_own_caches(
    split: SplitModel, prompts: Sequence[tuple[int, ...]], owner: Sequence[int]
) -> tuple[list[Any], mx.array]:
    """The model's own caches, one copy for each row, where a prompt cannot be shared.

    The prompts are of one length, since not every cache knows padding. Beside them the prompts'
    last states [P, D].
    """
    caches = make_prompt_cache(split.model)
    hidden = split.trunk(mx.array(list(prompts)), caches)
    rows = mx.array(list(owner))
    for part in parts_of(caches):
        change_rows(part, lambda a: a[rows])
    return caches, hidden[:, -1]
