"""Cells of a pack one after the other, where that is faster than all at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax


def in_turn(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of pytrees, which under `vmap` runs for one element after the other on a CPU.

    What one cell works on then stays in the cache: critic steps with many rows take less than half the time on a CPU. On other
    devices, and where a pack is divided over several, nothing changes. Not for functions that are differentiated from outside.
    """

    def called(*args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)

        @jax.custom_batching.custom_vmap
        def flat(*leaves: Any) -> Any:
            return function(*jax.tree.unflatten(structure, leaves))

        @flat.def_vmap
        def rule(size: int, batched: list[bool], *leaves: Any) -> tuple[Any, Any]:
            del size
            if jax.default_backend() != "cpu" or jax.device_count() > 1:
                out = jax.vmap(flat.fun, [0 if moving else None for moving in batched])(*leaves)
            else:
                moving = [leaf for leaf, moves in zip(leaves, batched, strict=True) if moves]

                def one(moving: list[Any]) -> Any:
                    rest = iter(moving)
                    return flat.fun(
                        *(next(rest) if moves else leaf for leaf, moves in zip(leaves, batched, strict=True))
                    )

                out = jax.lax.map(one, moving)
            return out, jax.tree.map(lambda leaf: True, out)

        return flat(*leaves)

    return called
