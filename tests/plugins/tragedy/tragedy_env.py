"""The tragedy of the commons: n herders graze 0 ... 3 animals a day on a pasture that regrows."""

import jax
import jax.numpy as jnp
from flax import struct

import marl_bench


@struct.dataclass
class State:
    stock: jax.Array  # [] float32 grass left, 0 ... 1
    day: jax.Array  # [] int32 days since the reset


@struct.dataclass
class Tragedy(marl_bench.Environment):
    """Reward of agent i: a_i * stock - upkeep * a_i; the stock then regrows logistically after being eaten."""

    regrowth: float = marl_bench.field(0.4, doc="logistic growth rate of the grass, 0 ... 1", unit="1/day")
    upkeep: float = marl_bench.field(0.1, doc="cost of one animal", unit="reward/day")
    herders: int = marl_bench.field(3, doc="number of agents", static=True)
    days: int = marl_bench.field(20, doc="length of an episode", static=True)

    num_agents = property(lambda self: self.herders)
    num_actions = property(lambda self: 4)
    observation_shape = property(lambda self: (1,))
    fixed_horizon = property(lambda self: self.days)
    metric_units = property(lambda self: {"stock": "grass left, 0 to 1"})

    def _view(self, state):
        return self.observe_view(jnp.full((self.herders, 1), state.stock), state.day)

    def reset(self, key):
        state = State(jax.random.uniform(key, minval=0.5), jnp.int32(0))
        return state, self.restart(self._view(state), {"stock": state.stock})

    def step(self, state, actions):
        animals = jnp.clip(actions, 0, self.num_actions - 1).astype(jnp.float32)
        grown = state.stock + self.regrowth * state.stock * (1 - state.stock)
        eaten = state.stock * animals.sum() / (6.0 * self.herders)
        following = State(jnp.clip(grown - eaten, 0, 1), state.day + 1)
        truncated = following.day >= self.days
        reward = animals * (state.stock - self.upkeep)
        metrics = {"stock": following.stock}
        return following, self.transition(reward, self._view(following), truncated=truncated, metrics=metrics)
