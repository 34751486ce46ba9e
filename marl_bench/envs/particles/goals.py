"""What the worlds about goals share: `adversary`, `reference`, `speaker_listener` (spec env_mpe.md section 3).

Goals are landmarks; nothing collides. Where agents talk about them, each landmark has a colour.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench.environment import check_integer, check_range, field
from marl_bench.envs import raster
from marl_bench.envs.particles import rules as physics
from marl_bench.envs.particles import viewer
from marl_bench.envs.particles.particle_world import ParticleWorld, State


@struct.dataclass
class GoalWorld(ParticleWorld):
    """Base of the worlds about goals; not a world itself. A scenario has one goal for all agents, or one for each.

    Raises:
      ValueError: for a value out of range. TypeError: for a value of the wrong type.
    """

    DIALECTS = ("mpe2", "jaxmarl")

    accel: float = field(5.0, doc="force of a full action; >= 0", unit="force")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "accel", 0.0)

    def forces(self, state: State, push: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """(x, y) [N, ...]: nothing collides."""
        del state
        return self.accel * push[0], self.accel * push[1]

    def squared_distances(self, state: State) -> jax.Array:
        """[N, ...] squared distance of each agent to its goal."""
        assert state.goal is not None
        x, y = goal_place(state.landmark, state.goal)
        dx, dy = state.position[:, 0] - x, state.position[:, 1] - y
        return dx * dx + dy * dy

    def distances(self, state: State) -> jax.Array:
        """[N, ...] distance of each agent to its goal."""
        return physics.root(self.squared_distances(state))


@struct.dataclass
class TalkWorld(GoalWorld):
    """Base of the worlds in which two agents talk about coloured landmarks; not a world itself."""

    SHADES: ClassVar[tuple[Any, Any]]
    """Entry of a landmark's own colour channel, and of the others."""
    LANDMARK_SIZE: ClassVar[float]
    """Radius of a landmark in the picture, that of mpe2."""

    landmarks: int = field(3, static=True, doc="number of landmarks and colours L; >= 1")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "landmarks", 1, 127)

    @property
    def num_agents(self) -> int:
        """Two."""
        return 2

    @property
    def num_landmarks(self) -> int:
        """Number of landmarks L."""
        return self.landmarks

    def colours(self, goal: jax.Array) -> jax.Array:
        """[G, L, ...] float32 colours of the landmarks `goal` [G, ...]."""
        channels = physics.trailing(np.arange(self.landmarks)[None], goal)
        return jnp.where(goal[:, None] == channels, *self.SHADES)

    def landmark_look(self, state: State) -> list[viewer.Disc]:
        """Coloured landmarks, of mpe2's size, with a ring around each goal."""
        assert state.goal is not None
        goals = np.asarray(state.goal)
        return [
            viewer.Disc(self.LANDMARK_SIZE, raster.agent_colour(i), marked=bool((goals == i).any()))
            for i in range(self.landmarks)
        ]


def goal_place(landmark: jax.Array, goal: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(x, y) [G, ...] positions of the goals: a sum over landmarks [L, 2, ...] of which one counts, instead of a gather.

    Args:
      landmark: [L, 2, ...] float32. goal: [G, ...] integers.
    """
    indices = physics.trailing(np.arange(landmark.shape[0])[None], goal)
    chosen = goal[:, None] == indices
    x, y = (jnp.sum(jnp.where(chosen, landmark[None, :, axis], 0), axis=1) for axis in (0, 1))
    return x, y
