"""What can be trained of mlx-lm's families, tried on small random models: docs/models.md.

`python -m tests.families [FAMILY...]` tries all families, or those named, and writes their rows to
docs/models.md; 110 of them take some ten minutes. `test_families.py` holds the page to it.
"""

import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_unflatten

from grpo_core.config import MLXGRPOConfig
from grpo_core.errors import ModelError
from grpo_core.model.policy import Policy, load_policy
from grpo_core.model.random_keys import sample_key
from grpo_core.rollout.generate import generate_groups
from grpo_core.rollout.sampling import Sampling
from grpo_core.update.gradient import gradient, score
from grpo_core.update.memory_estimate import estimate, model_shape
from grpo_core.update.memory_plan import MemoryPlan
from grpo_core.update.micro_batches import Sample
from tests.rooms import ROOT
from tests.zoo import MAKES, NOT_HERE, zoo_config, zoo_folder

PAGE = ROOT / "docs" / "models.md"
SCALE, VOCAB = 4, 512
PROMPT, LIMIT, GROUP = 24, 40, 6
TEMPERATURE = 0.9
WAYS = {
    "lora": {"train_type": "lora", "quantize_for_rollouts": False},
    "lora on 4 bits": {"train_type": "lora", "quantize_for_rollouts": True},
    "full": {"train_type": "full", "quantize_for_rollouts": False},
}
HEADS = (
    *("family", *WAYS, "sampled - learnt", "gradient", "prompt shared", "lengths mixed"),
    "estimate / peak",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One family: the reasons for what does not train, and the figures of what does."""

    family: str
    faults: dict[str, str]  # by way; "" where it trains
    apart: float = 0.0  # nats, largest difference of a token's log-prob
    gradient_error: float = 0.0  # relative, by the norm
    shares: bool = False
    mixes: bool = False
    ratio: float = 0.0  # estimated over measured peak of an update

    def cells(self) -> list[str]:
        """The row of the table, but for the reasons, which stand below it."""
        trains = ["no" if fault else "yes" for fault in self.faults.values()]
        if self.faults["full"]:
            return [self.family, *trains, *["-"] * 5]
        figures = [_power(self.apart), _power(self.gradient_error)]
        can = ["yes" if ability else "no" for ability in (self.shares, self.mixes)]
        return [self.family, *trains, *figures, *can, f"{self.ratio:.2f}"]


def _power(value: float) -> str:
    """Rounded up to a power of ten, as other machines round otherwise."""
    return "0" if value == 0 else f"1e{int(np.ceil(np.log10(value)))}"


def tried(make: str) -> Row:
    """One family, tried."""
    with tempfile.TemporaryDirectory() as folder:
        model = zoo_folder(make, Path(folder) / make, scale=SCALE, vocab=VOCAB)
        faults, policies = {}, {}
        for way, fields in WAYS.items():
            try:
                policies[way] = load_policy(_config(model, **fields))
                faults[way] = ""
            except ModelError as error:
                faults[way] = str(error).replace(f"{model}: ", "")
        if faults["full"]:
            return Row(make, faults)
        policy = policies["full"]
        return Row(
            family=make,
            faults=faults,
            apart=_sampled_and_learnt(policy),
            gradient_error=_gradient_error(policy),
            shares=policy.can_share_prefix,
            mixes=policy.can_mix_lengths,
            ratio=_estimate_over_peak(make, policies.get("lora") or policy),
        )


def _config(model: Path, **fields: object) -> MLXGRPOConfig:
    sizes = {"max_prompt_length": PROMPT, "max_new_tokens": LIMIT, "num_generations": GROUP}
    more = {"lora_rank": 8, "temperature": TEMPERATURE}
    return MLXGRPOConfig(model_name=str(model), **{**sizes, **more, **fields})


def _sampled_and_learnt(policy: Policy) -> float:
    """Log-probs noted while sampling against those of the update's own pass."""
    policy = replace(policy, eos_ids=frozenset())
    prompts = [_ids(1, PROMPT), _ids(2, PROMPT // 2)]
    keys = [[sample_key(0, 0, p, s) for s in range(2)] for p in range(2)]
    groups = generate_groups(policy, prompts, 2, keys, Sampling(TEMPERATURE, LIMIT))
    cfg = _config(policy.base_path)
    worst = 0.0
    for prompt, group in zip(prompts, groups, strict=True):
        samples = [Sample(prompt, ids, 1.0) for ids in group.completions]
        [scored] = score(policy, [samples], cfg, _plan(policy, 2))
        pairs = zip(group.logprobs, scored, strict=True)
        worst = max(worst, *(float(np.abs(a - b.logprobs).max()) for a, b in pairs))
    return worst


def _gradient_error(policy: Policy) -> float:
    """The update's gradient, prompt shared and in parts, against MLX's on plain rows."""
    prompt = _ids(1, PROMPT)
    draw = np.random.default_rng(0)
    samples = [Sample(prompt, list(_ids(3 + i, 12)), float(draw.normal())) for i in range(3)]
    cfg = _config(policy.base_path, train_type="full")
    found = gradient(policy, [samples], cfg, _plan(policy, 2)).grads
    ids = mx.array([[*prompt, *sample.completion_ids] for sample in samples])
    worth = mx.array([[sample.advantage] for sample in samples])

    def loss(weights: dict[str, mx.array]) -> mx.array:
        policy.model.update(tree_unflatten(list(weights.items())))
        logits = policy.model(ids)[:, PROMPT - 1 : -1] / TEMPERATURE
        logps = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        chosen = mx.take_along_axis(logps, ids[:, PROMPT:, None], -1)[..., 0]
        return -(chosen * worth).sum() / chosen.size

    weights = policy.trainable()
    policy.model.train()
    plain = mx.grad(loss)(weights)
    policy.model.update(tree_unflatten(list(weights.items())))
    policy.model.eval()
    apart = sum(((found[name] - grad) ** 2).sum().item() for name, grad in plain.items())
    return float((apart / sum((grad**2).sum().item() for grad in plain.values())) ** 0.5)


def _estimate_over_peak(make: str, policy: Policy) -> float:
    """Of an update on one group, with adapters if they can be had."""
    cfg = _config(policy.base_path, train_type=policy.train_type, quantize_for_rollouts=False)
    samples = [Sample(_ids(1, PROMPT), list(_ids(9 + i, LIMIT)), i - 2.0) for i in range(GROUP)]
    plan = replace(_plan(policy, GROUP), logprob_chunk_tokens=GROUP * LIMIT)
    _ = policy.split.head_names
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    gradient(policy, [samples], cfg, plan)
    measured = mx.get_peak_memory() - before
    shape = model_shape(zoo_config(make, SCALE, VOCAB), cfg)
    parts = estimate(shape, replace(cfg, **plan.settings), PROMPT).update  # type: ignore[arg-type]
    return sum(part.bytes for part in parts) / measured


def _plan(policy: Policy, size: int) -> MemoryPlan:
    return MemoryPlan(size, 16, False, policy.can_share_prefix)


def _ids(seed: int, count: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.random.default_rng(seed).integers(8, VOCAB, count))


# --- the page


def rows_of(page: str) -> dict[str, list[str]]:
    """The table's rows by family, as cells."""
    table = re.search(r"<!-- families -->\n(.*?)<!-- /families -->", page, re.DOTALL)
    lines = table[1].splitlines()[2:] if table else []
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row for row in cells}


def faults_of(page: str) -> dict[str, str]:
    """The lines that say why, by family."""
    block = re.search(r"<!-- faults -->\n(.*?)<!-- /faults -->", page, re.DOTALL)
    found = re.findall(r"^- \*\*(.+?)\*\*: (.*)$", block[1] if block else "", re.MULTILINE)
    return dict(found)


def rendered(page: str, rows: dict[str, list[str]], faults: dict[str, str]) -> str:
    """The page with these rows and reasons, in the order of their names."""
    lines = [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
    lines += [f"| {' | '.join(rows[name])} |" for name in sorted(rows)]
    reasons = [f"- **{name}**: {faults[name]}" for name in sorted(faults)]
    for block, text in (("families", lines), ("faults", reasons)):
        pattern = rf"(<!-- {block} -->\n).*?(<!-- /{block} -->)"
        body = "".join(f"{line}\n" for line in text)
        page = re.sub(pattern, lambda m, b=body: m[1] + b + m[2], page, flags=re.DOTALL)
    return page


def reasons(row: Row) -> str:
    """Why what does not train does not, in one line; "" where all does."""
    by_reason: dict[str, list[str]] = {}
    for way, fault in row.faults.items():
        if fault:
            by_reason.setdefault(fault, []).append(way)
    parts = []
    for fault, ways in by_reason.items():
        where = "" if len(ways) == len(WAYS) else f"{', '.join(ways)}: "
        parts.append(where + re.sub(r"\d+\.\d+ nats", "... nats", fault))
    return "; ".join(parts)


def _write(makes: list[str]) -> Iterator[str]:
    for make in makes:
        row, page = tried(make), PAGE.read_text(encoding="utf-8")
        rows, faults = rows_of(page), faults_of(page) | NOT_HERE
        rows[make] = row.cells()
        faults.pop(make, None)
        faults |= {make: reasons(row)} if reasons(row) else {}
        PAGE.write_text(rendered(page, rows, faults), encoding="utf-8")
        yield " | ".join(row.cells()) + " " + reasons(row)


if __name__ == "__main__":
    for said in _write(sys.argv[1:] or list(MAKES)):
        print(said, flush=True)
