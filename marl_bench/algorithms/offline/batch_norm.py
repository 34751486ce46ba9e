"""Normalisation of a network's input by the batch that it comes with (Ioffe and Szegedy 2015), with PyTorch's constants."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

EPSILON = 1e-5
"""Added to variances."""
MOMENTUM = 0.1
"""Part of the way that running moments go to those of a batch."""


def moments(rows: jax.Array, axis: int = 0) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of `rows` over an axis."""
    return jnp.mean(rows, axis=axis), jnp.var(rows, axis=axis)


def init(shape: tuple[int, ...]) -> dict[str, jax.Array]:
    """Scale and shift of an input, float32."""
    return {"scale": jnp.ones(shape), "shift": jnp.zeros(shape)}


def normalised(norm: Any, agents: Any, view: jax.Array, running: bool) -> jax.Array:
    """[N, n, ...] views, normalised by their own moments unless that has been done by `running` ones.

    Args:
      norm: from `init`, leaves [G, ...]. agents: [N] slots.
    """
    if not running:
        mean, variance = moments(view, axis=1)
        view = (view - mean[:, None]) * jax.lax.rsqrt(variance + EPSILON)[:, None]
    own = np.zeros(len(view), int) if norm["scale"].shape[0] == 1 else jnp.asarray(agents)
    return view * norm["scale"][own][:, None] + norm["shift"][own][:, None]


def followed(running: Any, view: jax.Array) -> dict[str, jax.Array]:
    """Running {"mean", "std": [N, ...]} after a batch of views [N, n, ...]; of the variance the unbiased estimate is followed."""
    length = view.shape[1]
    mean, variance = moments(view, axis=1)
    variance = variance * length / max(length - 1, 1) + EPSILON
    squared = (1.0 - MOMENTUM) * jnp.square(running["std"]) + MOMENTUM * variance
    return {"mean": (1.0 - MOMENTUM) * running["mean"] + MOMENTUM * mean, "std": jnp.sqrt(squared)}
