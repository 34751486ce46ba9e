"""Swarms of infinitely many agents as worlds: `aggregation_limit` and `phase_limit`.

The state is the distribution of the agents, which moves without chance, and the one agent of the world is a planner whose action is
a decision rule: what every agent of the swarm does on what it sees (the mean-field Markov decision process). Source: spec dec_pomfc.md
sections 1.2 and 1.3; Cui, Hauck, Fabian and Koeppl 2024 for the process (verified in the abstract), the discretisation is ours.

| | `aggregation_limit` | `phase_limit` |
|---|---|---|
| limit of | `aggregation` with D = 1 | `kuramoto` with graph=all; `vicsek` on the torus, whose places stay uniform |
| action | [1, P] pushes on readings at P points of the box | [1, P] turns on P directions of the mean phase seen |
| agents_view | [1, cells] masses relative to the uniform distribution | [1, cells], of all frequencies together |
| reward | as in the swarm, of the state *before* the step | as in the swarm |
| ends | truncated after `horizon` steps | the same |
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench import specs
from marl_bench.environment import Environment, ScriptedPolicy, TimeStep, check_integer, check_range, field
from marl_bench.envs import raster
from marl_bench.envs.swarms import limits


@struct.dataclass
class State:
    """State of a limit.

    Attributes:
      mass: [kinds, cells] float32 shares of the agents, which sum to 1.
      step_count: [] int32.
    """

    mass: jax.Array
    step_count: jax.Array


class Limit(Environment):
    """Base of the limits: one planner, a distribution, no chance."""

    cells: int
    points: int
    horizon: int
    action_cost: Any

    @property
    def num_agents(self) -> int:
        """1, the planner."""
        return 1

    @property
    def num_actions(self) -> int:
        """0: an action is a decision rule."""
        return 0

    @property
    def fixed_horizon(self) -> int | None:
        """`horizon`, in steps."""
        return self.horizon

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(cells,)."""
        return (self.cells,)

    @property
    def action_spec(self) -> specs.BoundedArray:
        """[1, points] float32 in [-1, 1]."""
        return specs.BoundedArray((1, self.points), np.float32, "action", -1.0, 1.0)

    def start(self) -> jax.Array:
        """[kinds, cells] masses at the start."""
        raise NotImplementedError(f"{type(self).__name__} must define start")

    def advanced(self, mass: jax.Array, rule: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Masses a step later, and the mean size [] of the agents' actions by a rule [points]."""
        raise NotImplementedError(f"{type(self).__name__} must define advanced")

    def worth(self, mass: jax.Array) -> jax.Array:
        """[] reward of a distribution."""
        raise NotImplementedError(f"{type(self).__name__} must define worth")

    def _metrics(self, state: State, effort: jax.Array) -> dict[str, jax.Array]:
        raise NotImplementedError(f"{type(self).__name__} must define _metrics")

    def reset(self, key: jax.Array) -> tuple[State, TimeStep]:
        """The start; `key` is not used, for there is no chance."""
        del key
        state = State(self.start(), jnp.int32(0))
        return state, self.restart(self._observation(state), self._metrics(state, jnp.float32(0)))

    def step(self, state: State, actions: jax.Array) -> tuple[State, TimeStep]:
        """All agents act by one rule. `actions`: [1, points] floats, clipped to [-1, 1]."""
        mass, effort = self.advanced(state.mass, jnp.clip(actions[0].astype(jnp.float32), -1, 1))
        following = State(mass, state.step_count + 1)
        paid = self.worth(state.mass) - self.action_cost * effort
        return following, self.transition(
            paid[None],
            self._observation(following),
            truncated=following.step_count >= self.horizon,
            metrics=self._metrics(following, effort),
        )

    def _observation(self, state: State) -> Any:
        return self.observe_view(self.cells * jnp.sum(state.mass, axis=0)[None], state.step_count)

    def global_state(self, state: State) -> jax.Array:
        """[cells] float32 masses relative to the uniform distribution."""
        return self.cells * jnp.sum(state.mass, axis=0)

    def render(self, state: State) -> np.ndarray:
        """uint8 [160, 320, 3]: the distribution as bars, scaled to its highest."""
        picture = raster.canvas(160, 320)
        mass = np.asarray(state.mass).sum(axis=0)
        bars = mass[np.arange(300) * self.cells // 300]
        for column, height in enumerate(140 * bars / bars.max()):
            raster.rectangle(picture, 150 - height, 10 + column, height, 1, raster.BLUE)
        return picture


@struct.dataclass
class AggregationLimit(Limit):
    """Gathering on a line of infinitely many agents; see the module's docstring.

    Raises:
      ValueError: for a value out of range. TypeError: for a value of the wrong type.
    """

    cells: int = field(400, static=True, doc="cells of the box; >= 8")
    points: int = field(
        25, static=True, doc="readings at which a rule is given, equally spaced; linear in between; >= 2"
    )
    horizon: int = field(100, static=True, doc="steps after which the episode is truncated [T]; >= 1", unit="steps")
    half_side: float = field(2.0, doc="half the side of the box [B]; > 0", unit="length")
    max_speed: float = field(0.2, doc="longest step [v_max]; > 0", unit="length/step")
    motion_noise: float = field(0.03, doc="standard deviation of the motion's noise [sigma_x]; >= 0", unit="length")
    sensor_noise: float = field(0.2, doc="standard deviation of the reading's noise [sigma_y]; >= 0", unit="length")
    action_cost: float = field(0.0, doc="price of moving at full speed [c_u]; >= 0", unit="reward")

    def __post_init__(self) -> None:
        check_integer(self, "cells", 8)
        check_integer(self, "points", 2)
        check_integer(self, "horizon", 1)
        for name in ("half_side", "max_speed"):
            check_range(self, name, 0.0, open_low=True)
        for name in ("motion_noise", "sensor_noise", "action_cost"):
            check_range(self, name, 0.0)

    @property
    def metric_units(self) -> dict[str, str]:
        """Meaning and unit of each metric."""
        return {
            "spread": "mean distance from the mean after the step, in units of length",
            "speed": "mean speed that was chosen, as a share of max_speed",
        }

    @property
    def readings(self) -> np.ndarray:
        """[points] readings, as shares of B, at which a rule is given."""
        return np.linspace(-1, 1, self.points, dtype=np.float32)

    def start(self) -> jax.Array:
        """[1, cells] uniform masses."""
        return jnp.full((1, self.cells), 1 / self.cells, jnp.float32)

    def advanced(self, mass: jax.Array, rule: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `Limit`."""
        push = jnp.interp(limits.middles(self.cells, 1.0), self.readings, rule)
        effort = mass[0] @ limits.sensed(self.cells, self.half_side, self.sensor_noise) @ jnp.abs(push)
        noise = self.motion_noise, self.sensor_noise
        return limits.aggregated(mass[0], push, self.half_side, self.max_speed, *noise)[None], effort

    def worth(self, mass: jax.Array) -> jax.Array:
        """[] minus the mean distance from the mean."""
        return -self._spread(mass)

    def _spread(self, mass: jax.Array) -> jax.Array:
        place = self.half_side * limits.middles(self.cells, 1.0)
        return jnp.sum(mass[0] * jnp.abs(place - jnp.sum(mass[0] * place)))

    def _metrics(self, state: State, effort: jax.Array) -> dict[str, jax.Array]:
        return {"spread": self._spread(state.mass), "speed": effort}

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`gather` makes everybody go to the centre by 0.14 of the way it reads, `rest` lets nobody move."""
        return {"gather": functools.partial(_gather, self), "rest": functools.partial(_rest, self)}


@struct.dataclass
class PhaseLimit(Limit):
    """Phases or headings of infinitely many agents, each of which sees all others; see the module's docstring.

    Raises:
      ValueError: for a value out of range. TypeError: for a value of the wrong type.
    """

    cells: int = field(512, static=True, doc="cells of the circle; >= 8")
    frequencies: int = field(64, static=True, doc="natural frequencies, at equal steps of their distribution; >= 1")
    points: int = field(32, static=True, doc="directions at which a rule is given; linear in between; >= 4")
    horizon: int = field(100, static=True, doc="steps after which the episode is truncated [T]; >= 1", unit="steps")
    frequency_spread: float = field(0.05, doc="standard deviation of the Gaussian frequencies; >= 0", unit="rad/step")
    max_turn: float = field(0.2, doc="largest turn by an action [omega_max]; > 0", unit="rad/step")
    noise: float = field(0.0, doc="standard deviation of the turn's noise [sigma]; >= 0", unit="rad")
    coupling: float = field(0.0, doc="strength of the classic coupling [K]; >= 0", unit="1/step")
    concentration: float = field(0.5, doc="concentration of the von Mises start around 0 [kappa0]; >= 0")
    action_cost: float = field(0.05, doc="price of the largest action [c_u]; >= 0", unit="reward")

    def __post_init__(self) -> None:
        check_integer(self, "cells", 8)
        check_integer(self, "frequencies", 1)
        check_integer(self, "points", 4)
        check_integer(self, "horizon", 1)
        check_range(self, "max_turn", 0.0, open_low=True)
        for name in ("frequency_spread", "noise", "coupling", "concentration", "action_cost"):
            check_range(self, name, 0.0)

    @property
    def metric_units(self) -> dict[str, str]:
        """Meaning and unit of each metric."""
        return {"order": "length of the mean phase vector after the step, 0 ... 1", "turn": "mean |action|"}

    @property
    def directions(self) -> np.ndarray:
        """[points] directions of the mean phase relative to the own one, in [-pi, pi), at which a rule is given."""
        return np.float32(2 * np.pi) * np.arange(self.points, dtype=np.float32) / self.points - np.float32(np.pi)

    @property
    def phases(self) -> np.ndarray:
        """[cells] phases of the cells, in [-pi, pi)."""
        return np.float32(2 * np.pi) * np.arange(self.cells, dtype=np.float32) / self.cells - np.float32(np.pi)

    def start(self) -> jax.Array:
        """[frequencies, cells] masses of a von Mises distribution for every frequency."""
        density = jnp.exp(self.concentration * (jnp.cos(self.phases) - 1))
        return jnp.broadcast_to(density / jnp.sum(density) / self.frequencies, (self.frequencies, self.cells))

    def advanced(self, mass: jax.Array, rule: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `Limit`."""
        real, imaginary = self._mean(mass)
        seen = jnp.arctan2(imaginary, real) - self.phases
        push = jnp.interp(seen, self.directions, rule, period=2 * np.pi)
        share = (np.arange(self.frequencies, dtype=np.float32) + 0.5) / self.frequencies
        frequency = self.frequency_spread * jax.scipy.stats.norm.ppf(share)
        pull = imaginary * jnp.cos(self.phases) - real * jnp.sin(self.phases)
        turn = frequency[:, None] + self.max_turn * push + self.coupling * pull
        return limits.fanned(mass, turn, self.noise), jnp.sum(mass * jnp.abs(push))

    def worth(self, mass: jax.Array) -> jax.Array:
        """[] length of the mean phase vector."""
        real, imaginary = self._mean(mass)
        squared = real * real + imaginary * imaginary
        return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)

    def _mean(self, mass: jax.Array) -> tuple[jax.Array, jax.Array]:
        total = jnp.sum(mass, axis=0)
        return jnp.sum(total * jnp.cos(self.phases)), jnp.sum(total * jnp.sin(self.phases))

    def _metrics(self, state: State, effort: jax.Array) -> dict[str, jax.Array]:
        return {"order": self.worth(state.mass), "turn": effort}

    def scripted_policies(self) -> dict[str, ScriptedPolicy]:
        """`steer` makes everybody turn to the mean as fast as possible; `straight` lets nobody turn."""
        return {"steer": functools.partial(_steer, self), "straight": functools.partial(_rest, self)}


GAIN = 0.14
"""Of `gather`, as in `aggregation`."""


def _gather(env: AggregationLimit, state: State, observation: Any, key: jax.Array) -> jax.Array:
    del state, observation, key
    return jnp.clip(-GAIN * env.half_side * env.readings / env.max_speed, -1, 1)[None]


def _steer(env: PhaseLimit, state: State, observation: Any, key: jax.Array) -> jax.Array:
    del state, observation, key
    push = jnp.clip(env.directions / env.max_turn, -1, 1)
    # Straight behind, left is as good as right.
    return push.at[0].set(0)[None]


def _rest(env: Limit, state: State, observation: Any, key: jax.Array) -> jax.Array:
    del state, observation, key
    return jnp.zeros((1, env.points))
