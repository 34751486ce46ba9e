"""Cover the landmarks without bumping into each other: `spread`.

Sources: mpe2 1.1.1 `simple_spread_v3`, JaxMARL 0.2.0 `MPE_simple_spread_v3`, and the fork of OMAR and CFCQL, whose reward is
another one (spec env_mpe.md section 3; cfcql.md section 6.1).

| | content |
|---|---|
| agents_view | [N, 4 + 2 L + 4 (N - 1)] float32: own velocity, own position, landmarks and other agents relative, zeros (the others' silence) |
| reward | mpe2, jaxmarl: (1 - local_ratio) * minus the sum over landmarks of the distance to the nearest agent, - local_ratio * collision_penalty for each overlap of one's own; omar: sum over landmarks of min(1 / that distance, reward_cap), - collision_penalty for each overlap of one's own |
| ends | truncated after `horizon` steps; with `terminate_on_success` when every landmark has an agent within `success_radius` |
| metrics | `collisions`, `covered`, `distance` |
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
from marl_bench.envs.particles.particle_world import ParticleWorld, State

_LARGEST_OMAR = 10
"""The old engine places at most this many agents."""


@struct.dataclass
class Spread(ParticleWorld):
    """Cooperative navigation; observation, reward, ends and metrics stand in the module's docstring.

    Raises:
      ValueError: for a value out of range. TypeError: for a value of the wrong type.
    """

    agents: int = field(3, static=True, doc="number of agents N; >= 1 (omar: at most 10)", unit="agents")
    landmarks: int | None = field(None, static=True, doc="number of landmarks L; >= 1; None: one an agent")
    agent_size: float = field(0.15, doc="radius of an agent; > 0", unit="length")
    accel: float = field(5.0, doc="force of a full action; >= 0", unit="force")
    max_speed: float | None = field(None, doc="largest speed; > 0; None: no limit", unit="length / time")
    local_ratio: float = field(0.5, doc="rho, weight of the own collisions, in [0, 1] (not with omar)")
    collision_penalty: float | None = field(
        None, doc="for each other agent that one overlaps; None: 1, or 5 with omar", unit="reward"
    )
    reward_cap: float = field(10.0, doc="most that one landmark pays; > 0 (omar only)", unit="reward")
    success_radius: float = field(0.1, doc="distance within which a landmark is covered; > 0", unit="length")
    terminate_on_success: bool = field(False, static=True, doc="whether covering all landmarks ends the episode")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "agents", 1)
        if self.rules == "omar" and self.agents > _LARGEST_OMAR:
            raise ValueError(f"agents={self.agents}: rules='omar' has at most {_LARGEST_OMAR} (field of Spread)")
        if self.landmarks is not None:
            check_integer(self, "landmarks", 1)
        check_range(self, "agent_size", 0.0, open_low=True)
        check_range(self, "accel", 0.0)
        check_range(self, "max_speed", 0.0, open_low=True)
        check_range(self, "local_ratio", 0.0, 1.0)
        check_range(self, "collision_penalty")
        check_range(self, "reward_cap", 0.0, open_low=True)
        check_range(self, "success_radius", 0.0, open_low=True)

    @property
    def num_agents(self) -> int:
        """Number of agents N."""
        return self.agents

    @property
    def num_landmarks(self) -> int:
        """Number of landmarks L."""
        return self.agents if self.landmarks is None else self.landmarks

    @property
    def fixed_horizon(self) -> int | None:
        """`last_step`, unless success ends episodes."""
        return None if self.terminate_on_success else self.last_step

    @property
    def spawn_range(self) -> tuple[float, float]:
        """1, and 2 for more than three agents of the old engine."""
        side = 2.0 if self.rules == "omar" and self.agents > 3 else 1.0
        return side, side

    @property
    def obs_valid_len(self) -> np.ndarray:
        """[N] int32: all views are equally long."""
        return np.full(self.agents, 4 + 2 * self.num_landmarks + 4 * (self.agents - 1), np.int32)

    @property
    def metric_units(self) -> dict[str, str]:
        """Meaning and unit of each metric."""
        return {
            "collisions": "pairs of agents that overlap after this step",
            "covered": "landmarks with an agent within success_radius",
            "distance": "length, mean over landmarks of the distance to the nearest agent",
        }

    def forces(self, state: State, push: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """(x, y) [N, ...]: accel times the direction, and contacts between agents."""
        bodies = (state.position[:, 0], state.position[:, 1])
        reach = jnp.float32(2) * self.agent_size
        x, y = physics.contact(bodies, None, reach, self.contact_force, self.contact_margin)
        return x + self.accel * push[0], y + self.accel * push[1]

    def speed_limits(self, like: jax.Array) -> jax.Array | None:
        """[N, ...] `max_speed`."""
        return None if self.max_speed is None else physics.per_body(((self.agents, self.max_speed),), like)

    def views(self, state: State) -> jax.Array:
        """[N, O, ...] float32."""
        bodies = (state.position[:, 0], state.position[:, 1])
        landmarks = (state.landmark[:, 0], state.landmark[:, 1])
        parts = [state.velocity, state.position, physics.seen_from(bodies, landmarks), physics.others_from(bodies)]
        return physics.pad(jnp.concatenate(parts, axis=1), self.observation_shape[0])

    def rewards(self, state: State) -> jax.Array:
        """[N, ...] float32."""
        nearest = self._nearest(state)
        overlaps = self._overlaps(state)
        penalty = self.collision_penalty
        if self.rules == "omar":
            covering = jnp.sum(1 / jnp.maximum(nearest, 1 / jnp.float32(self.reward_cap)), axis=0)
            return covering - (5.0 if penalty is None else penalty) * overlaps
        covering = -jnp.sum(nearest, axis=0)
        own = -(1.0 if penalty is None else penalty) * overlaps
        return (1 - self.local_ratio) * covering + self.local_ratio * own

    def metrics(self, state: State) -> dict[str, jax.Array]:
        """Metrics of a state."""
        nearest = self._nearest(state)
        return {
            "collisions": jnp.sum(self._overlaps(state), axis=0) / 2,
            "covered": jnp.sum(nearest < self.success_radius, axis=0, dtype=jnp.float32),
            "distance": jnp.mean(nearest, axis=0),
        }

    def success(self, state: State) -> jax.Array | None:
        """[...] bool: is every landmark covered? None unless `terminate_on_success`."""
        return jnp.all(self._nearest(state) < self.success_radius, axis=0) if self.terminate_on_success else None

    def _nearest(self, state: State) -> jax.Array:
        """[L, ...] distance of each landmark to the nearest agent."""
        bodies = (state.position[:, 0], state.position[:, 1])
        landmarks = (state.landmark[:, 0], state.landmark[:, 1])
        return physics.root(jnp.min(physics.squared_distances(bodies, landmarks), axis=0))

    def _overlaps(self, state: State) -> jax.Array:
        """[N, ...] number of other agents that each overlaps."""
        bodies = (state.position[:, 0], state.position[:, 1])
        reach = jnp.float32(2) * self.agent_size
        squared = physics.squared_distances(bodies, bodies)
        apart = physics.trailing(~np.eye(self.agents, dtype=bool), squared, 2)
        return jnp.sum((squared < reach * reach) & apart, axis=1, dtype=jnp.float32)

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`cover`: agents share out the landmarks and go there."""
        return {"cover": functools.partial(scripted.cover, self)}

    def body_look(self) -> list[viewer.Disc]:
        """Blue agents."""
        return [viewer.Disc(float(self.agent_size), viewer.GOOD, 0.7)] * self.agents

    def landmark_look(self, state: State) -> list[viewer.Disc]:
        """Grey landmarks, of the packages' size."""
        del state
        return [viewer.Disc(0.05, viewer.LANDMARK)] * self.num_landmarks
