"""Networks as plain pytrees: `init(key, ...) -> params`, `apply(params, x) -> y`."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp


def init_mlp(key: jax.Array, sizes: tuple[int, ...]) -> list[dict[str, jax.Array]]:
    """Draw weights *and* biases i.i.d. uniform in +-1/sqrt(fan_in), the linear default of PyTorch.

    Args:
      key: [] typed PRNG key.
      sizes: widths from input to output.
    Returns:
      One {"w": [in, out], "b": [out]} float32 a layer.
    """
    layers = []
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        key_weights, key_bias = jax.random.split(jax.random.fold_in(key, layer))
        bound = fan_in**-0.5
        layers.append(
            {
                "w": jax.random.uniform(key_weights, (fan_in, fan_out), jnp.float32, -bound, bound),
                "b": jax.random.uniform(key_bias, (fan_out,), jnp.float32, -bound, bound),
            }
        )
    return layers


def mlp(params: list[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
    """ReLU perceptron, linear output: [..., in] -> [..., out], in full float32 on every device."""
    for layer in params[:-1]:
        x = jax.nn.relu(jnp.matmul(x, layer["w"], precision="highest") + layer["b"])
    return jnp.matmul(x, params[-1]["w"], precision="highest") + params[-1]["b"]


def hidden_features(params: list[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
    """Activations of the last hidden layer (after ReLU): [..., in] -> [..., hidden]."""
    for layer in params[:-1]:
        x = jax.nn.relu(jnp.matmul(x, layer["w"], precision="highest") + layer["b"])
    return x
