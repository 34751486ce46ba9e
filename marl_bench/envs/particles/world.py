"""Predators chase prey that eat and hide: `world`.

Sources: `simple_world` of the fork of OMAR and CFCQL with `rules="omar"` (3 predators, 1 prey, nobody speaks or hides);
`simple_world_comm_v3` of mpe2 1.1.1 and JaxMARL 0.2.0 with the other rules (a leader that speaks, 3 more predators, 2 prey,
forests that hide). Spec env_mpe.md section 3; cfcql.md section 6.3.

Bodies are Q predators (the leader first), then P prey. With O the predators that overlap a prey, b the penalty of leaving
the arena:

| | content |
|---|---|
| actions | as in `actions`; with mpe2 and jaxmarl the leader also speaks (4 words) |
| agents_view | float32: own velocity and position, landmarks relative (obstacles, food, forests), other bodies relative, then predators: velocities of the prey, in-forest flags (1, -1), leader's message (not omar); prey: in-forest flags, velocities of the other prey (omar: the other way round); zeros at the end (`obs_valid_len`) |
| hiding | mpe2, jaxmarl: position and velocity of another body are zeros, unless both are in a common forest, or both in none, or the observer is the leader |
| reward of predators | catch_reward * sum of O (shared), omar: - shaping * sum over predators of the distance to the nearest prey; else - shaping * the own one |
| reward of a prey | - catch_penalty * O - edge_penalty * (b(x) + b(y)) + food_reward for each food it overlaps, - food_shaping * distance to the nearest food; omar: *plus* that, and plus shaping * sum of distances to predators |
| ends | truncated after `horizon` steps |
| metrics | `catches`, `distance`, `eaten` |
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench.environment import ScriptedPolicy, check_integer, check_range, field
from marl_bench.envs.particles import rules as physics
from marl_bench.envs.particles import scripted, viewer
from marl_bench.envs.particles.chase import ChaseWorld
from marl_bench.envs.particles.particle_world import State

_WORDS = 4


@struct.dataclass
class World(ChaseWorld):
    """Predators, prey, food and forests; everything else stands in the module's docstring.

    Raises:
      ValueError: for a value out of range. TypeError: for a value of the wrong type.
    """

    prey_size: float = field(0.045, doc="radius of a prey; > 0", unit="length")
    catch_reward: float = field(5.0, doc="for the predators, for each predator that overlaps a prey", unit="reward")
    catch_penalty: float = field(5.0, doc="for a prey, for each predator that overlaps it", unit="reward")
    edge_penalty: float = field(2.0, doc="for a prey, times the penalty of leaving the arena", unit="reward")
    predators: int | None = field(
        None, static=True, doc="number of predators Q; None: 4, or 3 with omar", unit="agents"
    )
    preys: int | None = field(None, static=True, doc="number of prey P; None: 2, or 1 with omar", unit="agents")
    obstacles: int = field(1, static=True, doc="number of obstacles; >= 0")
    food: int = field(2, static=True, doc="number of food places; >= 1")
    forests: int = field(2, static=True, doc="number of forests; >= 0")
    food_size: float = field(0.03, doc="radius of a food place; > 0", unit="length")
    forest_size: float = field(0.3, doc="radius of a forest; > 0", unit="length")
    food_reward: float = field(2.0, doc="for a prey, for each food place it overlaps", unit="reward")
    food_shaping: float = field(0.05, doc="weight of a prey's distance to the nearest food", unit="reward / length")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("predators", "preys"):
            if getattr(self, name) is not None:
                check_integer(self, name, 1)
        for name, low in (("obstacles", 0), ("food", 1), ("forests", 0)):
            check_integer(self, name, low)
        for name in ("food_size", "forest_size"):
            check_range(self, name, 0.0, open_low=True)
        for name in ("food_reward", "food_shaping"):
            check_range(self, name)
        self._check_params()

    # --- sizes -----------------------------------------------------------------------------------

    @property
    def num_predators(self) -> int:
        """Number Q of predators."""
        return (3 if self.rules == "omar" else 4) if self.predators is None else self.predators

    @property
    def num_preys(self) -> int:
        """Number P of prey."""
        return (1 if self.rules == "omar" else 2) if self.preys is None else self.preys

    @property
    def num_obstacles(self) -> int:
        """Number of obstacles, the first landmarks."""
        return self.obstacles

    @property
    def num_landmarks(self) -> int:
        """Obstacles, then food, then forests."""
        return self.obstacles + self.food + self.forests

    @property
    def num_speakers(self) -> int:
        """The leader, except with omar."""
        return 0 if self.rules == "omar" else 1

    @property
    def dim_message(self) -> int:
        """Number of words C."""
        return _WORDS * self.num_speakers

    @property
    def body_valid_len(self) -> np.ndarray:
        """[Q + P] int32."""
        shared = 4 + 2 * self.num_landmarks + 2 * (self.num_bodies - 1) + self.forests
        predator = shared + 2 * self.num_preys + self.dim_message
        prey = shared + 2 * (self.num_preys - 1)
        return np.array([predator] * self.num_predators + [prey] * self.num_preys, np.int32)

    @property
    def metric_units(self) -> dict[str, str]:
        """Meaning and unit of each metric."""
        return {
            "catches": "pairs of a predator and a prey that overlap after this step",
            "distance": "length, mean over predators of the distance to the nearest prey",
            "eaten": "pairs of a prey and a food place that overlap after this step",
        }

    # --- places ----------------------------------------------------------------------------------

    def food_places(self, state: State) -> tuple[jax.Array, jax.Array]:
        """(x, y) [F, ...] positions of the food."""
        rows = slice(self.obstacles, self.obstacles + self.food)
        return state.landmark[rows, 0], state.landmark[rows, 1]

    def in_forest(self, state: State) -> jax.Array:
        """[A, forests, ...] bool: which bodies overlap which forest."""
        bodies = (state.position[:, 0], state.position[:, 1])
        first = self.obstacles + self.food
        forests = (state.landmark[first:, 0], state.landmark[first:, 1])
        reach = self.sizes(bodies[0])[:, None] + jnp.float32(self.forest_size)
        return physics.squared_distances(bodies, forests) < reach * reach

    def visible(self, inside: jax.Array) -> jax.Array | None:
        """[A, A, ...] bool: may each body (row) see each other one? None if nothing is ever hidden.

        Args:
          inside: [A, forests, ...] bool from `in_forest`.
        """
        if self.rules == "omar" or not self.forests:
            return None
        together = jnp.any(inside[:, None] & inside[None], axis=2)
        open_air = ~jnp.any(inside, axis=1)
        leader = physics.trailing(np.arange(self.num_bodies)[:, None] == 0, together, 2)
        return together | (open_air[:, None] & open_air[None]) | leader

    # --- views and rewards -----------------------------------------------------------------------

    def body_views(self, state: State) -> jax.Array:
        """[A, O, ...] float32."""
        bodies = (state.position[:, 0], state.position[:, 1])
        landmarks = (state.landmark[:, 0], state.landmark[:, 1])
        inside = self.in_forest(state)
        sight = self.visible(inside)
        seen = [_masked(physics.differences(axis, axis), sight) for axis in bodies]
        others = physics.interleave(physics.skip_self(seen[0]), physics.skip_self(seen[1]))
        flags = jnp.where(inside, jnp.float32(1), jnp.float32(-1))
        parts = [state.velocity, state.position, physics.seen_from(bodies, landmarks), others]
        ends = self._ends_of_views(state, sight, flags)
        return jnp.concatenate([jnp.concatenate(parts, axis=1), ends], axis=1)

    def _ends_of_views(self, state: State, sight: jax.Array | None, flags: jax.Array) -> jax.Array:
        """[A, ...] the entries in which predators and prey differ, padded to the longer one."""
        hunters, count = self.num_predators, self.num_bodies
        velocities = [
            _masked(jnp.broadcast_to(axis, (count, *axis.shape)), None if sight is None else sight[:, hunters:])
            for axis in self.prey_velocities(state)
        ]
        for_predators = [physics.interleave(velocities[0][:hunters], velocities[1][:hunters]), flags[:hunters]]
        if state.message is not None:
            for_predators.append(jnp.broadcast_to(state.message, (hunters, *state.message.shape[1:])))
        others = [physics.skip_self(axis[hunters:]) for axis in velocities]
        for_prey = [flags[hunters:], physics.interleave(others[0], others[1])]
        if self.rules == "omar":  # there every agent is a leader, and leaders see velocities first
            for_prey.reverse()
        upper = jnp.concatenate(for_predators, axis=1)
        return jnp.concatenate([upper, physics.pad(jnp.concatenate(for_prey, axis=1), upper.shape[1])])

    def body_rewards(self, state: State) -> jax.Array:
        """[A, ...] float32."""
        squared = self.chase_distances(state)
        caught = self.catches(squared)
        nearest = physics.root(jnp.min(squared, axis=1))
        food = self._food_distances(state)
        closest = self.food_shaping * physics.root(jnp.min(food, axis=1))
        fleeing = -self.catch_penalty * caught - self.edge_penalty * self.left_arena(state)
        fleeing = fleeing + self.food_reward * self._eaten(food)
        shared = self.catch_reward * jnp.sum(caught, axis=0)
        if self.rules == "omar":
            # The sign of the food term is the fork's: its prey is paid for staying away from food.
            fleeing = fleeing + closest + self.shaping * jnp.sum(physics.root(squared), axis=0)
            hunting = jnp.broadcast_to(shared - self.shaping * jnp.sum(nearest, axis=0), nearest.shape)
        else:
            fleeing = fleeing - closest
            hunting = shared - self.shaping * nearest
        return jnp.concatenate([hunting, fleeing])

    def metrics(self, state: State) -> dict[str, jax.Array]:
        """Metrics of a state."""
        squared = self.chase_distances(state)
        return {
            "catches": jnp.sum(self.catches(squared), axis=0),
            "distance": jnp.mean(physics.root(jnp.min(squared, axis=1)), axis=0),
            "eaten": jnp.sum(self._eaten(self._food_distances(state)), axis=0),
        }

    def _food_distances(self, state: State) -> jax.Array:
        """[P, F, ...] squared distances between prey and food."""
        return physics.squared_distances(self.prey_places(state), self.food_places(state))

    def _eaten(self, squared: jax.Array) -> jax.Array:
        """[P, ...] number of food places that each prey overlaps."""
        reach = jnp.float32(self.prey_size) + self.food_size
        return jnp.sum(squared < reach * reach, axis=1, dtype=jnp.float32)

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`forage`: predators run at the nearest prey, prey eat and flee."""
        return {"forage": functools.partial(scripted.forage, self)}

    def landmark_look(self, state: State) -> list[viewer.Disc]:
        """Dark obstacles, orange food, green forests."""
        del state
        return [
            *[viewer.Disc(float(self.obstacle_size), viewer.OBSTACLE)] * self.obstacles,
            *[viewer.Disc(float(self.food_size), viewer.FOOD)] * self.food,
            *[viewer.Disc(float(self.forest_size), viewer.FOREST, 0.5)] * self.forests,
        ]


def _masked(values: jax.Array, sight: Any) -> jax.Array:
    """The values, zero where there is no sight."""
    return values if sight is None else jnp.where(sight, values, 0)
