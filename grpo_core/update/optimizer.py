"""AdamW on flat dictionaries of arrays, with fp32 masters, and the clip of the global norm.

Algorithm 2 of Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (ICLR 2019), with the
bias correction of Kingma and Ba (ICLR 2015). The corrections are computed in double precision:
1 - 0.999 in float32, as mlx.optimizers has it, is wrong from the fifth digit. The learning rate of
each step is the caller's.
"""

import math

import mlx.core as mx

from grpo_core.config import MLXGRPOConfig

Arrays = dict[str, mx.array]

# What the checkpoint calls the weights in fp32.
MASTERS = "master"


class AdamW:
    """Moments and masters of the trainable arrays, all in float32.

    A step of 1e-6 vanishes in a bfloat16 weight of 0.02, so low-precision weights are copies of
    their masters, and every step is taken on the masters.
    """

    def __init__(self, cfg: MLXGRPOConfig, trainable: Arrays) -> None:
        self.beta1, self.beta2 = cfg.adam_beta1, cfg.adam_beta2
        self.eps = cfg.adam_eps
        self.weight_decay = cfg.weight_decay
        self.steps = 0
        self.masters: Arrays = {k: trainable[k].astype(mx.float32) for k in sorted(trainable)}
        self._m: Arrays = {k: mx.zeros_like(p) for k, p in self.masters.items()}
        self._v: Arrays = {k: mx.zeros_like(p) for k, p in self.masters.items()}

    def step(self, gradients: Arrays, lr: float) -> Arrays:
        """One step at rate `lr`; returns the masters, evaluated. Gradients are float32."""
        self.steps += 1
        for name in self.masters:
            self._step_one(name, gradients[name], lr)
        mx.eval(self.masters, self._m, self._v)
        return self.masters

    def _step_one(self, name: str, g: mx.array, lr: float) -> None:
        m = self.beta1 * self._m[name] + (1 - self.beta1) * g
        v = self.beta2 * self._v[name] + (1 - self.beta2) * mx.square(g)
        unbias_m = 1 / (1 - self.beta1**self.steps)
        unbias_v = 1 / math.sqrt(1 - self.beta2**self.steps)
        update = unbias_m * m / (mx.sqrt(v) * unbias_v + self.eps)
        p = self.masters[name]
        # Replaced before they are evaluated: the old arrays' memory is used for the new ones.
        self._m[name], self._v[name] = m, v
        self.masters[name] = p - lr * (update + self.weight_decay * p)

    def parts(self) -> dict[str, Arrays]:
        """All that a step changes, for a checkpoint; `steps` goes beside it."""
        return {MASTERS: self.masters, "m": self._m, "v": self._v}

    def restore(self, parts: dict[str, Arrays], steps: int) -> None:
        """Take what `parts` gave."""
        self.steps = steps
        self.masters, self._m, self._v = parts[MASTERS], parts["m"], parts["v"]


def global_norm(gradients: Arrays) -> float:
    """The 2-norm of all gradients together; not finite where one of them is not."""
    squares = [mx.sum(mx.square(gradients[name])) for name in sorted(gradients)]
    return math.sqrt(mx.sum(mx.stack(squares)).item())  # type: ignore[arg-type]


def clip(gradients: Arrays, norm: float, max_norm: float) -> Arrays:
    """The gradients scaled so that their norm is at most `max_norm`; 0 is no limit."""
    if max_norm == 0 or norm <= max_norm:
        return gradients
    scale = max_norm / norm
    return {name: g * scale for name, g in gradients.items()}
