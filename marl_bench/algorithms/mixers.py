"""How agents' action values become one value of the team: the monotonic mixer of QMIX.

Rashid et al. 2018 (ICML; section 4.1, figure 2). The sum of VDN needs no parameters and stands in `value_based`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from marl_bench.algorithms.networks import init_mlp, mlp

START = 0.01
"""How small the state's influence on the mixture starts."""


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

    def apply(self, params: Any, values: jax.Array, state: jax.Array) -> jax.Array:
        """[...] value of the team from values [..., N] and global states [..., S]."""
        inner = jnp.abs(mlp(params["w1"], state)).reshape(*state.shape[:-1], self.num_agents, self.embedding)
        hidden = jax.nn.elu(jnp.sum(values[..., None] * inner, axis=-2) + mlp(params["b1"], state))
        outer = jnp.abs(mlp(params["w2"], state))
        return jnp.sum(hidden * outer, axis=-1) + mlp(params["b2"], state)[..., 0]
