"""What all particle worlds share: fields, state, episode, actions and the order in which a step computes things.

Sources: Lowe et al. 2017 (the worlds); spec env_mpe.md, which compares three dialects: `rules="mpe2"` (the package
mpe2 1.1.1), `rules="jaxmarl"` (JaxMARL 0.2.0) and `rules="omar"` (the fork whose data OMAR and CFCQL use). Physics are in
`rules`, actions in `actions`; each scenario has a file of its own.

A step is computed by `_advance` under `batch_last`: inside it the bodies are the first axis and a batch is the last.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench import specs
from marl_bench.environment import (
    Environment,
    Observation,
    TimeStep,
    check_choice,
    check_integer,
    check_range,
    field,
)
from marl_bench.envs.batch_last import batch_last
from marl_bench.envs.particles import actions as acting
from marl_bench.envs.particles import rules as physics
from marl_bench.envs.particles import viewer
from marl_bench.random import unit_interval, words

RULES = ("mpe2", "jaxmarl", "omar")
ACTIONS = ("discrete", "continuous")
GLOBAL_VIEWS = ("state", "views")

PLACES, PREY = 0, 1
"""Streams of random words: start positions and goals, random prey."""

_World = TypeVar("_World", bound="ParticleWorld")


@struct.dataclass
class State:
    """State of a particle world with A bodies that may move, L landmarks and S speakers.

    Attributes:
      position: [A, 2] float32, x and y; agents in the order of the scenario.
      velocity: [A, 2] float32.
      landmark: [L, 2] float32 positions, which never change.
      message: [S, C] float32 last messages of the speakers; None where all agents are silent.
      goal: [G] int8 landmark indices; None where there is no goal.
      step_count: [] int32.
      key: [] typed PRNG key of a random prey; else None.
    """

    position: jax.Array
    velocity: jax.Array
    landmark: jax.Array
    message: jax.Array | None
    goal: jax.Array | None
    step_count: jax.Array
    key: jax.Array | None


@struct.dataclass
class ParticleWorld(Environment):
    """Base of the particle worlds; not a world itself.

    A scenario writes `num_agents`, `num_bodies`, `num_landmarks`, `obs_valid_len`, `metric_units`, and the functions that
    `_advance` calls: `forces`, `speed_limits`, `views`, `rewards`, `metrics`, all on arrays that may have a last batch axis.
    """

    DIALECTS: ClassVar[tuple[str, ...]] = RULES

    rules: str = field("mpe2", static=True, doc=f"dialect: {', '.join(RULES)}; see docs/environments/particles.md")
    actions: str = field("discrete", static=True, doc="integers (discrete) or force vectors (continuous)")
    horizon: int | None = field(
        None, static=True, doc="steps after which the episode is truncated; None: 25, or 26 with jaxmarl", unit="steps"
    )
    global_view: str = field("state", static=True, doc="what global_state holds: the state, or all views (views)")
    dt: float = field(0.1, doc="length of a step; > 0", unit="time")
    damping: float = field(0.25, doc="share of the velocity lost in a step, in [0, 1]")
    contact_force: float = field(100.0, doc="K, stiffness of contacts; >= 0", unit="force / length")
    contact_margin: float = field(0.001, doc="k, softness of contacts; > 0", unit="length")

    def __post_init__(self) -> None:
        check_choice(self, "rules", RULES)
        if self.rules not in self.DIALECTS:
            raise ValueError(
                f"rules={self.rules!r}: {type(self).__name__} has no such dialect, use {' or '.join(self.DIALECTS)} "
                "(the fork's version of this scenario has other rewards, and no data sets)"
            )
        check_choice(self, "actions", ACTIONS)
        check_choice(self, "global_view", GLOBAL_VIEWS)
        if self.horizon is not None:
            check_integer(self, "horizon", 1)
        check_range(self, "dt", 0.0, open_low=True)
        check_range(self, "damping", 0.0, 1.0)
        check_range(self, "contact_force", 0.0)
        check_range(self, "contact_margin", 0.0, open_low=True)

    # --- what a scenario defines -----------------------------------------------------------------

    @property
    def num_bodies(self) -> int:
        """Number A of bodies that may move: the agents, and a frozen prey."""
        return self.num_agents

    @property
    def num_landmarks(self) -> int:
        """Number L of landmarks."""
        raise NotImplementedError

    @property
    def num_goals(self) -> int:
        """Number G of goal landmarks drawn at the reset."""
        return 0

    @property
    def num_speakers(self) -> int:
        """Number S of agents that speak; they are the first ones."""
        return 0

    @property
    def dim_message(self) -> int:
        """Length C of a message."""
        return 0

    @property
    def spawn_range(self) -> tuple[float, float]:
        """Half the sides of the squares in which agents and landmarks start."""
        return 1.0, 1.0

    @property
    def obs_valid_len(self) -> np.ndarray:
        """[N] int32: how many entries of each agent's view are its own; the rest is padding with zeros."""
        raise NotImplementedError

    def forces(self, state: State, push: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """(x, y) [A, ...]: total force on each body, given the directions (x, y) [A, ...] that are played."""
        raise NotImplementedError

    def speed_limits(self, like: jax.Array) -> jax.Array | None:
        """[A, ...] largest speeds, with the trailing axes of `like` [A, ...]; None for no limit."""
        del like
        return None

    def views(self, state: State) -> jax.Array:
        """[N, O, ...] float32 observations."""
        raise NotImplementedError

    def rewards(self, state: State) -> jax.Array:
        """[N, ...] float32 rewards, a function of the state after the step."""
        raise NotImplementedError

    def metrics(self, state: State) -> dict[str, jax.Array]:
        """Metrics [...] of a state, named in `metric_units`."""
        raise NotImplementedError

    def success(self, state: State) -> jax.Array | None:
        """[...] bool: does this state end the episode? None: none ever does."""
        del state
        return None

    def frozen_push(self, state: State) -> tuple[jax.Array, jax.Array] | None:
        """Directions (x, y) [P, ...] of frozen bodies from the state before the step; None if there are none."""
        del state
        return None

    def prey_draw(self, state: State) -> jax.Array | None:
        """[P, 2] directions of frozen bodies that need a key or a network; called without a batch axis."""
        del state
        return None

    # --- sizes and specs -------------------------------------------------------------------------

    @property
    def late(self) -> bool:
        """Whether bodies move with the velocity of before the step."""
        return self.rules != "omar"

    @property
    def last_step(self) -> int:
        """Step at which the episode is truncated."""
        if self.horizon is not None:
            return self.horizon
        return 26 if self.rules == "jaxmarl" else 25

    @property
    def fixed_horizon(self) -> int | None:
        """Every episode has `last_step` steps."""
        return self.last_step

    @property
    def num_values(self) -> np.ndarray:
        """[N] number of integer actions of each agent: 5 moves, times C words for a speaker."""
        values = np.full(self.num_agents, acting.NUM_MOVES, np.int32)
        values[: self.num_speakers] *= self.dim_message
        return values

    @property
    def num_actions(self) -> int:
        """Largest number of integer actions; 0 if actions are vectors."""
        return int(self.num_values.max()) if self.actions == "discrete" else 0

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(O,), the longest view."""
        return (int(self.obs_valid_len.max()),)

    @property
    def action_spec(self) -> Any:
        """[N] integers below `num_values`, or [N, 2 + C] float32: direction in [-1, 1], message in [0, 1]."""
        if self.actions == "discrete":
            return specs.MultiDiscreteArray(self.num_values, np.int32, "action")
        low = np.array([-1.0] * 2 + [0.0] * self.dim_message, np.float32)
        high = np.ones(2 + self.dim_message, np.float32)
        return specs.BoundedArray((self.num_agents, len(low)), np.float32, "action", low, high)

    @property
    def common_reward(self) -> bool:
        """Not where agents also pay for what they do themselves, or are of two sides."""
        return False

    @property
    def batch_last(self) -> bool:
        """A batch is the last axis inside a step."""
        return True

    # --- episode ---------------------------------------------------------------------------------

    def reset(self, key: jax.Array) -> tuple[State, TimeStep]:
        """Place everything uniformly, at rest and silent. `key`: [] typed PRNG key."""
        agents, landmarks, speakers = self.num_bodies, self.num_landmarks, self.num_speakers
        start = jnp.int32(0)
        drawn = unit_interval(words(key, start, PLACES, 2 * (agents + landmarks) + self.num_goals))
        near, far = self.spawn_range
        place = 2 * drawn[: 2 * (agents + landmarks)].reshape(-1, 2) - 1
        goal = jnp.floor(drawn[2 * (agents + landmarks) :] * landmarks).astype(jnp.int8)
        state = State(
            position=place[:agents] * np.float32(near),
            velocity=jnp.zeros((agents, 2), jnp.float32),
            landmark=place[agents:] * np.float32(far),
            message=jnp.zeros((speakers, self.dim_message), jnp.float32) if speakers else None,
            goal=goal if self.num_goals else None,
            step_count=start,
            key=key if self.keeps_key else None,
        )
        views, metrics = _look(self._physical, _without_key(state))
        return state, self.restart(self._observation(views, start), metrics)

    def step(self, state: State, actions: jax.Array) -> tuple[State, TimeStep]:
        """All agents act at once.

        Args:
          state: `State`.
          actions: [N] integers, clipped to 0 ... num_values - 1; or [N, 2 + C] floats, clipped to the spec's bounds. The
            message of an agent that is silent is not read, nor the direction of one that cannot move.
        Returns:
          state, and the MID or LAST `TimeStep`.
        """
        drawn = self.prey_draw(state)
        after, (reward, views, metrics, success) = _advance(self._physical, _without_key(state), actions, drawn)
        after = State(**{**vars(after), "key": state.key})
        truncated = after.step_count >= self.last_step
        terminated = False if success is None else success & ~truncated
        observation = self._observation(views, after.step_count)
        return after, self.transition(reward, observation, terminated, truncated, metrics)

    @property
    def keeps_key(self) -> bool:
        """Whether the state has a key."""
        return False

    @property
    def _physical(self: _World) -> _World:
        """The world as `_advance` needs it."""
        return self

    def _observation(self, views: jax.Array, step_count: jax.Array) -> Observation:
        mask = np.arange(self.num_actions)[None] < self.num_values[:, None]
        return self.observe_view(views, step_count, jnp.asarray(mask))

    def decode(self, actions: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array | None]:
        """Directions (x, y) [N, ...] and messages [S, C, ...] (None if all are silent) of actions [N, ...]."""
        speakers = self.num_speakers
        if self.actions == "continuous":
            x, y, said = acting.decode_vector(actions)
            return (x, y), said[:speakers] if speakers else None
        chosen = acting.clip_integers(actions, self.num_values)
        move = chosen % acting.NUM_MOVES if speakers else chosen
        push = acting.decode_move(move, self.rules)
        if not speakers:
            return push, None
        return push, acting.decode_word(chosen[:speakers] // acting.NUM_MOVES, self.dim_message)

    # --- for learners and readers ----------------------------------------------------------------

    def global_state(self, state: State) -> jax.Array:
        """[S] float32, by `global_view`.

        `state`: positions of all bodies and landmarks, velocities, goals one-hot, step / horizon, then messages.
        `views`: the padded views of all agents, one after the other.
        """
        if self.global_view == "views":
            return _look(self._physical, _without_key(state))[0].reshape(-1)
        parts = [state.position, state.landmark, state.velocity]
        if state.goal is not None:
            parts.append(state.goal[:, None] == np.arange(self.num_landmarks))
        parts.append(state.step_count / np.float32(self.last_step))
        if state.message is not None:
            parts.append(state.message)
        return jnp.concatenate([jnp.asarray(part, jnp.float32).reshape(-1) for part in parts])

    def render(self, state: State) -> np.ndarray:
        """uint8 [H, W, 3]; see `viewer`."""
        return viewer.draw(self, state)

    def body_look(self) -> list[viewer.Disc]:
        """How each of the A bodies is drawn."""
        raise NotImplementedError

    def landmark_look(self, state: State) -> list[viewer.Disc]:
        """How each of the L landmarks is drawn."""
        raise NotImplementedError


def _without_key(state: State) -> State:
    return State(**{**vars(state), "key": None})


def _look_at(world: ParticleWorld, state: State) -> tuple[jax.Array, dict[str, jax.Array]]:
    return world.views(state), world.metrics(state)


def _advance_once(world: ParticleWorld, state: State, actions: jax.Array, drawn: jax.Array | None) -> Any:
    """One step: state -> (state, (rewards, views, metrics, success))."""
    push, message = world.decode(actions)
    frozen = world.frozen_push(state) if drawn is None else (drawn[:, 0], drawn[:, 1])
    if frozen is not None:
        push = (jnp.concatenate([push[0], frozen[0]]), jnp.concatenate([push[1], frozen[1]]))
    force = world.forces(state, push)
    limits = world.speed_limits(push[0])
    position, velocity = physics.move(
        state.position, state.velocity, force, world.dt, world.damping, limits, world.late
    )
    state = State(position, velocity, state.landmark, message, state.goal, state.step_count + 1, None)
    return state, (world.rewards(state), world.views(state), world.metrics(state), world.success(state))


_look = batch_last(_look_at)
_advance = batch_last(_advance_once)
