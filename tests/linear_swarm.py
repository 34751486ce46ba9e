"""A swarm on a line with linear motion and quadratic costs, whose gradients and optimum have closed forms; for tests of mean-field control."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench import specs
from marl_bench.environment import TimeStep, field
from marl_bench.envs.swarms.swarm import Swarm
from marl_bench.mean_field import Axis
from marl_bench.random import normal, words

BOUND = 1e3
"""Of an action, where nothing is to be cut off."""


@struct.dataclass
class LineState:
    """x: [N]. step_count: [] int32. key: [] typed PRNG key."""

    x: jax.Array
    step_count: jax.Array
    key: jax.Array


@struct.dataclass
class LinearSwarm(Swarm):
    """x' = x + gain u + noise; the team pays mean_price m^2 + deviation_price mean (x - m)^2 + action_price mean u^2, m = mean x.

    States and actions are those before the step, and a price at step t counts decay^t. An agent sees its own x / span.
    """

    agents: int = field(10, static=True)
    horizon: int = field(10, static=True)
    broadcast: str = field("nothing", static=True)
    largest: float = field(BOUND, static=True, doc="action bound")
    gain: float = field(0.3)
    noise: float = field(0.2)
    start: float = field(1.0, doc="mean of the start")
    start_spread: float = field(0.0)
    span: float = field(1.0)
    mean_price: float = field(1.0)
    deviation_price: float = field(0.0)
    action_price: float = field(0.0)
    decay: float = field(1.0)
    terminates: float = field(0.0, doc="1: the last step is the game's own end, not a time limit")

    observation_shape = property(lambda self: (1,))
    action_spec = property(
        lambda self: specs.BoundedArray((self.agents, 1), np.float32, "action", -self.largest, self.largest)
    )
    metric_units = property(lambda self: {"mean": "m after the step"})
    mean_field_axes = property(lambda self: (Axis(centres=5),))

    def _observation(self, state):
        return self.observe_view(state.x[:, None] / self.span, state.step_count)

    def reset(self, key):
        drawn = normal(words(key, jnp.int32(0), 1, self.agents))
        state = LineState(self.start + self.start_spread * drawn, jnp.int32(0), key)
        return state, self.restart(self._observation(state), {"mean": jnp.mean(state.x)})

    def step(self, state, actions) -> tuple[LineState, TimeStep]:
        push = actions[:, 0]
        mean = jnp.mean(state.x)
        price = self.mean_price * mean**2 + self.deviation_price * jnp.mean((state.x - mean) ** 2)
        price += self.action_price * jnp.mean(push**2)
        price *= self.decay ** state.step_count.astype(jnp.float32)
        x = state.x + self.gain * push + self.noise * normal(words(state.key, state.step_count, 0, self.agents))
        state = LineState(x, state.step_count + 1, state.key)
        reward, last = jnp.broadcast_to(-price, (self.agents,)), state.step_count >= self.horizon
        timestep = self.transition(
            reward,
            self._observation(state),
            terminated=last & (self.terminates == 1),
            truncated=last,
            metrics={"mean": jnp.mean(x)},
        )
        return state, timestep

    def mean_field(self, state):
        return (state.x / self.span)[None, :, None]

    def neighbours(self, state):
        return (jnp.abs(state.x[:, None] - state.x) < 0.5 * self.span) & ~jnp.eye(self.agents, dtype=bool)

    def agents_state(self, state):
        return state.x

    def optimum(self) -> float:
        """Largest expected return of any policy, even one that sees all states, by two Riccati recursions in float64.

        m and the deviations from it are moved by the mean action and by the deviations from that one, and both costs are sums of one
        term of each: two scalar problems (as in mean-field linear-quadratic control, Yong 2013). Without `decay`.
        """
        weight = 1 / self.agents
        mean = _riccati(self, self.mean_price, self.start**2 + weight * self.start_spread**2, weight)
        deviation = _riccati(self, self.deviation_price, (1 - weight) * self.start_spread**2, 1 - weight)
        return -(mean + deviation)


def _riccati(swarm: LinearSwarm, price: float, start: float, share: float) -> float:
    """Least cost of one coordinate with E x_0^2 = start and noise of variance share * noise^2 in each step."""
    value, cost = 0.0, 0.0
    for _ in range(swarm.horizon):
        cost += value * share * swarm.noise**2
        value = price + value * swarm.action_price / (swarm.action_price + value * swarm.gain**2)
    return value * start + cost
