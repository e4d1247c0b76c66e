"""Our loss and its gradient beside TRL's own code, on the same log-probs.

    python benchmarks/trl_loss.py [--peer trl[==VERSION]] [--peer-venv FOLDER]

Every loss_type that TRL has, with what goes with it: on policy and later, KL term, clip-higher,
two-sided clip, weights for the sampler, off-policy mask, tokens of high entropy. Exit 1 where the
two differ by more than float32 rounds. `rloo` is TRL's in another trainer and left out; TRL's cap
of cispo is epsilon_high itself, so that it gets ours plus 1.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
if Path(sys.path[0]) == HERE:
    # Run as a script: this folder's queue.py would stand in for the standard library's.
    sys.path[0] = str(HERE.parent)

from benchmarks._trainer import peer_venv  # noqa: E402

LENGTHS = (4, 1, 6, 3, 5)
ADVANTAGES = (1.3, -0.7, -1.1, 0.0, 0.6)
LIMIT = 16
TOLERANCE = 1e-5
# Ours, and TRL's name and level for it.
LOSS_TYPES = {
    **{name: (name, "token") for name in ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo")},
    "gspo": ("grpo", "sequence"),
    "luspo": ("luspo", "sequence"),
    # Sequence-level by itself; TRL refuses another level.
    "vespo": ("vespo", "token"),
}
VARIANTS = {
    "on policy": {},
    "later": {"later": True},
    "KL": {"later": True, "kl_coeff": 0.7},
    "clip-higher": {"later": True, "clip_eps": 0.1, "clip_eps_high": 0.35},
    "two-sided": {"later": True, "clip_delta": 1.3},
    "weights": {"later": True, "rollout_is": "token_truncate", "rollout_is_max": 1.5},
    "off-policy mask": {"later": True, "off_policy_mask_threshold": 0.05},
    "top entropy": {"later": True, "top_entropy_quantile": 0.4},
}


def draw(seed):
    """Log-probs [B, T] of five completions, as four policies have them; 0 beyond their ends."""
    draw = np.random.default_rng(seed)
    mask = np.array([[float(t < n) for t in range(max(LENGTHS))] for n in LENGTHS])

    def noise(scale):
        return draw.normal(0, scale, mask.shape).astype(np.float32).astype(np.float64)

    logps = -np.abs(noise(1.5))
    old = logps + noise(0.3)
    return {
        "mask": mask,
        "logps": logps * mask,
        "old": old * mask,
        "ref": (logps + noise(0.6)) * mask,
        "sampler": (old + noise(0.3)) * mask,
        "entropies": np.abs(noise(1.0)) * mask,
    }


def case_for_trl(given, loss_type, fields):
    """The case as TRL's trainer would have it."""
    name, level = LOSS_TYPES[loss_type]
    low = fields.get("clip_eps", 0.2)
    high = fields.get("clip_eps_high", low)
    weights = None
    if "rollout_is" in fields:
        weights = np.minimum(np.exp(given["old"] - given["sampler"]), fields["rollout_is_max"])
    arrays = {
        "mask": given["mask"],
        "logps": given["logps"],
        "old": given["old"] if fields.get("later") else None,
        "ref": given["ref"],
        "weights": weights,
        "entropies": given["entropies"],
    }
    return {
        "loss_type": name,
        "level": level,
        "epsilon_low": low,
        "epsilon_high": 1 + high if loss_type == "cispo" else high,
        "delta": fields.get("clip_delta"),
        "beta": fields.get("kl_coeff", 0.0),
        "off_policy_mask_threshold": fields.get("off_policy_mask_threshold"),
        "top_entropy_quantile": fields.get("top_entropy_quantile", 1.0),
        "limit": LIMIT,
        "advantages": list(ADVANTAGES),
        **{name: None if a is None else a.tolist() for name, a in arrays.items()},
    }


def ours(given, loss_type, fields):
    """Loss and gradient [B, T] by our code."""
    import mlx.core as mx

    from grpo_core.config import MLXGRPOConfig
    from grpo_core.update.loss import Batch, Objective, Totals, entropy_threshold, objective

    known = {name: value for name, value in fields.items() if name != "later"}
    how = Objective.of(MLXGRPOConfig(loss_type=loss_type, max_new_tokens=LIMIT, **known))
    mask = given["mask"] > 0
    share = known.get("top_entropy_quantile", 1.0)
    threshold = entropy_threshold(given["entropies"][mask], share)
    tokens = int(mask.sum())
    totals = Totals(len(LENGTHS), tokens, tokens, tokens, threshold)
    arrays = {name: mx.array(a, mx.float32) for name, a in given.items()}
    batch = Batch(
        mask=arrays["mask"],
        advantage=mx.array(ADVANTAGES)[:, None],
        old=arrays["old"] if fields.get("later") else None,
        ref=arrays["ref"],
        sampler=arrays["sampler"],
    )

    def loss(logps):
        return objective(logps, arrays["entropies"], batch, how, totals)[0]

    value, gradient = mx.value_and_grad(loss)(arrays["logps"])
    return value.item(), np.array(gradient)


def trls(peer, cases):
    """The same of each case by TRL."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cases.json"
        file.write_text(json.dumps(cases))
        driver = HERE / "_trainer" / "peer_trl_loss.py"
        done = subprocess.run(peer.argv(driver, [file]), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"TRL's side ended with {done.returncode}; see above")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [(line["loss"], np.array(line["gradient"])) for line in lines]


def main():
    """Compare, and print the largest differences."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", default="trl", metavar="trl[==VERSION]")
    parser.add_argument("--peer-venv", type=Path)
    args = parser.parse_args()
    [peer] = peer_venv.peers_of([args.peer], [args.peer_venv] if args.peer_venv else [], False)
    names = [(loss_type, variant) for loss_type in LOSS_TYPES for variant in VARIANTS]
    given = [draw(number) for number in range(len(names))]
    settings = [(loss_type, VARIANTS[variant]) for loss_type, variant in names]
    pairs = list(zip(given, settings, strict=True))
    theirs = trls(peer, [case_for_trl(one, *setting) for one, setting in pairs])
    worst, apart = 0.0, []
    for (one, setting), (value, gradient), name in zip(pairs, theirs, names, strict=True):
        own_value, own_gradient = ours(one, *setting)
        off = max(abs(own_value - value), float(np.abs(own_gradient - gradient).max()))
        worst = max(worst, off)
        if off > TOLERANCE:
            apart.append(f"{', '.join(name)}: {off:.3g}")
    print(f"{len(names)} cases against {peer.version()}: largest difference {worst:.2g}")
    if apart:
        raise SystemExit("\n".join(["they differ:", *apart]))


if __name__ == "__main__":
    main()
