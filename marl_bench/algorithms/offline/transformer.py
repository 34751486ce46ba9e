"""A transformer of one layer and one head over a few tokens, causal: each token reads itself and those before it.

Normalisation stands before attention and perceptron, and at the end (Radford et al. 2019). Parameters are a plain pytree; weights and
biases start uniform in +-1/sqrt(fan_in).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from marl_bench.algorithms.networks import init_mlp

WIDENING = 4
"""Hidden units of the perceptron for each entry of a token."""


@dataclasses.dataclass(frozen=True)
class Transformer:
    """Tokens [..., L, D] -> features [..., L, D] and outputs [..., L, K]; static and hashable, the parameters are apart.

    Attributes:
      length: L. With one token attention is the value of that token: queries, keys and places are left out.
      size: D. outputs: K.
    """

    length: int
    size: int
    outputs: int

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Draw parameters. `key`: [] typed PRNG key."""
        size, keys = self.size, iter(jax.random.split(key, 7))
        square = ("value", "joined") if self.length == 1 else ("value", "joined", "query", "key")
        params: dict[str, Any] = {name: init_mlp(next(keys), (size, size))[0] for name in square}
        params["perceptron"] = init_mlp(next(keys), (size, WIDENING * size, size))
        params["output"] = init_mlp(next(keys), (size, self.outputs))[0]
        for name in ("norm_attention", "norm_perceptron", "norm_output"):
            params[name] = {"scale": jnp.ones(size), "shift": jnp.zeros(size)}
        if self.length > 1:
            params["place"] = 0.02 * jax.random.normal(next(keys), (self.length, size))
        return params

    def apply(self, params: Any, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Features and outputs of tokens [..., L, D]."""
        x = tokens + params["place"] if self.length > 1 else tokens
        inner = _normalized(params["norm_attention"], x)
        found = _linear(params["value"], inner)
        if self.length > 1:
            query, key = _linear(params["query"], inner), _linear(params["key"], inner)
            scores = jnp.einsum("...id,...jd->...ij", query, key, precision="highest") / math.sqrt(self.size)
            earlier = jnp.tril(jnp.ones((self.length, self.length), bool))
            found = jnp.matmul(jax.nn.softmax(scores, where=earlier), found, precision="highest")
        x = x + _linear(params["joined"], found)
        x = x + gelu_mlp(params["perceptron"], _normalized(params["norm_perceptron"], x))
        features = _normalized(params["norm_output"], x)
        return features, _linear(params["output"], features)


def gelu_mlp(params: Any, x: jax.Array) -> jax.Array:
    """Two layers with a GELU between them: [..., in] -> [..., out]; `params` from `init_mlp`."""
    return _linear(params[1], jax.nn.gelu(_linear(params[0], x), approximate=False))


def _linear(layer: Any, x: jax.Array) -> jax.Array:
    return jnp.matmul(x, layer["w"], precision="highest") + layer["b"]


def _normalized(layer: Any, x: jax.Array) -> jax.Array:
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + 1e-5) * layer["scale"] + layer["shift"]
