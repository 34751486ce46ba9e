"""State of a grid world, and the frame that the phases of a step hand on."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.envs.grid import avatars as av

Array = jax.Array


@struct.dataclass
class WorldState:
    """State of a grid world.

    Attributes:
      avatars: `Avatars`.
      resources: the world's own pytree of small integers.
      lit: [beams, H, ceil(W / 32)] uint32, cells that each kind of beam lit in the last step (see `boards.paint`).
      key: [] typed PRNG key of the episode; draws are numbered by the step count.
      step_count: [] int32.
    """

    avatars: av.Avatars
    resources: Any
    lit: Array
    key: Array
    step_count: Array


@struct.dataclass
class Frame:
    """What the phases of a step hand on to each other.

    Attributes:
      avatars: as they are now.
      resources: as they are now.
      actions: [N] int32; NOOP for avatars that may not act.
      reward: [N] float32, so far.
      counts: name -> [N] int8, events of this step (see `GridWorld.count_names`).
      words: [num_words] uint32, the world's own random words of this step.
      count: [] int32, number of this step, from 1.
    """

    avatars: av.Avatars
    resources: Any
    actions: Array
    reward: Array
    counts: dict[str, Array]
    words: Array
    count: Array

    def holding(self, resources: Any) -> Frame:
        """The frame with these resources."""
        return self.replace(resources=resources)  # pyright: ignore[reportAttributeAccessIssue]

    def paid(self, reward: Array) -> Frame:
        """The frame with `reward` [N] added."""
        return self.replace(reward=self.reward + reward)  # pyright: ignore[reportAttributeAccessIssue]

    def counted(self, **counts: Array) -> Frame:
        """The frame with events [N] added to its counts."""
        added = {name: self.counts[name] + jnp.asarray(value, jnp.int8) for name, value in counts.items()}
        return self.replace(counts={**self.counts, **added})  # pyright: ignore[reportAttributeAccessIssue]
