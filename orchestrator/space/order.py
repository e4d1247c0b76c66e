"""Formulas and conditions in the order in which they can be computed."""

from collections.abc import Collection, Mapping

from orchestrator.errors import SpecError


def in_order(needs: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """The keys, each after those of its needs that are keys too; else in the given order.

    Raises SpecError that names the circle where there is one.
    """
    waiting = dict(needs)
    ordered: list[str] = []
    while waiting:
        ready = next((k for k, names in waiting.items() if not waiting.keys() & set(names)), None)
        if ready is None:
            circle = _circle(waiting)
            raise SpecError(f"{circle[0]} needs itself: {' <- '.join(circle)}")
        ordered.append(ready)
        del waiting[ready]
    return tuple(ordered)


def _circle(needs: Mapping[str, Collection[str]]) -> list[str]:
    """A way from a key back to itself; every key has a need among the keys."""
    path = [next(iter(needs))]
    while True:
        following = next(name for name in needs[path[-1]] if name in needs)
        if following in path:
            return [*path[path.index(following) :], following]
        path.append(following)
