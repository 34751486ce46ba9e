"""Good agents cover a goal that an adversary does not know: `adversary`.

Sources: mpe2 1.1.1 `simple_adversary_v3`, JaxMARL 0.2.0 `MPE_simple_adversary_v3` (spec env_mpe.md section 3).

Agents are the adversaries, then the good ones; they pass through each other.

| | content |
|---|---|
| agents_view | float32: good agents: goal relative, landmarks relative, other agents relative; adversaries: the same without the goal, two zeros at the end |
| reward | adversary: minus its distance to the goal; good agents (shared): minus the distance of the nearest good agent to the goal, plus the sum of the adversaries' distances |
| ends | truncated after `horizon` steps |
| metrics | `good_distance`, `adversary_distance` |
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench.environment import ScriptedPolicy, check_integer, field
from marl_bench.envs.particles import rules as physics
from marl_bench.envs.particles import scripted, viewer
from marl_bench.envs.particles.goals import GoalWorld, goal_place
from marl_bench.envs.particles.particle_world import State


@struct.dataclass
class Adversary(GoalWorld):
    """Physical deception; everything else stands in the module's docstring.

    Raises:
      ValueError: for a value out of range. TypeError: for a value of the wrong type.
    """

    adversaries: int = field(1, static=True, doc="number of adversaries; >= 1", unit="agents")
    good: int = field(2, static=True, doc="number of good agents; >= 1", unit="agents")
    landmarks: int | None = field(None, static=True, doc="number of landmarks L; >= 1; None: one a good agent")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "adversaries", 1)
        check_integer(self, "good", 1, 127)
        if self.landmarks is not None:
            check_integer(self, "landmarks", 1, 127)

    @property
    def num_agents(self) -> int:
        """Adversaries and good agents."""
        return self.adversaries + self.good

    @property
    def agent_types(self) -> tuple[int, ...]:
        """0 for adversaries, 1 for good agents."""
        return (0,) * self.adversaries + (1,) * self.good

    @property
    def num_landmarks(self) -> int:
        """Number of landmarks L."""
        return self.good if self.landmarks is None else self.landmarks

    @property
    def num_goals(self) -> int:
        """One."""
        return 1

    @property
    def obs_valid_len(self) -> np.ndarray:
        """[N] int32: good agents see two entries more."""
        shared = 2 * self.num_landmarks + 2 * (self.num_agents - 1)
        return np.array([shared] * self.adversaries + [shared + 2] * self.good, np.int32)

    @property
    def metric_units(self) -> dict[str, str]:
        """Meaning and unit of each metric."""
        return {
            "good_distance": "length, between the goal and the nearest good agent",
            "adversary_distance": "length, mean over adversaries of the distance to the goal",
        }

    def views(self, state: State) -> jax.Array:
        """[N, O, ...] float32."""
        assert state.goal is not None
        bodies = (state.position[:, 0], state.position[:, 1])
        goal = physics.seen_from(bodies, goal_place(state.landmark, state.goal))
        landmarks = physics.seen_from(bodies, (state.landmark[:, 0], state.landmark[:, 1]))
        shared = jnp.concatenate([landmarks, physics.others_from(bodies)], axis=1)
        adversaries = physics.pad(shared[: self.adversaries], self.observation_shape[0])
        good = jnp.concatenate([goal[self.adversaries :], shared[self.adversaries :]], axis=1)
        return jnp.concatenate([adversaries, good])

    def rewards(self, state: State) -> jax.Array:
        """[N, ...] float32."""
        distances = self.distances(state)
        bad = distances[: self.adversaries]
        shared = jnp.sum(bad, axis=0) - jnp.min(distances[self.adversaries :], axis=0)
        return jnp.concatenate([-bad, jnp.broadcast_to(shared, (self.good, *shared.shape))])

    def metrics(self, state: State) -> dict[str, jax.Array]:
        """Metrics of a state."""
        distances = self.distances(state)
        return {
            "good_distance": jnp.min(distances[self.adversaries :], axis=0),
            "adversary_distance": jnp.mean(distances[: self.adversaries], axis=0),
        }

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`deceive`: good agents cover all landmarks, adversaries wait in the middle."""
        return {"deceive": functools.partial(scripted.deceive, self)}

    def body_look(self) -> list[viewer.Disc]:
        """Red adversaries, blue good agents, of the packages' size."""
        bad = [viewer.Disc(0.15, viewer.PREDATOR, 0.7)] * self.adversaries
        return bad + [viewer.Disc(0.15, viewer.GOOD, 0.7)] * self.good

    def landmark_look(self, state: State) -> list[viewer.Disc]:
        """Grey landmarks, of the packages' size, with a ring around the goal."""
        assert state.goal is not None
        goal = int(np.asarray(state.goal)[0])
        return [viewer.Disc(0.08, viewer.LANDMARK, marked=i == goal) for i in range(self.num_landmarks)]
