"""How a batch lies in memory: behind all other axes, where that compiles to better loops.

`jax.vmap` puts the batch in front, so the innermost loops of a compiled program run over a few agents or foods. With the batch
behind they run over the batch, as long vector loops. For rules that are written so that further axes may stand behind their
own, `batch_last` makes `vmap` do that, without anything to change for whoever calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def batch_last(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with another implementation of `jax.vmap`: axis 0 is moved behind, `function` called once, and moved back.

    Args:
      function: takes and returns pytrees of arrays (no keys). Called with one more axis behind the others of *every*
        argument, it must return the results with that axis behind. It may close over Python values, not over tracers.
    Returns:
      A function of the same arguments and results; a second `vmap` around the first batches as usual.
    """
    wrapped = jax.custom_batching.custom_vmap(function)

    @wrapped.def_vmap
    def rule(axis_size: int, in_batched: Sequence[Any], *arguments: Any) -> tuple[Any, Any]:
        def behind(leaf: jax.Array, batched: bool) -> jax.Array:
            if batched:
                return jnp.moveaxis(leaf, 0, -1)
            return jnp.broadcast_to(jnp.asarray(leaf)[..., None], (*jnp.shape(leaf), axis_size))

        results = function(*jax.tree.map(behind, arguments, tuple(in_batched)))
        results = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), results)
        return results, jax.tree.map(lambda leaf: True, results)

    return wrapped
