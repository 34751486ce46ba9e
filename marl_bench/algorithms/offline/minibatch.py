"""Recorded steps of continuous actions, in the units that networks read."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.datasets.sampling import actions_after, step_rows, transitions_at
from marl_bench.datasets.source import OfflineSource


@struct.dataclass
class Minibatch:
    """n recorded steps, agents (or judges, see `td3`) in front.

    Attributes:
      view, next_view: [N, n, ...].
      action: [N, n, D] in units of the bounds. next_action: of the next step, or of this one at an episode's end; may be None.
      read, next_read: [J, n, S] what judges see.
      reward, discount: [J, n].
    """

    view: jax.Array
    next_view: jax.Array
    action: jax.Array
    next_action: jax.Array | None
    read: jax.Array
    next_read: jax.Array
    reward: jax.Array
    discount: jax.Array


@struct.dataclass
class Recorded:
    """n recorded steps as they are stored, in the units of `Minibatch`.

    Attributes:
      view, next_view: [n, N, ...]. action, next_action: [n, N, D]; next_action may be None.
      state, next_state: [n, S] or None. reward, discount: [n, N].
    """

    view: jax.Array
    next_view: jax.Array
    action: jax.Array
    next_action: jax.Array | None
    state: jax.Array | None
    next_state: jax.Array | None
    reward: jax.Array
    discount: jax.Array


def recorded(
    source: OfflineSource, params: Any, key: jax.Array, size: int, standardise: bool, next_action: bool
) -> Recorded:
    """`size` steps drawn uniformly with replacement.

    Args:
      params: {"low", "high": [N, D], "view": {"mean", "std": [N, ...]}}.
      standardise: by "view" and, for states, by the source's statistics. next_action: whether those are wanted.
    """
    data, part, low, high = source.data, source.part, params["low"], params["high"]
    assert data is not None
    rows = step_rows(data, part, key, size)
    drawn = transitions_at(data, part, rows)
    view, next_view = drawn.view.astype(jnp.float32), drawn.next_view.astype(jnp.float32)
    state, next_state = drawn.state, drawn.next_state
    if standardise:
        mean, std = params["view"]["mean"], params["view"]["std"]
        view, next_view = (view - mean) / std, (next_view - mean) / std
        mean, std = source.statistics.state_mean, source.statistics.state_std
        state, next_state = (None if leaf is None else (leaf - mean) / std for leaf in (state, next_state))

    def in_units(action: jax.Array) -> jax.Array:
        # What was recorded with noise may lie outside of the bounds, where no policy goes.
        return jnp.clip(2.0 * (action - low) / (high - low) - 1.0, -1.0, 1.0)

    return Recorded(
        view=view,
        next_view=next_view,
        action=in_units(drawn.action),
        next_action=in_units(actions_after(data, part, rows)) if next_action else None,
        state=state,
        next_state=next_state,
        reward=drawn.reward,
        discount=drawn.discount,
    )
