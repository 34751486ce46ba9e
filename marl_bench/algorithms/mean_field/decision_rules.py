"""Lower-level decision rules: what an agent of a swarm does on what it sees, as given by a vector of parameters.

A rule has M centres in the space of views; its parameters xi [M, D, 2] are a mean and a spread of the D entries of an action at each
centre, before they are squashed. Between the centres Gaussian kernels blend (Nadaraya-Watson), or the nearest centre decides
(histogram). That kernels are used for rules is stated by Cui et al. 2024; this form is a reconstruction.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

KINDS = ("rbf", "hist")
MIXES = ("params", "components")


@struct.dataclass
class DecisionRule:
    """Law of an agent's action given its view and the parameters xi.

    With `mix` "params" an action is normal with the blended mean and spread; with "components" one centre is drawn, in proportion
    to the weights, and the action is normal with that centre's. Both are clipped to the box; their means before that agree.

    Attributes:
      centres: [M, d] float32 views.
      low, high: [D] float32 bounds of an action.
      bandwidth: of the kernels, in units of the views; > 0.
      min_std, max_std: what spreads lie between.
      kind: "rbf" or "hist". mix: "params" or "components".
    """

    centres: jax.Array
    low: jax.Array
    high: jax.Array
    bandwidth: Any
    min_std: Any = 1e-3
    max_std: Any = 0.5
    kind: str = struct.field(pytree_node=False, default="rbf")
    mix: str = struct.field(pytree_node=False, default="params")

    @property
    def size(self) -> int:
        """Number of parameters, M * D * 2."""
        return self.centres.shape[0] * self.low.shape[0] * 2

    def weights(self, view: jax.Array) -> jax.Array:
        """[..., M] weights of the centres, which sum to 1, for views [..., d].

        A softmax over log-kernels: the quotient of kernels would be 0/0 far from all centres.
        """
        # Minus half the squared distances, but for |view|^2 / 2, which is the same for all centres.
        near = jnp.matmul(view, self.centres.T, precision="highest") - 0.5 * jnp.sum(jnp.square(self.centres), axis=1)
        if self.kind == "hist":
            return jax.nn.one_hot(jnp.argmax(near, axis=-1), self.centres.shape[0])
        return jax.nn.softmax(near / jnp.square(self.bandwidth), axis=-1)

    def squashed(self, xi: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Means and spreads [..., M, D] at the centres from parameters [..., M * D * 2]."""
        unit = 0.5 * (jnp.tanh(xi.reshape(*xi.shape[:-1], self.centres.shape[0], self.low.shape[0], 2)) + 1)
        return self.low + (self.high - self.low) * unit[..., 0], self.min_std + self.max_std * unit[..., 1]

    def mean(self, xi: jax.Array, view: jax.Array) -> jax.Array:
        """[..., D] mean action, before clipping, for parameters [..., M * D * 2] and views [..., d] (leading axes broadcast)."""
        means, _ = self.squashed(xi)
        return _blended(self.weights(view), means)

    def sample(self, xi: jax.Array, view: jax.Array, noise: jax.Array, uniform: jax.Array | None = None) -> jax.Array:
        """[..., D] actions in the box.

        Args:
          xi: [..., M * D * 2] parameters. view: [..., d]; leading axes broadcast.
          noise: [..., D] standard normal numbers.
          uniform: [...] numbers in [0, 1) that choose the centre; only read with `mix` "components".
        """
        weights, (means, spreads) = self.weights(view), self.squashed(xi)
        if self.mix == "components":
            assert uniform is not None
            cumulative = jnp.cumsum(weights, axis=-1)
            # Scaled by their own total: rounding must not choose beyond the last centre.
            chosen = jnp.sum(cumulative <= uniform[..., None] * cumulative[..., -1:], axis=-1)
            weights = jax.nn.one_hot(chosen, weights.shape[-1])
        return jnp.clip(_blended(weights, means) + _blended(weights, spreads) * noise, self.low, self.high)


def _blended(weights: jax.Array, values: jax.Array) -> jax.Array:
    """[..., D] from weights [..., M] and values [..., M, D]; a product of matrices where all agents share the values."""
    if values.ndim == 2:
        return jnp.matmul(weights, values, precision="highest")
    return jnp.einsum("...m,...md->...d", weights, values, precision="highest")


def grid(count: int, dimensions: int) -> np.ndarray:
    """[count^d, d] float32 middles of the bins of [-1, 1]^d."""
    middles = 2 * (np.arange(count) + 0.5) / count - 1
    return np.array(list(itertools.product(middles, repeat=dimensions)), np.float32)


def polar(rings: int = 2, sectors: int = 8) -> np.ndarray:
    """[1 + rings * sectors, 2] float32: the middle of the unit disc and rings around it."""
    angle = 2 * np.pi * np.arange(sectors) / sectors
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    radii = (np.arange(rings) + 0.5) / rings
    return np.concatenate([np.zeros((1, 2)), *(radius * ring for radius in radii)]).astype(np.float32)


def k_means(points: jax.Array, count: int, rounds: int = 20) -> jax.Array:
    """[count, d] centres of clusters of points [S, d] (Lloyd 1982), begun at points evenly spread over the sample.

    A cluster that loses all its points keeps its centre.
    """
    start = points[jnp.asarray(np.linspace(0, points.shape[0] - 1, count).astype(np.int32))]

    def moved(centres: jax.Array, _: None) -> tuple[jax.Array, None]:
        nearest = jnp.argmin(jnp.sum(jnp.square(points[:, None] - centres), axis=-1), axis=1)
        members = jax.nn.one_hot(nearest, count)
        number = jnp.sum(members, axis=0)[:, None]
        means = jnp.matmul(members.T, points, precision="highest") / jnp.maximum(number, 1)
        return jnp.where(number > 0, means, centres), None

    return jax.lax.scan(moved, start, None, rounds)[0]
