"""Predators chase a faster prey among obstacles: `tag`.

Sources: mpe2 1.1.1 `simple_tag_v3`, JaxMARL 0.2.0 `MPE_simple_tag_v3`, and the fork of OMAR and CFCQL, which shapes the rewards
and multiplies forces by the acceleration twice (spec env_mpe.md sections 2 and 3; cfcql.md section 6.2).

Agents are Q predators, then P prey; with a prey of the world only the predators. With O the predators that overlap a prey:

| | content |
|---|---|
| agents_view | float32: own velocity, own position, obstacles and other bodies relative, velocities of the (other) prey; zeros at the end where a view is shorter (`obs_valid_len`) |
| reward of predators | catch_reward * sum of O over prey (shared); omar: minus shaping * sum over predators of the distance to the nearest prey |
| reward of a prey | - catch_penalty * O - edge_penalty * (b(x) + b(y)); omar: plus shaping * sum of distances to predators |
| ends | truncated after `horizon` steps; with `terminate_on_success` when every prey is caught |
| metrics | `catches`, `distance` |
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
from marl_bench.envs.particles.chase import ChaseWorld
from marl_bench.envs.particles.particle_world import State


@struct.dataclass
class Tag(ChaseWorld):
    """Predator and prey; observation, reward, ends and metrics stand in the module's docstring.

    Raises:
      ValueError: for a value out of range. TypeError: for a value of the wrong type.
    """

    predators: int = field(3, static=True, doc="number of predators Q; >= 1", unit="agents")
    preys: int = field(1, static=True, doc="number of prey P; >= 1", unit="agents")
    obstacles: int = field(2, static=True, doc="number of obstacles; >= 0")
    terminate_on_success: bool = field(False, static=True, doc="whether catching all prey at once ends the episode")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "predators", 1)
        check_integer(self, "preys", 1)
        check_integer(self, "obstacles", 0)
        self._check_params()

    @property
    def num_predators(self) -> int:
        """Number Q of predators."""
        return self.predators

    @property
    def num_preys(self) -> int:
        """Number P of prey."""
        return self.preys

    @property
    def common_reward(self) -> bool:
        """True for predators alone: all of them are paid for every catch."""
        return self.prey != "agent"

    @property
    def num_obstacles(self) -> int:
        """Number of obstacles."""
        return self.obstacles

    @property
    def num_landmarks(self) -> int:
        """All landmarks are obstacles."""
        return self.obstacles

    @property
    def fixed_horizon(self) -> int | None:
        """`last_step`, unless success ends episodes."""
        return None if self.terminate_on_success else self.last_step

    @property
    def body_valid_len(self) -> np.ndarray:
        """[Q + P] int32: predators also see the velocities of all prey, prey those of the other prey."""
        shared = 4 + 2 * self.obstacles + 2 * (self.num_bodies - 1)
        lengths = [shared + 2 * self.preys] * self.predators + [shared + 2 * (self.preys - 1)] * self.preys
        return np.array(lengths, np.int32)

    @property
    def metric_units(self) -> dict[str, str]:
        """Meaning and unit of each metric."""
        return {
            "catches": "pairs of a predator and a prey that overlap after this step",
            "distance": "length, mean over predators of the distance to the nearest prey",
        }

    def body_views(self, state: State) -> jax.Array:
        """[A, O, ...] float32."""
        bodies = (state.position[:, 0], state.position[:, 1])
        obstacles = (state.landmark[:, 0], state.landmark[:, 1])
        parts = [state.velocity, state.position, physics.seen_from(bodies, obstacles), physics.others_from(bodies)]
        return jnp.concatenate([*parts, self.velocity_block(state)], axis=1)

    def velocity_block(self, state: State) -> jax.Array:
        """[A, 2 P, ...] velocities of all prey for predators, of the other prey and zeros for prey."""
        x, y = (jnp.broadcast_to(axis, (self.preys, *axis.shape)) for axis in self.prey_velocities(state))
        for_prey = physics.pad(physics.interleave(physics.skip_self(x), physics.skip_self(y)), 2 * self.preys)
        all_prey = physics.interleave(x[:1], y[:1])
        for_predators = jnp.broadcast_to(all_prey, (self.predators, *all_prey.shape[1:]))
        return jnp.concatenate([for_predators, for_prey])

    def body_rewards(self, state: State) -> jax.Array:
        """[A, ...] float32."""
        squared = self.chase_distances(state)
        caught = self.catches(squared)
        hunting = self.catch_reward * jnp.sum(caught, axis=0)
        fleeing = -self.catch_penalty * caught - self.edge_penalty * self.left_arena(state)
        if self.rules == "omar":
            hunting = hunting - self.shaping * jnp.sum(physics.root(jnp.min(squared, axis=1)), axis=0)
            fleeing = fleeing + self.shaping * jnp.sum(physics.root(squared), axis=0)
        return jnp.concatenate([jnp.broadcast_to(hunting, (self.predators, *hunting.shape)), fleeing])

    def metrics(self, state: State) -> dict[str, jax.Array]:
        """Metrics of a state."""
        squared = self.chase_distances(state)
        return {
            "catches": jnp.sum(self.catches(squared), axis=0),
            "distance": jnp.mean(physics.root(jnp.min(squared, axis=1)), axis=0),
        }

    def success(self, state: State) -> jax.Array | None:
        """[...] bool: is every prey caught? None unless `terminate_on_success`."""
        return jnp.all(self.catches(self.chase_distances(state)) > 0, axis=0) if self.terminate_on_success else None

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`chase`: predators run at the nearest prey, prey flee."""
        return {"chase": functools.partial(scripted.chase, self)}

    def landmark_look(self, state: State) -> list[viewer.Disc]:
        """Dark obstacles."""
        del state
        return [viewer.Disc(float(self.obstacle_size), viewer.OBSTACLE)] * self.obstacles
