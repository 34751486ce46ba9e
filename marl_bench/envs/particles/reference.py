"""Two agents, each of which knows the other's goal and must tell: `reference`.

Sources: mpe2 1.1.1 `simple_reference_v3`, JaxMARL 0.2.0 `MPE_simple_reference_v3` (spec env_mpe.md section 3).

`goal[i]` is where agent i should go, and only the other one knows it. Agents pass through each other.

| | content |
|---|---|
| actions | integer: move + 5 * word; vector [2 + C]: direction, message |
| agents_view | [2, 2 + 2 L + L + C] float32: own velocity, landmarks relative, colour of the *other's* goal (L entries: 0.75 at the goal's, else 0.25), the other's last message |
| reward | (1 - local_ratio) * mean of both own terms + local_ratio * the own one, which is minus the distance of the *other* agent to its goal |
| ends | truncated after `horizon` steps |
| metrics | `distance` |
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench.environment import ScriptedPolicy, check_integer, check_range, field
from marl_bench.envs.particles import rules as physics
from marl_bench.envs.particles import scripted, viewer
from marl_bench.envs.particles.goals import TalkWorld
from marl_bench.envs.particles.particle_world import State


@struct.dataclass
class Reference(TalkWorld):
    """Mutual reference; everything else stands in the module's docstring.

    Raises:
      ValueError: for a value out of range. TypeError: for a value of the wrong type.
    """

    SHADES = (np.float32(0.75), np.float32(0.25))
    LANDMARK_SIZE = 0.05

    words: int = field(10, static=True, doc="number of words C; >= 1")
    local_ratio: float = field(0.5, doc="rho, weight of the own term, in [0, 1]")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "words", 1)
        check_range(self, "local_ratio", 0.0, 1.0)

    @property
    def num_goals(self) -> int:
        """One an agent."""
        return 2

    @property
    def num_speakers(self) -> int:
        """Both."""
        return 2

    @property
    def dim_message(self) -> int:
        """Number of words C."""
        return self.words

    @property
    def obs_valid_len(self) -> np.ndarray:
        """[2] int32: both views are equally long."""
        return np.full(2, 2 + 3 * self.landmarks + self.words, np.int32)

    @property
    def metric_units(self) -> dict[str, str]:
        """Meaning and unit of each metric."""
        return {"distance": "length, mean over agents of the distance to their goal"}

    def views(self, state: State) -> jax.Array:
        """[2, O, ...] float32."""
        assert state.goal is not None and state.message is not None
        bodies = (state.position[:, 0], state.position[:, 1])
        landmarks = (state.landmark[:, 0], state.landmark[:, 1])
        told, heard = self.colours(state.goal[::-1]), state.message[::-1]
        parts = [state.velocity, physics.seen_from(bodies, landmarks), told, heard]
        return jnp.concatenate(parts, axis=1)

    def rewards(self, state: State) -> jax.Array:
        """[2, ...] float32."""
        own = -self.distances(state)[::-1]
        return (1 - self.local_ratio) * jnp.mean(own, axis=0) + self.local_ratio * own

    def metrics(self, state: State) -> dict[str, jax.Array]:
        """Metrics of a state."""
        return {"distance": jnp.mean(self.distances(state), axis=0)}

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`refer`: each tells the other its goal, and goes where it is told."""
        return {"refer": functools.partial(scripted.refer, self)}

    def body_look(self) -> list[viewer.Disc]:
        """Blue agents, of mpe2's size."""
        return [viewer.Disc(0.05, viewer.GOOD)] * 2
