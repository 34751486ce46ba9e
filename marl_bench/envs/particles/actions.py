"""Actions of the particle worlds: force directions and messages, as integers or as vectors.

| | mpe2, jaxmarl | omar |
|---|---|---|
| integer | 0 nothing, 1 -x, 2 +x, 3 -y, 4 +y | 0 nothing, 1 +x, 2 -x, 3 +y, 4 -y |
| vector | (x, y) in [-1, 1] | the same |

An agent that moves and speaks plays one integer: move = action mod 5, word = action div 5; as a vector it appends the
message, each entry in [0, 1]. The packages' own vectors have five entries in [0, 1]; `to_five_vector` and
`from_five_vector` translate. Source: spec env_mpe.md section 4.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from marl_bench.envs.particles import rules as physics

NUM_MOVES = 5
"""Integers that move an agent."""

_DIRECTIONS = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], np.float32)


def directions(rules: str) -> np.ndarray:
    """[5, 2] float32 direction of each integer move; the old engine has the signs the other way round."""
    return -_DIRECTIONS + 0.0 if rules == "omar" else _DIRECTIONS


def decode_move(move: jax.Array, rules: str) -> tuple[jax.Array, jax.Array]:
    """Direction (x, y) [...] float32 of integer moves [...] in 0 ... 4."""
    sign = np.float32(-1 if rules == "omar" else 1)
    x = (move == 2).astype(jnp.float32) - (move == 1).astype(jnp.float32)
    y = (move == 4).astype(jnp.float32) - (move == 3).astype(jnp.float32)
    return sign * x, sign * y


def decode_word(word: jax.Array, words: int) -> jax.Array:
    """[S, words, ...] float32 one-hot messages of integer words [S, ...]."""
    known = np.arange(words).reshape(1, words, *(1,) * (word.ndim - 1))
    return (word[:, None] == known).astype(jnp.float32)


def decode_vector(actions: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Parts of vector actions [N, 2 + C, ...], clipped: direction x, y [N, ...] and message [N, C, ...]."""
    push = jnp.clip(actions[:, :2], -1, 1)
    return push[:, 0], push[:, 1], jnp.clip(actions[:, 2:], 0, 1)


def clip_integers(actions: jax.Array, num_values: np.ndarray) -> jax.Array:
    """Integer actions [N, ...] clipped to 0 ... num_values [N] - 1, as int32."""
    highest = physics.trailing(np.asarray(num_values, np.int32) - 1, actions)
    return jnp.clip(jnp.asarray(actions).astype(jnp.int32), 0, highest)


def to_five_vector(actions: jax.Array) -> jax.Array:
    """The packages' five-vectors of our vectors, for stepping mpe2 or JaxMARL.

    Args:
      actions: [..., 2 + C] directions (x, y) in [-1, 1], then a message.
    Returns:
      [..., 5 + C]: 0, max(-x, 0), max(x, 0), max(-y, 0), max(y, 0), then the message.
    """
    x, y = actions[..., 0], actions[..., 1]
    parts = [jnp.zeros_like(x), jnp.maximum(-x, 0), jnp.maximum(x, 0), jnp.maximum(-y, 0), jnp.maximum(y, 0)]
    return jnp.concatenate([jnp.stack(parts, axis=-1), actions[..., 2:]], axis=-1)


def from_five_vector(actions: jax.Array) -> jax.Array:
    """Our vectors [..., 2 + C] of the packages' five-vectors [..., 5 + C]; undoes `to_five_vector` exactly."""
    x, y = actions[..., 2] - actions[..., 1], actions[..., 4] - actions[..., 3]
    return jnp.concatenate([jnp.stack([x, y], axis=-1), actions[..., 5:]], axis=-1)
