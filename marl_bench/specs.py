"""Array specifications: what an observation, action, reward or discount may look like.

The classes carry the names, fields and methods of `jumanji.specs` (`shape`, `dtype`,
`minimum`, `maximum`, `num_values`, `validate`, `generate_value`), so code written against
Jumanji's specs reads ours. They hold NumPy values only: importing or building them starts no
JAX backend.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Array:
    """Shape and dtype of one array.

    Attributes:
      shape: shape of one (un-batched) value.
      dtype: NumPy dtype of the value.
      name: how error messages call it.
    """

    shape: tuple[int, ...]
    dtype: Any
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        object.__setattr__(self, "dtype", np.dtype(self.dtype))

    def validate(self, value: Any) -> Any:
        """Return `value` if it has this shape and dtype.

        Raises:
          ValueError: naming the spec, what was expected and what was found.
        """
        if tuple(np.shape(value)) != self.shape:
            raise ValueError(f"{self.name or 'array'}: shape {tuple(np.shape(value))}, spec says {self.shape}")
        found = np.dtype(getattr(value, "dtype", np.asarray(value).dtype))
        if found != self.dtype:
            raise ValueError(f"{self.name or 'array'}: dtype {found}, spec says {self.dtype}")
        return value

    def generate_value(self) -> np.ndarray:
        """Return one legal value: zeros of this shape and dtype."""
        return np.zeros(self.shape, self.dtype)

    def replace(self, **changes: Any) -> Any:
        """Return a copy with the named fields changed."""
        return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True, eq=False)
class BoundedArray(Array):
    """An `Array` whose entries lie in [minimum, maximum] (both inclusive, broadcast to shape)."""

    minimum: Any = -np.inf
    maximum: Any = np.inf

    def validate(self, value: Any) -> Any:
        """Return `value` if shape, dtype and bounds hold; raise `ValueError` otherwise."""
        super().validate(value)
        host = np.asarray(value)
        if (host < self.minimum).any() or (host > self.maximum).any():
            raise ValueError(
                f"{self.name or 'array'}: values in [{host.min()}, {host.max()}], "
                f"spec says [{np.min(self.minimum)}, {np.max(self.maximum)}]"
            )
        return value

    def generate_value(self) -> np.ndarray:
        """Return one legal value: the minimum, or zero where there is no finite one."""
        low = np.broadcast_to(self.minimum, self.shape)
        return np.where(np.isfinite(low), low, 0).astype(self.dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class MultiDiscreteArray(BoundedArray):
    """Integer array in which entry i takes values 0 ... num_values[i] - 1 (for us: one entry an agent)."""

    num_values: Any = None

    def __init__(self, num_values: Any, dtype: Any = np.int32, name: str = "") -> None:
        values = np.asarray(num_values, np.int64)
        if (values < 1).any():
            raise ValueError(f"num_values={values.tolist()}: every entry must be at least 1")
        object.__setattr__(self, "num_values", values)
        object.__setattr__(self, "minimum", 0)
        object.__setattr__(self, "maximum", values - 1)
        object.__setattr__(self, "shape", values.shape)
        object.__setattr__(self, "dtype", np.dtype(dtype))
        object.__setattr__(self, "name", name)


@dataclasses.dataclass(frozen=True)
class ObservationSpec:
    """Spec of an `Observation`: one `Array` a field.

    Attributes:
      agents_view: [N, ...] what each agent sees.
      action_mask: [N, A] bool, which actions are legal.
      step_count: [] int32.
    """

    agents_view: Array
    action_mask: Array
    step_count: Array

    def validate(self, value: Any) -> Any:
        """Return `value` if each of its fields fits its spec; raise `ValueError` otherwise."""
        for field in dataclasses.fields(self):
            getattr(self, field.name).validate(getattr(value, field.name))
        return value
