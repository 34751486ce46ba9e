"""The one schema of offline data: episodes of N agents laid end to end, on the host.

The layout in time is that of OG-MARL's vaults (Formanek et al. 2023): row t holds what was seen, what was done, and what came of
it. What is seen after an episode's last step has no row there; it is kept beside the rows, so that values can be bootstrapped
through a time limit from the true successor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

ROW_FIELDS = ("observations", "actions", "rewards", "terminals", "truncations", "state", "legals")
LAST_FIELDS = ("last_observations", "last_state", "last_legals")


@dataclasses.dataclass(frozen=True, eq=False)
class Trajectories:
    """T steps in E whole episodes, one after the other; NumPy arrays.

    An episode ends where every agent's `terminals` or `truncations` is set; an agent that drops out earlier has its own
    `terminals` set before. Termination and truncation are apart: `terminals` only where the game itself ended.

    Attributes:
      observations: [T, N, ...] what was acted on.
      actions: [T, N] int32 or [T, N, D] float32.
      rewards: [T, N] float32. terminals, truncations: [T, N] bool.
      state: [T, S] float32 global states, or None.
      legals: [T, N, A] bool legal actions, or None where all are.
      last_observations: [E, N, ...] what was seen after each episode's last step; None where nobody knows.
      last_state: [E, S]; last_legals: [E, N, A]; of the same moment. None with `last_observations`, or with the rows' own.

    Raises:
      ValueError: for arrays whose shapes or types do not fit together, naming the one that does not.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminals: np.ndarray
    truncations: np.ndarray
    state: np.ndarray | None = None
    legals: np.ndarray | None = None
    last_observations: np.ndarray | None = None
    last_state: np.ndarray | None = None
    last_legals: np.ndarray | None = None

    def __post_init__(self) -> None:
        _check(self)

    @property
    def num_steps(self) -> int:
        """T."""
        return self.observations.shape[0]

    @property
    def num_agents(self) -> int:
        """N."""
        return self.observations.shape[1]

    @property
    def num_episodes(self) -> int:
        """E."""
        return self.lengths.shape[0]

    @property
    def is_last(self) -> np.ndarray:
        """[T] bool, whether the step ended its episode; the last one always does."""
        ends = np.all(self.terminals | self.truncations, axis=1)
        if ends.size:
            ends[-1] = True
        return ends

    @property
    def lengths(self) -> np.ndarray:
        """[E] int64, steps of each episode."""
        return np.diff(np.flatnonzero(self.is_last), prepend=-1)

    @property
    def returns(self) -> np.ndarray:
        """[E, N] float64, undiscounted sum of each agent's rewards over each episode."""
        starts = np.cumsum(self.lengths) - self.lengths
        return np.add.reduceat(self.rewards.astype(np.float64), starts, axis=0)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(getattr(self, name).nbytes for name in ROW_FIELDS + LAST_FIELDS if getattr(self, name) is not None)

    def episodes(self, chosen: np.ndarray | Sequence[int]) -> Trajectories:
        """The named episodes, in the given order. `chosen`: indices in 0 ... E - 1."""
        lengths, chosen = self.lengths, np.asarray(chosen, np.int64)
        starts, wanted = np.cumsum(lengths) - lengths, lengths[chosen]
        before = np.cumsum(wanted) - wanted
        rows = np.arange(wanted.sum()) + np.repeat(starts[chosen] - before, wanted)
        return Trajectories(
            **{name: _at(getattr(self, name), rows) for name in ROW_FIELDS},
            **{name: _at(getattr(self, name), chosen) for name in LAST_FIELDS},
        )


def joined(parts: Sequence[Trajectories]) -> Trajectories:
    """The episodes of all `parts`, which have the same fields, one after the other."""
    return Trajectories(**{name: _joined([getattr(part, name) for part in parts]) for name in ROW_FIELDS + LAST_FIELDS})


def _at(array: np.ndarray | None, rows: np.ndarray) -> Any:
    return None if array is None else array[rows]


def _joined(arrays: list[np.ndarray | None]) -> Any:
    found = [array for array in arrays if array is not None]
    return np.concatenate(found) if found and len(found) == len(arrays) else None


def _check(data: Trajectories) -> None:
    """Refuse arrays that are not what the docstring of `Trajectories` says."""
    if data.observations.ndim < 3:
        raise ValueError(f"observations: expected [T, N, ...], found shape {data.observations.shape}")
    rows, agents = data.observations.shape[:2]
    wanted = {
        "actions": (rows, agents),
        "rewards": (rows, agents),
        "terminals": (rows, agents),
        "truncations": (rows, agents),
        "state": (rows,),
        "legals": (rows, agents),
    }
    for name, shape in wanted.items():
        array = getattr(data, name)
        if array is not None and array.shape[: len(shape)] != shape:
            raise ValueError(f"{name}: expected {list(shape)} in front, as in observations; found shape {array.shape}")
    for name in ("terminals", "truncations", "legals", "last_legals"):
        array = getattr(data, name)
        if array is not None and array.dtype != np.bool_:
            raise ValueError(f"{name}: expected bool, found {array.dtype}")
    continuous = data.actions.ndim == 3
    kind = np.floating if continuous else np.integer
    if data.actions.ndim not in (2, 3) or not np.issubdtype(data.actions.dtype, kind):
        raise ValueError(
            f"actions: expected integers [T, N] or floats [T, N, D], found {data.actions.dtype} {data.actions.shape}"
        )
    for name in ("observations", "actions", "rewards", "state", "last_observations", "last_state"):
        array = getattr(data, name)
        if array is None:
            continue
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{name}: expected numbers, found {array.dtype}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name}: holds NaN or infinity")
    _check_actions(data)
    _check_last(data)


def _check_actions(data: Trajectories) -> None:
    """Refuse numbered actions below 0, and such as are not among the legal ones' columns."""
    if data.actions.ndim == 3 or not data.actions.size:
        return
    low, high = int(data.actions.min()), int(data.actions.max())
    most = None if data.legals is None else data.legals.shape[2]
    if low < 0 or (most is not None and high >= most):
        raise ValueError(f"actions: {low} to {high}, expected 0 to {'A - 1' if most is None else most - 1}")


def _check_last(data: Trajectories) -> None:
    """Refuse last observations whose number or shape is not that of the episodes."""
    if data.last_observations is None:
        if data.last_state is not None or data.last_legals is not None:
            raise ValueError("last_observations: missing, though last_state or last_legals is there")
        return
    for name in LAST_FIELDS:
        array, rows = getattr(data, name), getattr(data, name.removeprefix("last_"))
        if (array is None) != (rows is None):
            raise ValueError(f"{name}: expected with {name.removeprefix('last_')}, and only then")
        if array is None or rows is None:
            continue
        shape = (data.num_episodes, *rows.shape[1:])
        if array.shape != shape or array.dtype != rows.dtype:
            raise ValueError(f"{name}: expected {rows.dtype} {shape}, found {array.dtype} {array.shape}")
