"""What tag and world share: predators and prey that collide with each other and with obstacles, and who moves the prey."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench.environment import check_choice, check_range, field
from marl_bench.envs.batch_last import batch_last
from marl_bench.envs.particles import actions as acting
from marl_bench.envs.particles import prey as preys_module
from marl_bench.envs.particles import rules as physics
from marl_bench.envs.particles import viewer
from marl_bench.envs.particles.particle_world import PREY, ParticleWorld, State
from marl_bench.random import unit_interval, words

_Chase = TypeVar("_Chase", bound="ChaseWorld")


@struct.dataclass
class ChaseWorld(ParticleWorld):
    """Base of tag and world; bodies are Q predators, then P prey. Not a world itself."""

    prey: str = field(
        "agent", static=True, doc=f"who moves the prey: {', '.join(preys_module.PREYS)}; agent: a learner"
    )
    prey_head: str = field("tanh", static=True, doc="output of a trained prey: tanh, or clip (identity, clipped)")
    prey_params: Any = field(None, doc="`PreyParams` of a trained prey; see load_prey and init_prey")
    predator_size: float = field(0.075, doc="radius of a predator; > 0", unit="length")
    prey_size: float = field(0.05, doc="radius of a prey; > 0", unit="length")
    obstacle_size: float = field(0.2, doc="radius of an obstacle; > 0", unit="length")
    predator_accel: float = field(3.0, doc="force of a predator's full action (omar: its square); >= 0", unit="force")
    prey_accel: float = field(4.0, doc="force of a prey's full action (omar: its square); >= 0", unit="force")
    predator_max_speed: float = field(1.0, doc="largest speed of a predator; > 0", unit="length / time")
    prey_max_speed: float = field(1.3, doc="largest speed of a prey; > 0", unit="length / time")
    catch_reward: float = field(10.0, doc="for the predators, for each predator that overlaps a prey", unit="reward")
    catch_penalty: float = field(10.0, doc="for a prey, for each predator that overlaps it", unit="reward")
    edge_penalty: float = field(1.0, doc="for a prey, times the penalty of leaving the arena", unit="reward")
    shaping: float = field(0.1, doc="weight of the distances between predators and prey", unit="reward / length")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "prey", preys_module.PREYS)
        check_choice(self, "prey_head", preys_module.HEADS)
        for name in ("predator_size", "prey_size", "obstacle_size", "predator_max_speed", "prey_max_speed"):
            check_range(self, name, 0.0, open_low=True)
        for name in ("predator_accel", "prey_accel"):
            check_range(self, name, 0.0)
        for name in ("catch_reward", "catch_penalty", "edge_penalty", "shaping"):
            check_range(self, name)
        if self.prey == "trained" and self.prey_params is None:
            raise ValueError(
                "prey='trained' needs prey_params, e.g. load_prey(path) of marl_bench.envs.particles.prey "
                f"(field of {type(self).__name__})"
            )

    def _check_params(self) -> None:
        """Check the shapes of `prey_params`, for subclasses to call last."""
        if self.prey == "trained" and isinstance(self.prey_params, preys_module.PreyParams):
            leaves = jax.tree.leaves(self.prey_params)
            if all(hasattr(leaf, "shape") for leaf in leaves):
                preys_module.check_prey(self.prey_params, self.prey_inputs)

    # --- sizes -----------------------------------------------------------------------------------

    @property
    def num_predators(self) -> int:
        """Number Q of predators."""
        raise NotImplementedError

    @property
    def num_preys(self) -> int:
        """Number P of prey."""
        raise NotImplementedError

    @property
    def num_obstacles(self) -> int:
        """Number of landmarks, the first ones, that bodies collide with."""
        raise NotImplementedError

    @property
    def body_valid_len(self) -> np.ndarray:
        """[Q + P] int32: how many entries each body's view has without padding."""
        raise NotImplementedError

    @property
    def num_bodies(self) -> int:
        """Q + P."""
        return self.num_predators + self.num_preys

    @property
    def num_agents(self) -> int:
        """Q + P agents, or Q if the prey belongs to the world."""
        return self.num_bodies if self.prey == "agent" else self.num_predators

    @property
    def prey_inputs(self) -> int:
        """Length of a prey's view, and so of the input of a trained prey."""
        return int(self.body_valid_len[-1])

    @property
    def obs_valid_len(self) -> np.ndarray:
        """[N] int32: how many entries of each agent's view are its own; zeros follow."""
        return self.body_valid_len[: self.num_agents]

    @property
    def spawn_range(self) -> tuple[float, float]:
        """1 for bodies; 0.9 for landmarks, but 1 in JaxMARL."""
        return 1.0, 1.0 if self.rules == "jaxmarl" else 0.9

    @property
    def keeps_key(self) -> bool:
        """A random prey draws in every step."""
        return self.prey == "random"

    @property
    def _physical(self: _Chase) -> _Chase:
        # The network is evaluated outside, where a batch is a batch of rows: its weights would only be in the way.
        return dataclasses.replace(self, prey_params=()) if self.prey == "trained" else self

    # --- bodies ----------------------------------------------------------------------------------

    def predator_places(self, state: State) -> tuple[jax.Array, jax.Array]:
        """(x, y) [Q, ...] positions of the predators."""
        return state.position[: self.num_predators, 0], state.position[: self.num_predators, 1]

    def prey_places(self, state: State) -> tuple[jax.Array, jax.Array]:
        """(x, y) [P, ...] positions of the prey."""
        return state.position[self.num_predators :, 0], state.position[self.num_predators :, 1]

    def sizes(self, like: jax.Array) -> jax.Array:
        """[A, ...] radii of the bodies."""
        return self._groups(self.predator_size, self.prey_size, like)

    def speed_limits(self, like: jax.Array) -> jax.Array:
        """[A, ...] largest speeds."""
        return self._groups(self.predator_max_speed, self.prey_max_speed, like)

    def _groups(self, predator: Any, prey: Any, like: jax.Array) -> jax.Array:
        return physics.per_body(((self.num_predators, predator), (self.num_preys, prey)), like)

    def strengths(self, like: jax.Array) -> jax.Array:
        """[A, ...] force of each body's full action."""
        accel = self._groups(self.predator_accel, self.prey_accel, like)
        # The old engine multiplies by the acceleration twice.
        return accel * accel if self.rules == "omar" else accel

    def forces(self, state: State, push: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """(x, y) [A, ...]: acceleration times direction, and contacts with bodies and obstacles."""
        bodies = (state.position[:, 0], state.position[:, 1])
        obstacles = (state.landmark[: self.num_obstacles, 0], state.landmark[: self.num_obstacles, 1])
        size = self.sizes(bodies[0])
        strength = self.strengths(bodies[0])
        stiffness = (self.contact_force, self.contact_margin)
        x, y = physics.contact(bodies, None, size[:, None] + size[None], *stiffness)
        if self.num_obstacles:
            reach = size[:, None] + jnp.float32(self.obstacle_size)
            wall_x, wall_y = physics.contact(bodies, obstacles, reach, *stiffness)
            x, y = x + wall_x, y + wall_y
        return x + strength * push[0], y + strength * push[1]

    # --- prey of the world -----------------------------------------------------------------------

    def frozen_push(self, state: State) -> tuple[jax.Array, jax.Array] | None:
        """(x, y) [P, ...] directions of a prey that stands still or flees."""
        if self.prey == "still":
            zeros = jnp.zeros_like(self.prey_places(state)[0])
            return zeros, zeros
        return preys_module.flee(self.prey_places(state), self.predator_places(state)) if self.prey == "flee" else None

    def prey_draw(self, state: State) -> jax.Array | None:
        """[P, 2] directions of a random prey (of the world's kind of action) or a trained one."""
        if self.prey == "trained":
            views = _see(self._physical, dataclasses.replace(state, key=None))
            views = views[self.num_predators :, : self.prey_inputs]
            return preys_module.network(self.prey_params, views, self.prey_head)
        if self.prey != "random":
            return None
        assert state.key is not None
        drawn = unit_interval(words(state.key, state.step_count, PREY, 2 * self.num_preys)).reshape(-1, 2)
        if self.actions == "continuous":
            return 2 * drawn - 1
        move = jnp.floor(drawn[:, 0] * acting.NUM_MOVES).astype(jnp.int32)
        return jnp.stack(acting.decode_move(move, self.rules), axis=1)

    # --- rewards and views -----------------------------------------------------------------------

    def body_views(self, state: State) -> jax.Array:
        """[A, O, ...] float32 views of all bodies."""
        raise NotImplementedError

    def body_rewards(self, state: State) -> jax.Array:
        """[A, ...] float32 rewards of all bodies."""
        raise NotImplementedError

    def views(self, state: State) -> jax.Array:
        """[N, O, ...] float32 views of the agents."""
        return self.body_views(state)[: self.num_agents]

    def rewards(self, state: State) -> jax.Array:
        """[N, ...] float32 rewards of the agents."""
        return self.body_rewards(state)[: self.num_agents]

    def chase_distances(self, state: State) -> jax.Array:
        """[Q, P, ...] squared distances between predators and prey."""
        return physics.squared_distances(self.predator_places(state), self.prey_places(state))

    def catches(self, squared: jax.Array) -> jax.Array:
        """[P, ...] number of predators that overlap each prey, from `chase_distances`."""
        reach = jnp.float32(self.predator_size) + self.prey_size
        return jnp.sum(squared < reach * reach, axis=0, dtype=jnp.float32)

    def left_arena(self, state: State) -> jax.Array:
        """[P, ...] sum over both axes of the penalty b of leaving the arena."""
        x, y = self.prey_places(state)
        return physics.outside(jnp.abs(x)) + physics.outside(jnp.abs(y))

    def prey_velocities(self, state: State) -> tuple[jax.Array, jax.Array]:
        """(x, y) [P, ...] velocities of the prey."""
        return state.velocity[self.num_predators :, 0], state.velocity[self.num_predators :, 1]

    def body_look(self) -> list[viewer.Disc]:
        """Red predators (a leader darker), green prey."""
        first = viewer.LEADER if self.num_speakers else viewer.PREDATOR
        colours = [first] + [viewer.PREDATOR] * (self.num_predators - 1)
        hunters = [viewer.Disc(float(self.predator_size), colour) for colour in colours]
        return hunters + [viewer.Disc(float(self.prey_size), viewer.PREY)] * self.num_preys


def _see_all(world: ChaseWorld, state: State) -> jax.Array:
    return world.body_views(state)


_see = batch_last(_see_all)
