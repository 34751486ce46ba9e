"""Checks that the fields of several swarms need."""

from __future__ import annotations

import math
from typing import Any

from marl_bench.environment import check_integer, check_range, concrete
from marl_bench.envs.swarms import cell_lists, neighbours


def check_flags(owner: Any, *names: str) -> None:
    """Check that fields are True or False. Raises TypeError."""
    for name in names:
        if not isinstance(getattr(owner, name), bool):
            kind = type(owner).__name__
            raise TypeError(f"{name}={getattr(owner, name)!r}: must be True or False (field of {kind})")


def check_softness(owner: Any) -> None:
    """Check `softness` against `radius`, `cells` and `sensor`. Raises ValueError."""
    if owner.softness is None:
        return
    check_range(owner, "softness", 0.0, open_low=True)
    kind = type(owner).__name__
    if concrete(owner.softness) and concrete(owner.radius) and owner.softness >= owner.radius:
        raise ValueError(f"softness={owner.softness!r}: must be below the radius, {owner.radius:g} (field of {kind})")
    if owner.cells is not None or owner.sensor not in ("moment", "moment2"):
        name = "sensor" if owner.cells is None else "cells"
        raise ValueError(
            f"softness={owner.softness!r}: with {name}={getattr(owner, name)!r} the radius is sharp; use cells=None and "
            f"sensor=moment or moment2 (fields of {kind})"
        )


def check_search(owner: Any) -> None:
    """Check `radius`, `speed`, `side`, `cells` and `agents` against each other.

    Raises:
      ValueError: naming the field and a value that would do.
    """
    kind = type(owner).__name__
    known = concrete(owner.radius) and concrete(owner.side)
    if known and owner.radius > owner.side / 2:
        raise ValueError(
            f"radius={owner.radius!r}: must be at most half the side, {owner.side / 2:g} (field of {kind})"
        )
    speed = getattr(owner, "speed", 0.0)
    if concrete(speed) and concrete(owner.side) and speed > owner.side:
        raise ValueError(f"speed={speed!r}: must be at most the side, {owner.side:g} (field of {kind})")
    fitting = int(owner.side / owner.radius * (1 + 1e-6)) if known else None
    if owner.cells is not None:
        check_integer(owner, "cells", cell_lists.LEAST_CELLS, cell_lists.MOST_CELLS)
        if fitting is not None and owner.cells > fitting:
            raise ValueError(
                f"cells={owner.cells}: a cell must be at least a radius wide, so at most {fitting} fit into the side"
                f"{'' if fitting >= cell_lists.LEAST_CELLS else '; use cells=None'} (field of {kind})"
            )
    elif owner.agents > neighbours.MOST_PAIRS:
        # More cells than agents would only take memory.
        remedy = "a number of cells" if fitting is None else f"cells={min(fitting, math.isqrt(owner.agents))}"
        if fitting is not None and fitting < cell_lists.LEAST_CELLS:
            remedy = "a smaller radius, and cells"
        raise ValueError(
            f"agents={owner.agents}: all pairs are compared for at most {neighbours.MOST_PAIRS} agents; use {remedy} "
            f"(field of {kind})"
        )
