"""Offline data on the device: K data sets of one world as flat rows, which all cells of a pack read.

An episode of L steps takes L + 1 rows: the last one holds what was seen after the last step, so the successor of row r is always
row r + 1. Everything is drawn by index (`sampling`), so a pack of cells shares one copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import struct

from marl_bench.datasets.schema import Trajectories


@struct.dataclass
class Data:
    """K data sets of a world with N agents; sets that are shorter than the longest are filled up with zeros.

    Attributes:
      view: [K, R, N, ...] what was seen. state: [K, R, S] float32 or None. mask: [K, R, N, A] bool legal actions, or None where
        actions are continuous.
      action: [K, R, N] int32 or [K, R, N, D] float32; 0 in rows after a last step.
      reward: [K, R, N] float32, of the row's action. discount: [K, R, N] float32, 0 where the game ended with it for the agent.
      is_last: [K, R] bool, whether the row's step ended the episode, in whichever way.
      usable: [K, R] bool, whether the row holds a step whose successor is known or not needed.
      first: [K, E] int32 row of each episode's start. length: [K, E] int32 its steps.
      step_row: [K, M] int32 rows of the usable steps.
      num_episodes, num_steps: [K] int32, how many of E and M are there.
    """

    view: jax.Array
    state: jax.Array | None
    mask: jax.Array | None
    action: jax.Array
    reward: jax.Array
    discount: jax.Array
    is_last: jax.Array
    usable: jax.Array
    first: jax.Array
    length: jax.Array
    step_row: jax.Array
    num_episodes: jax.Array
    num_steps: jax.Array


def as_data(parts: Sequence[Trajectories], num_actions: int = 0, sizes: tuple[int, int, int] = (0, 0, 0)) -> Data:
    """`Data` of K data sets with the same fields, as NumPy arrays.

    Args:
      parts: the data sets.
      num_actions: A, for numbered actions: fills in the legal actions of sets that do not have them. 0: continuous actions.
      sizes: least (R, E, M), so that shards of one data set get the same shapes.
    """
    one = [_rows(part, num_actions) for part in parts]
    rows, episodes, steps = (
        max(least, 1, *(getattr(part, name).shape[0] for part in one))
        for least, name in zip(sizes, ("view", "first", "step_row"), strict=True)
    )
    lengths = {"first": episodes, "length": episodes, "step_row": steps, "num_episodes": None, "num_steps": None}

    def stacked(name: str) -> Any:
        leaves = [getattr(part, name) for part in one]
        if any(leaf is None for leaf in leaves):
            return None
        size = lengths.get(name, rows)
        return np.stack([leaf if size is None else _filled(leaf, size) for leaf in leaves])

    return Data(**{name: stacked(name) for name in Data.__dataclass_fields__})


def sizes_of(part: Trajectories) -> tuple[int, int, int]:
    """(R, E, M) that `part` needs at most."""
    return part.num_steps + part.num_episodes, part.num_episodes, part.num_steps


def _filled(array: np.ndarray, size: int) -> np.ndarray:
    return np.pad(array, [(0, size - array.shape[0])] + [(0, 0)] * (array.ndim - 1))


def _rows(part: Trajectories, num_actions: int) -> Data:
    """One data set, without the leading axis."""
    lengths, ends = part.lengths, part.is_last
    step_row = np.arange(part.num_steps) + np.repeat(np.arange(lengths.size), lengths)
    last_row = np.cumsum(lengths + 1) - 1
    rows = part.num_steps + lengths.size

    def laid_out(array: np.ndarray, last: np.ndarray | None) -> np.ndarray:
        out = np.zeros((rows, *array.shape[1:]), array.dtype)
        out[step_row] = array
        if last is not None:
            out[last_row] = last
        return out

    legals = part.legals
    if legals is None and num_actions:
        legals = np.ones((part.num_steps, part.num_agents, num_actions), bool)
    mask = None if legals is None else laid_out(legals, part.last_legals)
    if mask is not None and part.last_legals is None:
        mask[last_row] = True
    # Where nothing is known of the successor, the step teaches nothing, unless nothing follows because the game ended.
    known = part.last_observations is not None
    usable = np.ones(part.num_steps, bool) if known else ~ends | np.all(part.terminals, axis=1)
    kind = np.int32 if part.actions.ndim == 2 else np.float32
    found: dict[str, Any] = dict(
        view=laid_out(_narrow(part.observations), part.last_observations),
        state=None if part.state is None else laid_out(part.state.astype(np.float32), part.last_state),
        mask=mask,
        action=laid_out(part.actions.astype(kind), None),
        reward=laid_out(part.rewards.astype(np.float32), None),
        discount=laid_out(1.0 - part.terminals.astype(np.float32), None),
        is_last=laid_out(ends, None),
        usable=laid_out(usable, None),
        first=(last_row - lengths).astype(np.int32),
        length=lengths.astype(np.int32),
        step_row=step_row[usable].astype(np.int32),
        num_episodes=np.int32(lengths.size),
        num_steps=np.int32(usable.sum()),
    )
    return Data(**found)


def _narrow(array: np.ndarray) -> np.ndarray:
    """64-bit numbers as 32-bit ones, the others as they are."""
    wide = {"f": np.float32, "i": np.int32, "u": np.uint32}
    return array.astype(wide[array.dtype.kind]) if array.dtype.itemsize == 8 else array
