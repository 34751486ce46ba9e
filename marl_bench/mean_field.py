"""The mean field of a swarm as a vector of fixed length: kernel means of the agents' states.

A swarm of exchangeable agents is described by the distribution of its agents' states. A world says along which `Axis`es a state
lies and embeds it; `Features` turns the sample into means of product kernels (or into a histogram), which depend neither on the
agents' order nor on their number. Source: kernel mean embeddings; Cui et al. 2024 use them for mean-field control (that they do is
verified, the form and the sizes here are a reconstruction).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marl_bench.environment import Environment, check_choice, check_range, field

KINDS = ("rbf", "hist", "none")

MOST = 10.0
"""Largest feature: a swarm in one point would otherwise give the number of all bins."""

_QUADRATURE = 512


@struct.dataclass
class Axis:
    """One coordinate of an agent's state; all fields are static.

    Attributes:
      kind: "line", one column in [-1, 1]; or "circle", two columns, cosine and sine of an angle.
      centres: number of kernel centres along it unless the learner chooses another.
      share: part of the circle from angle 0 on in which centres lie: 0.5 where agents are embedded with a second, mirrored image.
      order: whether the length of the mean vector is an order parameter; the mean vector is then a feature.
    """

    kind: str = struct.field(pytree_node=False, default="line")
    centres: int = struct.field(pytree_node=False, default=7)
    share: float = struct.field(pytree_node=False, default=1.0)
    order: bool = struct.field(pytree_node=False, default=False)

    @property
    def columns(self) -> int:
        """1 or 2."""
        return 1 if self.kind == "line" else 2

    def points(self, count: int, share: float | None = None) -> np.ndarray:
        """[count, columns] float32 middles of equal intervals."""
        middles = (np.arange(count) + 0.5) / count
        if self.kind == "line":
            return (2 * middles - 1).astype(np.float32)[:, None]
        angle = 2 * np.pi * middles * (self.share if share is None else share)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)

    def spacing(self, count: int) -> float:
        """Distance of neighbouring centres, in units of the line or in radians."""
        return 2 / count if self.kind == "line" else 2 * math.pi * self.share / count

    def weights(self, place: jax.Array, count: int, bandwidth: Any, kind: str) -> jax.Array:
        """[S, count] kernel of each centre and each of the places [S, columns], at most 1.

        Args:
          bandwidth: of the Gaussian, as a share of the spacing. On a circle |x - y|^2 / 2 is 1 - cos(angle between them).
          kind: "rbf", or "hist": 1 for the nearest centre (the first of several) and 0 for the others.
        """
        if count == 1:
            return jnp.ones((place.shape[0], 1))
        points = self.points(count)
        if self.kind == "line":
            half_squared = 0.5 * jnp.square(place - points.T)
        else:
            half_squared = 1 - jnp.matmul(place, points.T, precision="highest")
        if kind == "hist":
            return jax.nn.one_hot(jnp.argmin(half_squared, axis=1), count)
        return jnp.exp(-half_squared / jnp.square(bandwidth * self.spacing(count)))


@struct.dataclass
class Features:
    """Kernel means of a mean field.

    f_b = c_b (1/N) sum_i k(x_b, x_i), where k is a product over the axes and c_b makes a feature of the uniform distribution 1; then
    the mean vectors of the axes that have an order parameter.

    Attributes:
      kind: "rbf" (Gaussian kernels), "hist" (nearest centre) or "none" (one constant: whoever reads it is blind).
      centres: number of centres along each axis; None for each axis' own. 1 leaves an axis out.
      bandwidth: of the kernels, as a share of the spacing of the centres; > 0.
      canonical: turn the axis that has an order parameter so that its mean vector points to angle 0. Sound where neither reward nor
        sensors tell one direction from another.

    Raises:
      ValueError: for values out of range.
    """

    kind: str = field("rbf", static=True)
    centres: tuple[int, ...] | None = field(None, static=True)
    bandwidth: Any = field(0.5)
    canonical: bool = field(False, static=True)

    def __post_init__(self) -> None:
        check_choice(self, "kind", KINDS)
        check_range(self, "bandwidth", 0.0, open_low=True)

    def counts(self, axes: Sequence[Axis]) -> tuple[int, ...]:
        """Number of centres along each axis."""
        return tuple(axis.centres for axis in axes) if self.centres is None else self.centres

    def size(self, axes: Sequence[Axis]) -> int:
        """K."""
        if self.kind == "none":
            return 1
        return math.prod(self.counts(axes)) + 2 * sum(axis.order for axis in axes)

    def validate(self, environment: Environment) -> None:
        """Raises ValueError when the world has no mean field, or one of another number of axes."""
        name, axes = type(environment.unwrapped).__name__, getattr(environment, "mean_field_axes", None)
        if axes is None:
            raise ValueError(
                f"{name} has no mean field (a method mean_field and mean_field_axes): use a swarm, or ippo"
            )
        if self.centres is not None and (len(self.centres) != len(axes) or min(self.centres) < 1):
            raise ValueError(
                f"centres {self.centres}: {name} has {len(axes)} axes, give one number >= 1 for each, "
                f"such as {tuple(axis.centres for axis in axes)}"
            )
        if self.canonical and (sum(axis.order for axis in axes) != 1 or any(axis.share != 1 for axis in axes)):
            raise ValueError(f"canonical=True: needs one axis with a direction and no mirrored images, not {name}'s")

    def __call__(self, axes: Sequence[Axis], places: jax.Array, weights: jax.Array | None = None) -> jax.Array:
        """[K] float32 features.

        Args:
          axes: of the world.
          places: [C, N, columns of all axes] float32 embedded states of N agents and their C - 1 mirrored images, the agents first.
          weights: [N] how much each agent counts; None for all alike.
        """
        if self.kind == "none":
            return jnp.ones(1)
        images, agents = places.shape[:2]
        shares = jnp.full(agents, 1 / agents) if weights is None else weights / jnp.sum(weights)
        ends = np.cumsum([axis.columns for axis in axes])
        parts = jnp.split(places, ends[:-1], axis=-1)
        means = [
            jnp.matmul(shares, part[0], precision="highest")
            for part, axis in zip(parts, axes, strict=True)
            if axis.order
        ]
        if self.canonical:
            parts = [_turned(part, means[0]) if axis.order else part for part, axis in zip(parts, axes, strict=True)]
            means = [jnp.stack([jnp.linalg.norm(means[0]), 0.0])]
        counts = self.counts(axes)
        factors = [
            axis.weights(part.reshape(images * agents, -1), count, self.bandwidth, self.kind)
            for axis, part, count in zip(axes, parts, counts, strict=True)
        ]
        # The last axis joins the others, side by side for every agent, in the sum over the agents: a product of matrices.
        first = functools.reduce(_outer, factors[:-1], jnp.tile(shares, images)[:, None])
        total = jnp.matmul(first.T, factors[-1], precision="highest").reshape(-1)
        kernel = jnp.minimum(total / self._uniform(axes, images), MOST)
        return jnp.concatenate([kernel, *means])

    def _uniform(self, axes: Sequence[Axis], images: int) -> jax.Array:
        """[K'] what the sums over the images are for the uniform distribution, by quadrature."""
        along = [
            jnp.mean(axis.weights(jnp.asarray(axis.points(_QUADRATURE, 1.0)), count, self.bandwidth, self.kind), axis=0)
            for axis, count in zip(axes, self.counts(axes), strict=True)
        ]
        return images * functools.reduce(_outer, [part[None] for part in along])[0]


def _outer(first: jax.Array, second: jax.Array) -> jax.Array:
    """[S, A * B] products of all entries of rows [S, A] and [S, B]."""
    return (first[:, :, None] * second[:, None]).reshape(first.shape[0], -1)


def _turned(place: jax.Array, mean: jax.Array) -> jax.Array:
    """[C, N, 2] directions seen from the direction of `mean` [2]."""
    cos, sin = mean / jnp.maximum(jnp.linalg.norm(mean), 1e-12)
    return jnp.stack([place[..., 0] * cos + place[..., 1] * sin, place[..., 1] * cos - place[..., 0] * sin], axis=-1)
