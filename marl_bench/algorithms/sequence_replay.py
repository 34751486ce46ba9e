"""Replay of sequences: a ring of what environments did between two updates.

A sequence is T steps of one environment with all its agents, and may hold the ends of several episodes. It is stored with the
memory that the agents had before it (the stored state of R2D2; Kapturowski et al. 2019), with the flags that clear a memory
(`is_first`), and with the true successors of its steps, so that values are bootstrapped exactly wherever an episode ends.
"""

from __future__ import annotations

import jax
from flax import struct


@struct.dataclass
class Sequences:
    """T steps of one environment with N agents; in a ring or a batch with a leading axis.

    Successors are stored for all steps, K = T, or, where episodes end with sequences only, for the last one, K = 1: the others
    are then the next views. J is N, or 1 where the team is paid as one.

    Attributes:
      view: [T, N, ...] what was acted on.
      state: [T, S] global state, or None.
      is_first: [T] bool, whether the view starts an episode.
      action: [T, N] int32.
      reward: [T, J]. discount: [T, J], 0 where the game ended.
      is_last: [T] bool, whether the step ended an episode.
      next_mask: [T, N, A] bool, legal actions after the step.
      next_view: [K, N, ...]. next_state: [K, S] or None.
      memory: [N, H] memories before the first step.
    """

    view: jax.Array
    state: jax.Array | None
    is_first: jax.Array
    action: jax.Array
    reward: jax.Array
    discount: jax.Array
    is_last: jax.Array
    next_mask: jax.Array
    next_view: jax.Array | None
    next_state: jax.Array | None
    memory: jax.Array
