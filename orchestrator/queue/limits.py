"""When a run or its sweep has used up what the spec allows: time trained, and disk.

Time is what attempts have trained, without waiting for a device or standing still, summed over
attempts; disk is what lies in the output folders. Past `run_wall` a run fails; past `wall` or
`disk` the sweep is held with its run back in the queue, and `resume` lifts that limit.
"""

from dataclasses import dataclass, replace

from orchestrator.run import HoldCode, Limits


@dataclass(frozen=True)
class Breach:
    """A limit that is used up, and what to say.

    `hold` is what then holds the sweep; None: it is the run alone that ends.
    """

    hold: HoldCode | None
    text: str


@dataclass(frozen=True)
class Used:
    """Seconds trained by this run and by its whole sweep, and the bytes in the sweep's folders."""

    run_s: float
    sweep_s: float
    sweep_bytes: int


def breach(limits: Limits, used: Used) -> Breach | None:
    """The first limit that is used up; None while there is room."""
    if limits.run_wall_s is not None and used.run_s > limits.run_wall_s:
        return Breach(None, f"limits.run_wall: trained for {used.run_s:.0f} s")
    if limits.wall_s is not None and used.sweep_s > limits.wall_s:
        return Breach(
            HoldCode.WALL, f"limits.wall: {used.sweep_s:.0f} s trained; resume lifts the limit"
        )
    if limits.disk_bytes is not None and used.sweep_bytes > limits.disk_bytes:
        gigabytes = used.sweep_bytes / 1e9
        return Breach(
            HoldCode.DISK, f"limits.disk: {gigabytes:.3g} GB written; resume lifts the limit"
        )
    return None


def lift(limits: Limits, held_by: HoldCode | None) -> Limits:
    """The limits without the one that held the sweep, if it was one of them."""
    if held_by is HoldCode.WALL:
        return replace(limits, wall_s=None)
    return replace(limits, disk_bytes=None) if held_by is HoldCode.DISK else limits
