"""Where a model keeps the arrays that are trained, found once.

mlx walks over all modules for each look and each change, a millisecond in the smallest model, some
times an update. Layers may be exchanged meanwhile (`Policy.reference`), as long as the same ones
are put back; one that is wrapped for good is found only by a new walk.
"""

from typing import Any

import mlx.nn as nn
from mlx.utils import tree_flatten

from grpo_core.model.trunk_head import Params


class TrainedWeights:
    """The trainable arrays of a model by their flat names, in the order of mlx."""

    def __init__(self, model: nn.Module) -> None:
        names: Params = dict(tree_flatten(model.trainable_parameters()))
        self._places = {name: _place(model, name.split(".")) for name in names}

    def arrays(self) -> Params:
        """What the model holds now."""
        return {name: holder[key] for name, (holder, key) in self._places.items()}

    def put(self, arrays: Params) -> None:
        """Put arrays into the model as they are; all of them, or some by their names."""
        for name, array in arrays.items():
            holder, key = self._places[name]
            holder[key] = array


def _place(model: nn.Module, path: list[str]) -> tuple[Any, Any]:
    """The module, dictionary or list that holds the array of that path, and its key there."""
    holder: Any = model
    for part in path[:-1]:
        holder = holder[_key(holder, part)]
    return holder, _key(holder, path[-1])


def _key(holder: Any, part: str) -> str | int:
    return int(part) if isinstance(holder, list) else part
