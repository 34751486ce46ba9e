"""How agents' action values become one value of the team: the monotonic mixer of QMIX.

Rashid et al. 2018 (ICML; section 4.1, figure 2). The sum of VDN needs no parameters and stands in `value_based`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.algorithms.networks import init_mlp, mlp

START = 0.01
"""How small the state's influence on the mixture starts."""


@struct.dataclass
class Sum:
    """The mixture of VDN: the sum of the values (Sunehag et al. 2018)."""

    def joint(self, values: jax.Array) -> jax.Array:
        """[...] value of the team from values [..., N]."""
        return jnp.sum(values, axis=-1)

    def one_changed(self, values: jax.Array, chosen: jax.Array) -> jax.Array:
        """[..., N, A] value of the team if one agent alone took another action.

        Args:
          values: [..., N, A] each agent's action values. chosen: [..., N] those of the actions taken.
        """
        return jnp.sum(chosen, axis=-1)[..., None, None] + values - chosen[..., None]

    def some(self, values: jax.Array) -> jax.Array:
        """[..., M] values of the team from M vectors of values [..., M, N] in each state."""
        return jnp.sum(values, axis=-1)


@struct.dataclass
class Mixture:
    """The weights of a monotonic mixer in given states.

    Attributes:
      inner: [..., N, E], |W_1|. inner_bias: [..., E], b_1. outer: [..., E], |w_2|. outer_bias: [...], b_2.
    """

    inner: jax.Array
    inner_bias: jax.Array
    outer: jax.Array
    outer_bias: jax.Array

    def joint(self, values: jax.Array) -> jax.Array:
        """[...] value of the team from values [..., N]."""
        hidden = jax.nn.elu(self._hidden(values))
        return jnp.sum(hidden * self.outer, axis=-1) + self.outer_bias

    def one_changed(self, values: jax.Array, chosen: jax.Array) -> jax.Array:
        """As `Sum.one_changed`: the hidden layer of the actions taken, and what one agent's other action adds to it.

        E operations for each of N A values, where the whole mixer would take N E.
        """
        change, hidden = _states_last(values - chosen[..., None], 2), _states_last(self._hidden(chosen), 1)
        inner, outer = jnp.swapaxes(_states_last(self.inner, 2), 0, 1), _states_last(self.outer, 1)

        # One hidden unit after the other: with all at once XLA computes elu anew for each gradient, which takes five times as
        # long on a CPU; and with nothing kept for the gradient, memory does not grow with E.
        def add(total: jax.Array, unit: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            return total + _elu(unit[0] + change * unit[1][:, None]) * unit[2], None

        found, _ = jax.lax.scan(jax.checkpoint(add), jnp.zeros_like(change), (hidden, inner, outer))
        return jnp.moveaxis(found, -1, 0).reshape(values.shape) + self.outer_bias[..., None, None]

    def some(self, values: jax.Array) -> jax.Array:
        """As `Sum.some`."""
        hidden = _elu(jnp.matmul(values, self.inner, precision="highest") + self.inner_bias[..., None, :])
        return jnp.sum(hidden * self.outer[..., None, :], axis=-1) + self.outer_bias[..., None]

    def _hidden(self, values: jax.Array) -> jax.Array:
        return jnp.sum(values[..., None] * self.inner, axis=-2) + self.inner_bias


def _states_last(leaf: jax.Array, kept: int) -> jax.Array:
    """[..., states] from [states ..., ...], of which the last `kept` axes are not of the states."""
    return jnp.moveaxis(leaf.reshape(-1, *leaf.shape[-kept:]), 0, -1)


def _elu(x: jax.Array) -> jax.Array:
    """As `jax.nn.elu` but for rounding: exp(x) - 1 takes half the time of expm1 on a CPU."""
    return jnp.where(x > 0, x, jnp.exp(jnp.minimum(x, 0.0)) - 1.0)


@dataclasses.dataclass(frozen=True)
class MonotonicMixer:
    """A two-layer network over the agents' values whose weights are non-negative functions of the global state.

        Q_tot = |w_2(s)| . elu(|W_1(s)|^T q + b_1(s)) + b_2(s)

    so dQ_tot / dq_a >= 0, and each agent's best action is part of the best joint action. W_1, w_2 and b_1 are linear in the state
    (`hypernet_sizes` adds hidden ReLU layers to W_1 and w_2, as in the JMLR version of 2020), b_2 has one hidden ReLU layer of
    `embedding` units. Weights and biases start uniform in +-1/sqrt(fan_in), but for the last layers of these networks: their
    biases start so that Q_tot is about the sum of the values, and their weights small, so that this holds in all states however
    large their entries are (ours; without it nothing was learned in foraging).

    Attributes:
      state_size: S.
      num_agents: N.
      embedding: E, units of the hidden layer.
      hypernet_sizes: widths of the hidden layers of the networks that give W_1 and w_2.
    """

    state_size: int
    num_agents: int
    embedding: int = 32
    hypernet_sizes: tuple[int, ...] = ()

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Draw parameters. `key`: [] typed PRNG key."""
        size, hidden, embedding = self.state_size, self.hypernet_sizes, self.embedding
        shapes = {
            "w1": (size, *hidden, self.num_agents * embedding),
            "b1": (size, embedding),
            "w2": (size, *hidden, embedding),
            "b2": (size, embedding, 1),
        }
        keys = jax.random.split(key, len(shapes))
        params = {name: init_mlp(drawn, shape) for drawn, (name, shape) in zip(keys, shapes.items(), strict=True)}
        for name, layers in params.items():
            last, fan_in = layers[-1], layers[-1]["w"].shape[0]
            spread = last["b"] * fan_in**0.5  # uniform in +-1, so that no two hidden units are alike
            around_one = (1.0 + 0.5 * spread) * embedding**-0.5
            bias = around_one if name in ("w1", "w2") else START * spread
            layers[-1] = {"w": START * last["w"], "b": bias}
        return params

    def weights(self, params: Any, state: jax.Array) -> Mixture:
        """What the networks make of global states [..., S]."""
        inner = jnp.abs(mlp(params["w1"], state)).reshape(*state.shape[:-1], self.num_agents, self.embedding)
        outer = jnp.abs(mlp(params["w2"], state))
        return Mixture(inner, mlp(params["b1"], state), outer, mlp(params["b2"], state)[..., 0])

    def apply(self, params: Any, values: jax.Array, state: jax.Array) -> jax.Array:
        """[...] value of the team from values [..., N] and global states [..., S]."""
        return self.weights(params, state).joint(values)
