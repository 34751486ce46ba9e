"""Action distributions of the policy-gradient learners: masked categorical and diagonal normal.

`Categorical` and `Normal` hold the network's output; functions act on the last axis, so any leading axes may be there.
Checked against SciPy.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import struct

MASKED = -1e9
"""Logit of an illegal action: its probability is exactly 0 in float32, and its gradient too."""


@struct.dataclass
class Categorical:
    """Categorical over A actions.

    Attributes:
      logits: [..., A] float32, unnormalised.
    """

    logits: jax.Array

    @classmethod
    def masked(cls, logits: jax.Array, mask: jax.Array) -> Categorical:
        """Only legal actions (`mask` [..., A] True) have a probability."""
        return cls(jnp.where(mask, logits, MASKED))

    @staticmethod
    def draw(key: jax.Array, shape: tuple[int, ...], size: int) -> jax.Array:
        """[*shape] uniform numbers for `sample`; `size`: A."""
        del size
        return jax.random.uniform(key, shape)

    def sample(self, uniform: jax.Array) -> jax.Array:
        """[...] int32, by inversion. `uniform`: [...] in [0, 1), one number a draw."""
        cumulative = jnp.cumsum(jax.nn.softmax(self.logits), axis=-1)
        # Scaled by the total, so that rounding can choose neither past the end nor an action of probability 0.
        bound = uniform[..., None] * cumulative[..., -1:]
        return jnp.sum(cumulative <= bound, axis=-1, dtype=jnp.int32)

    def mode(self) -> jax.Array:
        """[...] int32, the first most likely action."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """[...] float32 of actions [...]."""
        log_probabilities = jax.nn.log_softmax(self.logits)
        chosen = action[..., None] == jnp.arange(self.logits.shape[-1])
        return jnp.sum(jnp.where(chosen, log_probabilities, 0.0), axis=-1)

    def entropy(self) -> jax.Array:
        """[...] float32 nats."""
        log_probabilities = jax.nn.log_softmax(self.logits)
        return -jnp.sum(jnp.exp(log_probabilities) * log_probabilities, axis=-1)


@struct.dataclass
class Normal:
    """Normal with independent entries.

    Attributes:
      mean: [..., D]. log_std: [..., D].
    """

    mean: jax.Array
    log_std: jax.Array

    @staticmethod
    def draw(key: jax.Array, shape: tuple[int, ...], size: int) -> jax.Array:
        """[*shape, size] standard normal numbers for `sample`; `size`: D."""
        return jax.random.normal(key, (*shape, size))

    def sample(self, noise: jax.Array) -> jax.Array:
        """[..., D]. `noise`: [..., D] standard normal."""
        return self.mean + jnp.exp(self.log_std) * noise

    def mode(self) -> jax.Array:
        """[..., D]."""
        return self.mean

    def log_prob(self, action: jax.Array) -> jax.Array:
        """[...] of actions [..., D]."""
        scaled = (action - self.mean) * jnp.exp(-self.log_std)
        return -jnp.sum(0.5 * jnp.square(scaled) + self.log_std + 0.5 * math.log(2 * math.pi), axis=-1)

    def entropy(self) -> jax.Array:
        """[...] nats."""
        return jnp.sum(self.log_std + 0.5 * math.log(2 * math.pi * math.e), axis=-1)
