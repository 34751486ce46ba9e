"""What offline learners draw from `Data`: transitions, whole episodes, windows. Pure functions of a key.

Each takes `part`, [] int32: which of the K data sets to draw from; under `vmap` over cells the data is not copied.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from marl_bench.datasets.data import Data


@struct.dataclass
class Batch:
    """n transitions of N agents.

    Attributes:
      view: [n, N, ...]. state: [n, S] or None. mask: [n, N, A] bool or None.
      action: [n, N] int32 or [n, N, D] float32.
      reward: [n, N]. discount: [n, N], 0 where the game ended.
      next_view, next_state, next_mask: of the true successors.
    """

    view: jax.Array
    state: jax.Array | None
    mask: jax.Array | None
    action: jax.Array
    reward: jax.Array
    discount: jax.Array
    next_view: jax.Array
    next_state: jax.Array | None
    next_mask: jax.Array | None


@struct.dataclass
class Sequence:
    """n stretches of L steps with the observation after each last step: leaves [n, L + 1, ...].

    Attributes:
      view: [n, L + 1, N, ...]. state: [n, L + 1, S] or None. mask: [n, L + 1, N, A] bool or None.
      action: [n, L + 1, N] int32 or [n, L + 1, N, D] float32. reward, discount: [n, L + 1, N].
      valid: [n, L] bool, whether the step is of the episode (those after its end are not), and usable.
      filled: [n, L + 1] bool, whether the observation is of the episode.
      is_last: [n, L] bool, whether the step ended the episode.
    """

    view: jax.Array
    state: jax.Array | None
    mask: jax.Array | None
    action: jax.Array
    reward: jax.Array
    discount: jax.Array
    valid: jax.Array
    filled: jax.Array
    is_last: jax.Array


def transitions(data: Data, part: jax.Array, key: jax.Array, size: int) -> Batch:
    """`size` steps drawn uniformly with replacement. `key`: [] typed PRNG key."""
    return transitions_at(data, part, step_rows(data, part, key, size))


def step_rows(data: Data, part: jax.Array, key: jax.Array, size: int) -> jax.Array:
    """[n] int32 rows of `size` steps drawn uniformly with replacement. `key`: [] typed PRNG key."""
    places = jax.random.randint(key, (size,), 0, data.num_steps[part])
    return _at(data.step_row, part, places)


def actions_after(data: Data, part: jax.Array, rows: jax.Array) -> jax.Array:
    """[n, N, ...] what was done one step after `rows` [n]; after an episode's last step, what was done in it."""
    return _at(data.action, part, rows + ~_at(data.is_last, part, rows))


def transitions_at(data: Data, part: jax.Array, rows: jax.Array) -> Batch:
    """The steps in `rows` [n] int32, and their successors."""
    here, after = (lambda leaf: _at(leaf, part, rows)), (lambda leaf: _at(leaf, part, rows + 1))
    return Batch(
        view=here(data.view),
        state=None if data.state is None else here(data.state),
        mask=None if data.mask is None else here(data.mask),
        action=here(data.action),
        reward=here(data.reward),
        discount=here(data.discount),
        next_view=after(data.view),
        next_state=None if data.state is None else after(data.state),
        next_mask=None if data.mask is None else after(data.mask),
    )


def episodes(data: Data, part: jax.Array, key: jax.Array, size: int, longest: int) -> Sequence:
    """`size` whole episodes, drawn without replacement (with, where there are fewer).

    Args:
      longest: L, steps of the longest episode (`OfflineSource.longest`).
    """
    count, most = data.num_episodes[part], data.first.shape[1]
    rank = jnp.where(jnp.arange(most) < count, jax.random.uniform(key, (most,)), 2.0)
    order = jnp.argsort(rank)
    chosen = order[jnp.arange(size) % jnp.minimum(count, most)]
    return stretch(data, part, chosen, jnp.zeros(size, jnp.int32), longest)


def windows(data: Data, part: jax.Array, key: jax.Array, size: int, length: int) -> Sequence:
    """`size` windows of `length` steps, their first steps drawn uniformly from all steps; cut at the episode's end."""
    places = jax.random.randint(key, (size,), 0, data.num_steps[part])
    rows = _at(data.step_row, part, places)
    starts = jnp.where(jnp.arange(data.first.shape[1]) < data.num_episodes[part], data.first[part], 2**30)
    episode = jnp.searchsorted(starts, rows, side="right") - 1
    return stretch(data, part, episode, rows - starts[episode], length)


def stretch(data: Data, part: jax.Array, episode: jax.Array, start: jax.Array, length: int) -> Sequence:
    """`length` steps of each `episode` [n] from its step `start` [n] on; what lies beyond its end repeats the last row."""
    first, steps = _at(data.first, part, episode), _at(data.length, part, episode)
    time = start[:, None] + jnp.arange(length + 1)
    rows = first[:, None] + jnp.minimum(time, steps[:, None])
    take = lambda leaf: _at(leaf, part, rows)  # noqa: E731
    inside = time[:, :-1] < steps[:, None]
    return Sequence(
        view=take(data.view),
        state=None if data.state is None else take(data.state),
        mask=None if data.mask is None else take(data.mask),
        action=take(data.action),
        reward=take(data.reward),
        discount=take(data.discount),
        valid=inside & take(data.usable)[:, :-1],
        filled=time <= steps[:, None],
        is_last=inside & take(data.is_last)[:, :-1],
    )


def _at(leaf: jax.Array, part: jax.Array, rows: jax.Array) -> jax.Array:
    return leaf.at[part, rows].get(mode="promise_in_bounds")
