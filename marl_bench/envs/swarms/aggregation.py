"""Gathering in a box: `aggregation`.

N agents in [-B, B]^D are paid, as a team, for being close together; each knows only a noisy reading of its own position, or
where its neighbours are. Rules: `rules`, with the source.

| | content |
|---|---|
| action | [N, D] float32 in [-1, 1] (clipped), a direction; longer than 1 is scaled to 1; times `max_speed` a step |
| agents_view | [N, D] float32: own position plus noise, clipped to the box, divided by B; or the mean offset of the neighbours, divided by R |
| reward | minus the mean distance from the swarm's mean, minus `action_cost` times the mean share of the full speed, the same for all; of the state *before* the step |
| ends | truncated after `horizon` steps |
| metrics | `spread`, `speed` |
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench import specs
from marl_bench.environment import (
    ScriptedPolicy,
    TimeStep,
    check_choice,
    check_integer,
    check_range,
    concrete,
    field,
)
from marl_bench.envs.swarms import rules, viewer
from marl_bench.envs.swarms.checks import check_flags
from marl_bench.envs.swarms.swarm import BROADCAST_DOC, BROADCASTS, Swarm
from marl_bench.mean_field import MOST, Axis
from marl_bench.random import normal, unit_interval, words

STARTS = ("uniform", "gauss", "two_clusters", "random_gauss")
SENSORS = ("position", "neighbours")
REWARDS = ("mean", "pairwise")

START, MOTION, SENSING = 0, 1, 2
"""Streams of random words."""

MOST_PAIRS = 4096
"""Agents up to which all pairs are compared in one array."""


@struct.dataclass
class State:
    """State of `aggregation`.

    Attributes:
      position: [D, N] float32 in [-B, B].
      step_count: [] int32.
      key: [] typed PRNG key of the episode's noise.
    """

    position: jax.Array
    step_count: jax.Array
    key: jax.Array


@struct.dataclass
class Aggregation(Swarm):
    """Gathering in a box; observation, reward and metrics stand in the module's docstring.

    Raises:
      ValueError: for a value out of range. TypeError: for a value of the wrong type.
    """

    provenance: ClassVar[dict[str, str]] = {
        "half_side": "convention of the authors' later code",
        "max_speed": "convention of the authors' later code",
        "motion_noise": "convention of the authors' later code",
        "horizon": "convention of the authors' later code",
        "sensor_noise": "reconstruction",
        "action_cost": "reconstruction",
    }
    """Where the defaults come from; none of them could be read in the paper."""

    agents: int = field(100, static=True, doc="number of agents N; >= 2", unit="agents")
    dimensions: int = field(2, static=True, doc="dimension D of the box, 1 ... 5")
    horizon: int = field(100, static=True, doc="steps after which the episode is truncated [T]; >= 1", unit="steps")
    start: str = field(
        "uniform",
        static=True,
        doc="start positions: uniform, gauss (around the origin), two_clusters (around -B/2 and B/2 on the first axis), "
        "random_gauss (around a point drawn for each episode)",
    )
    sensor: str = field("position", static=True, doc="what an agent sees: its own position, or its neighbours")
    reward: str = field("mean", static=True, doc="distances that are paid for: from the mean, or pairwise")
    reward_on_next: bool = field(False, static=True, doc="pay for the state after the step instead of the one before")
    broadcast: str = field("nothing", static=True, doc=BROADCAST_DOC)
    half_side: float = field(2.0, doc="half the side of the box [B]; > 0", unit="length")
    max_speed: float = field(0.2, doc="longest step [v_max]; > 0", unit="length/step")
    motion_noise: float = field(0.03, doc="standard deviation of the motion's noise [sigma_x]; >= 0", unit="length")
    sensor_noise: float = field(0.2, doc="standard deviation of the reading's noise [sigma_y]; >= 0", unit="length")
    sensor_radius: float = field(1.0, doc="how far neighbours are seen [R]; > 0, at most B", unit="length")
    action_cost: float = field(0.0, doc="price of moving at full speed [c_u]; >= 0", unit="reward")
    start_spread: float = field(0.5, doc="standard deviation of starts that are not uniform; >= 0", unit="length")

    def __post_init__(self) -> None:
        check_integer(self, "agents", 2)
        check_integer(self, "dimensions", 1, 5)
        check_integer(self, "horizon", 1)
        check_choice(self, "start", STARTS)
        check_choice(self, "sensor", SENSORS)
        check_choice(self, "reward", REWARDS)
        check_choice(self, "broadcast", BROADCASTS)
        check_flags(self, "reward_on_next")
        for name in ("half_side", "max_speed", "sensor_radius"):
            check_range(self, name, 0.0, open_low=True)
        for name in ("motion_noise", "sensor_noise", "action_cost", "start_spread"):
            check_range(self, name, 0.0)
        pairs = "sensor" if self.sensor == "neighbours" else "reward" if self.reward == "pairwise" else None
        if pairs and self.agents > MOST_PAIRS:
            raise ValueError(
                f"agents={self.agents}: {pairs}={getattr(self, pairs)!r} compares all pairs, for at most {MOST_PAIRS} "
                f"agents; use {'sensor=position' if pairs == 'sensor' else 'reward=mean'} (field of Aggregation)"
            )
        sees = self.sensor == "neighbours" and concrete(self.sensor_radius) and concrete(self.half_side)
        if sees and self.sensor_radius > self.half_side:
            raise ValueError(
                f"sensor_radius={self.sensor_radius!r}: must be at most half the box's side, half_side={self.half_side!r}"
                " (field of Aggregation)"
            )

    # --- sizes and specs -------------------------------------------------------------------------

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(D,), with `broadcast` to the views (D + K,)."""
        return (self.dimensions + self.told_size,)

    @property
    def observation_spec(self) -> specs.ObservationSpec:
        """`ObservationSpec` whose views lie in [-1, 1], and what is broadcast below 10."""
        spec = super().observation_spec
        high = np.repeat(np.array([1, MOST], np.float32), [self.dimensions, self.told_size])
        view = specs.BoundedArray((self.agents, *self.observation_shape), np.float32, "agents_view", -1.0, high)
        return specs.ObservationSpec(view, spec.action_mask, spec.step_count)

    @property
    def action_spec(self) -> specs.BoundedArray:
        """[N, D] float32 in [-1, 1]."""
        return specs.BoundedArray((self.agents, self.dimensions), np.float32, "action", -1.0, 1.0)

    @property
    def metric_units(self) -> dict[str, str]:
        """Meaning and unit of each metric."""
        return {
            "spread": "mean distance from the swarm's mean after the step, in units of length",
            "speed": "mean speed that was chosen, as a share of max_speed",
        }

    # --- episode ---------------------------------------------------------------------------------

    def reset(self, key: jax.Array) -> tuple[State, TimeStep]:
        """Draw the start positions. `key`: [] typed PRNG key."""
        state = State(self._starts(key), jnp.int32(0), key)
        return state, self.restart(self._observation(state), self._metrics(state, jnp.float32(0)))

    def step(self, state: State, actions: jax.Array) -> tuple[State, TimeStep]:
        """Move everybody at once. `actions`: [N, D] floats, clipped to [-1, 1]."""
        push = rules.limited(actions.astype(jnp.float32).T)
        speed = jnp.mean(rules.length(push))
        noise = self.motion_noise * self._normal(state, MOTION)
        position = rules.moved(state.position, self.max_speed * push, noise, self.half_side)
        following = State(position, state.step_count + 1, state.key)
        paid = following if self.reward_on_next else state
        distance = rules.spread if self.reward == "mean" else rules.pairwise_distance
        team = -distance(paid.position) - self.action_cost * speed
        timestep = self.transition(
            jnp.broadcast_to(team, (self.agents,)),
            self._observation(following),
            truncated=following.step_count >= self.horizon,
            metrics=self._metrics(following, speed),
        )
        return following, timestep

    def _starts(self, key: jax.Array) -> jax.Array:
        """[D, N]."""
        shape = (self.dimensions, self.agents)
        drawn = words(key, jnp.int32(0), START, self.dimensions * (self.agents + 1)).reshape(self.dimensions, -1)
        if self.start == "uniform":
            return self.half_side * (2 * unit_interval(drawn[:, 1:]) - 1)
        centre: Any = jnp.zeros((self.dimensions, 1))
        if self.start == "random_gauss":
            centre = self.half_side * (unit_interval(drawn[:, :1]) - np.float32(0.5))
        elif self.start == "two_clusters":
            side = np.where(np.arange(self.agents) % 2 == 0, -0.5, 0.5).astype(np.float32)
            centre = self.half_side * side * (np.arange(self.dimensions) == 0)[:, None]
        place = jnp.broadcast_to(centre, shape) + self.start_spread * normal(drawn[:, 1:])
        return jnp.clip(place, -self.half_side, self.half_side)

    def _normal(self, state: State, stream: int) -> jax.Array:
        """[D, N] standard normal numbers of this step."""
        drawn = words(state.key, state.step_count, stream, self.dimensions * self.agents)
        return normal(drawn).reshape(self.dimensions, self.agents)

    def _observation(self, state: State) -> Any:
        if self.sensor == "neighbours":
            view = rules.neighbour_offset(state.position, self.sensor_radius) / self.sensor_radius
        else:
            view = (state.position + self.sensor_noise * self._normal(state, SENSING)) / self.half_side
        # The quotient may be rounded above 1 when it is compiled to a product.
        return self.observe_view(self.told(state, jnp.clip(view, -1, 1).T), state.step_count)

    @staticmethod
    def _metrics(state: State, speed: jax.Array) -> dict[str, jax.Array]:
        return {"spread": rules.spread(state.position), "speed": speed}

    # --- for learners and readers ----------------------------------------------------------------

    def neighbours(self, state: State) -> jax.Array:
        """[N, N] bool: who is nearer than the sensor's radius."""
        return rules.neighbours(state.position, self.sensor_radius)

    def agents_state(self, state: State) -> jax.Array:
        """[D * N] float32 positions divided by B."""
        return (state.position / self.half_side).reshape(-1)

    @property
    def mean_field_axes(self) -> tuple[Axis, ...]:
        """D lines, of 7 centres each (3 in more than three dimensions)."""
        return (Axis(centres=7 if self.dimensions <= 3 else 3),) * self.dimensions

    def mean_field(self, state: State) -> jax.Array:
        """[1, N, D] float32 positions divided by B."""
        return (state.position / self.half_side).T[None]

    def render(self, state: State) -> np.ndarray:
        """uint8 [320, 320, 3]: the box seen along the first two axes, the agents and their mean (cross)."""
        return viewer.dots(np.asarray(state.position), float(self.half_side))

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`gather` goes to the centre (or to its neighbours) by its own view alone; `rest` does not move."""
        return {"gather": functools.partial(_gather, self), "rest": _rest}


GAIN = 0.14
"""Share of the way to the centre that `gather` wants to go in a step: near the best for the default noise."""


def _gather(env: Aggregation, state: State, observation: Any, key: jax.Array) -> jax.Array:
    del state, key
    towards = env.sensor_radius if env.sensor == "neighbours" else -env.half_side
    return jnp.clip(GAIN * towards * observation.agents_view / env.max_speed, -1, 1)


def _rest(state: State, observation: Any, key: jax.Array) -> jax.Array:
    del state, key
    return jnp.zeros_like(observation.agents_view)
