"""Comparisons of what environments hold and return: pytrees on the host, and attributes."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def describe(error: BaseException) -> str:
    """`Type: first line of the message`, short enough for a sentence."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def is_key(leaf: Any) -> bool:
    """True for an array of typed PRNG keys."""
    return jnp.issubdtype(getattr(leaf, "dtype", np.dtype(object)), jax.dtypes.prng_key)


def to_host(tree: Any) -> Any:
    """The tree with NumPy leaves; typed keys become their uint32 data."""
    return jax.tree.map(lambda leaf: np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf), tree)


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """Path (such as `.agents_view` or `['metrics']`) to leaf."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def is_numeric(leaf: Any) -> bool:
    """True for what JAX can trace as an array: numbers, booleans, arrays of them, keys."""
    if is_key(leaf):
        return True
    return not isinstance(leaf, (str, bytes)) and np.asarray(leaf).dtype.kind in "biufcV"


def same(first: Any, second: Any, exact: bool) -> str | None:
    """Path of the first leaf in which two trees differ, or None.

    Floats are compared to 1e-4 relative and 1e-5 absolute unless `exact`: compilers reorder sums.
    """
    ours, theirs = leaves_by_path(to_host(first)), leaves_by_path(to_host(second))
    for path in [*ours, *(path for path in theirs if path not in ours)]:
        if path not in ours or path not in theirs or ours[path].shape != theirs[path].shape:
            return path
        a, b = ours[path], theirs[path]
        close = a.dtype.kind == "f" and not exact
        equal = np.allclose(a, b, 1e-4, 1e-5, equal_nan=True) if close else _identical(a, b)
        if not equal:
            return path
    return None


def _identical(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc" and b.dtype.kind in "fc"))


def snapshot(environment: Any) -> dict[str, Any]:
    """Attribute name to something comparable, of the object and of its class; cached properties left out."""
    kind = type(environment)
    own = {
        name: value
        for name, value in getattr(environment, "__dict__", {}).items()
        if not isinstance(getattr(kind, name, None), functools.cached_property)
    }
    shared = {
        f"{kind.__name__}.{name}": value
        for base in kind.__mro__[:-1]
        for name, value in vars(base).items()
        if not name.startswith("_") and not callable(value)
    }
    return {name: _fingerprint(value) for name, value in {**shared, **own}.items()}


def _fingerprint(value: Any) -> Any:
    leaves = jax.tree.leaves(value)
    return [
        (type(leaf).__name__, np.asarray(leaf).tobytes()) if isinstance(leaf, (np.ndarray, np.generic)) else repr(leaf)
        for leaf in leaves
    ]
