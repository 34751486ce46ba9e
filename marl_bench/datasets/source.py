"""What an offline learner learns from: a data set, and the world that its policy is judged in."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np
from flax import struct

from marl_bench.datasets.data import Data
from marl_bench.datasets.schema import Trajectories
from marl_bench.environment import Environment
from marl_bench.learner import Source


@struct.dataclass
class Statistics:
    """Mean and standard deviation of what was seen, over all steps of one data set.

    Attributes:
      view_mean, view_std: [N, ...] float32. state_mean, state_std: [S] float32, or None.
      A constant entry has the standard deviation 1, so that dividing by it does nothing.
    """

    view_mean: Any
    view_std: Any
    state_mean: Any
    state_std: Any


def statistics_of(part: Trajectories) -> Statistics:
    """`Statistics` of one data set, as NumPy arrays."""

    def of(array: np.ndarray | None) -> tuple[Any, Any]:
        if array is None:
            return None, None
        mean, std = array.mean(axis=0, dtype=np.float64), array.std(axis=0, dtype=np.float64)
        return mean.astype(np.float32), np.where(std > 1e-6, std, 1.0).astype(np.float32)

    return Statistics(*of(part.observations), *of(part.state))


class Layout(Protocol):
    """Where the data of a source come from; hashable, the same for all cells of a pack."""

    @property
    def num_shards(self) -> int:
        """S."""
        ...

    def nbytes(self) -> int:
        """Bytes of a shard on the device."""
        ...

    def load(self, shard: int) -> Data:
        """`Data` of a shard, as NumPy arrays; the same shapes for all shards."""
        ...


@struct.dataclass
class OfflineSource(Source):
    """The source of one cell of an offline run.

    Attributes:
      environment: the world.
      part: [] int32, which of the K data sets.
      statistics: of that data set.
      data: `Data`, shared by the cells of a pack; None where only shapes matter.
      longest: steps of the longest episode of any of the K.
      layout: where the data come from; None if they were given.
    """

    environment: Environment
    part: Any
    statistics: Statistics
    data: Data | None = None
    longest: int = struct.field(pytree_node=False, default=1)
    layout: Layout | None = struct.field(pytree_node=False, default=None)

    @property
    def num_agents(self) -> int:
        """N."""
        return self.environment.num_agents

    @property
    def unwrapped(self) -> Environment:
        """The world without its wrappers."""
        return self.environment.unwrapped

    @property
    def shards(self) -> int:
        """S."""
        return 1 if self.layout is None else self.layout.num_shards

    @property
    def nbytes(self) -> int:
        """Bytes of a shard on the device."""
        return 0 if self.layout is None else self.layout.nbytes()

    def load(self, shard: int) -> Data:
        """`Data` of a shard, as NumPy arrays."""
        assert self.layout is not None
        return self.layout.load(shard)

    def with_data(self, data: Any) -> OfflineSource:
        """This source with its data."""
        return dataclasses.replace(self, data=data)
