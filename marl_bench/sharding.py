"""Environments of one cell on several devices: what a learner says about it.

The runner may divide the environments of a cell over a mesh axis named `AXIS`. The program stays that of one device: XLA's
partitioner (GSPMD) divides its arrays, starting from the state's, and inserts what the devices have to tell each other, above
all sums of gradients. So means, norms, shuffles and random numbers are those of one device, and results are equal to rounding;
no learner computes a sum over devices. What the partitioner cannot know is which arrays *in between* are worth dividing; that is
said here, and says nothing where nothing is divided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

AXIS = "environments"
"""Mesh axis over which the environments of a cell are divided."""


def is_split() -> bool:
    """Whether the program that is being traced divides environments over devices."""
    return AXIS in jax.sharding.get_abstract_mesh().axis_names


def split(tree: Any, axis: int = 0) -> Any:
    """`tree`, its leaves [..., B, ...] divided over the devices along `axis`."""
    return _constrained(tree, axis, AXIS)


def whole(tree: Any, axis: int = 0) -> Any:
    """`tree`, its leaves in full on every device along `axis`: each reads what it likes of it, and asks nobody."""
    return _constrained(tree, axis, None)


def drawn(tree: Any, axis: int = 0) -> Any:
    """`tree`, its leaves divided along `axis`, where they are samples from the environments of all devices.

    Each device puts in what it has, the sum is everybody's, and each goes on with its part. Unless that is said, the indices are
    divided and then collected again for each array.
    """
    return split(whole(tree, axis), axis)


def _constrained(tree: Any, axis: int, name: str | None) -> Any:
    if not is_split():
        return tree
    spec = PartitionSpec(*[PartitionSpec.UNCONSTRAINED] * axis, name)
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, spec) if leaf.size else leaf, tree)


def merged(leaf: jax.Array) -> jax.Array:
    """[T B, ...] from [T, B, ...]: by time, or, where B is divided, by environment, so that nothing changes its device."""
    ordered = jnp.swapaxes(leaf, 0, 1) if is_split() else leaf
    return ordered.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:])


def unmerged(leaf: jax.Array, num_steps: int) -> jax.Array:
    """[T, B, ...] from `merged` [T B, ...]; `num_steps`: T."""
    num_envs, rest = leaf.shape[0] // num_steps, leaf.shape[1:]
    if is_split():
        return jnp.swapaxes(leaf.reshape(num_envs, num_steps, *rest), 0, 1)
    return leaf.reshape(num_steps, num_envs, *rest)


def merged_place(index: Any, num_steps: int, num_envs: int) -> Any:
    """Where `merged` puts the samples that `index` (an array or a slice) selects, counted by time: t B + b."""
    if not is_split():
        return index
    index = jnp.arange(num_steps * num_envs)[index]
    return index % num_envs * num_steps + index // num_envs


def by_parts(function: Callable[..., Any], rows: Sequence[Any], count: int) -> Any:
    """`function(*rows)`, `count` parts of the rows one after the other: less memory than all at once.

    Args:
      function: of arguments with leaves [T, R, ...], and gives such leaves, each row from the same row.
      rows: its arguments. Parts are runs of rows, or, where rows are divided, every `count`-th row: some of each device's.
    """

    def parted(leaf: jax.Array) -> jax.Array:
        size = leaf.shape[1] // count
        shape = (leaf.shape[0], *((size, count) if is_split() else (count, size)), *leaf.shape[2:])
        return jnp.moveaxis(leaf.reshape(shape), 2 if is_split() else 1, 0)

    def joined(leaf: jax.Array) -> jax.Array:
        ordered = jnp.moveaxis(leaf, 0, 2 if is_split() else 1)
        return ordered.reshape(leaf.shape[1], leaf.shape[0] * leaf.shape[2], *leaf.shape[3:])

    found = jax.lax.map(lambda part: function(*part), jax.tree.map(parted, tuple(rows)))
    return jax.tree.map(joined, found)
