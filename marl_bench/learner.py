"""The learner contract: `Learner`, `TrainState`, `Cell`.

A learner is a frozen dataclass of hyperparameters (a pytree: swept numbers are leaves, shapes are
static) with pure methods. `TrainState` holds everything that training needs, so a checkpoint is one
pytree and a resumed run equals an uninterrupted one bit for bit.
"""

from __future__ import annotations

from typing import Any

import jax
from flax import struct

from marl_bench.environment import Environment, Observation


@struct.dataclass
class TrainState:
    """Base of every learner's state.

    Attributes:
      params: pytree of network parameters, what `act` needs.
      key: [] typed PRNG key of the cell; every draw is a function of it and of the counters.
      updates: [] int32 number of `update` calls done.
      env_steps: [] int32 number of environment steps done.
    """

    params: Any
    key: jax.Array
    updates: jax.Array
    env_steps: jax.Array


@struct.dataclass
class Cell:
    """One point of a sweep: what to train, where, and with which randomness.

    Attributes:
      environment: the world (for offline learners: a dataset pytree).
      learner: the hyperparameters.
      key: [] typed PRNG key.
    """

    environment: Any
    learner: Any
    key: jax.Array


class Source:
    """Base of sources that hold data of a world, which all cells of a pack share; packed without the data.

    Attributes:
      environment: the world that the data are of.
    """

    environment: Environment

    @property
    def shards(self) -> int:
        """S, parts in which the data are brought to the devices, one after the other."""
        return 1

    @property
    def nbytes(self) -> int:
        """Bytes of one shard on the device."""
        return 0

    def load(self, shard: int) -> Any:
        """The data of a shard, a pytree of NumPy arrays. `shard`: in 0 ... S - 1."""
        raise NotImplementedError(f"{type(self).__name__} must define load")

    def with_data(self, data: Any) -> Source:
        """This source with data from `load`."""
        raise NotImplementedError(f"{type(self).__name__} must define with_data")


def world_of(source: Any) -> Environment:
    """The world that a policy plays in: `source` itself, or the one that its data are of."""
    return source.environment if isinstance(source, Source) else source


class Learner:
    """Base of every learner; subclasses are decorated with `flax.struct.dataclass`."""

    @property
    def offline(self) -> bool:
        """Whether it learns from a data set (`Source`) instead of playing."""
        return False

    @property
    def default_steps(self) -> int:
        """Total environment steps of the published protocol, evaluation included."""
        raise NotImplementedError(f"{type(self).__name__} must define default_steps")

    @property
    def update_steps(self) -> int:
        """Environment steps of one `update` call, all copies of the environment counted."""
        raise NotImplementedError(f"{type(self).__name__} must define update_steps")

    def num_updates(self, steps: int) -> int:
        """Number of `update` calls in a run of `steps` environment steps.

        Raises:
          ValueError: when `steps` is too short or cannot be divided into updates.
        """
        raise NotImplementedError(f"{type(self).__name__} must define num_updates")

    def validate(self, environment: Environment) -> None:
        """Check on the host that this learner can play `environment`; raise ValueError naming both if not."""
        del environment

    def init(self, key: jax.Array, source: Any) -> Any:
        """Return the `TrainState` before the first update. `key`: [] typed PRNG key; `source`: environment or dataset."""
        raise NotImplementedError(f"{type(self).__name__} must define init")

    def update(self, state: Any, source: Any) -> tuple[Any, dict[str, jax.Array]]:
        """One iteration: collect and learn.

        Returns:
          state: the next `TrainState`, and scalars to log (float32; means over the iteration).
        """
        raise NotImplementedError(f"{type(self).__name__} must define update")

    def evaluate(self, state: Any, source: Any) -> dict[str, jax.Array]:
        """The published evaluation after training: scalars for one row of `results.parquet`."""
        del state, source
        return {}

    def initial_memory(self, num_agents: int) -> Any:
        """Memory of `num_agents` agents at the start of an episode: `()` for memoryless learners."""
        del num_agents
        return ()

    def act(
        self, params: Any, memory: Any, observation: Observation, key: jax.Array, greedy: bool = False
    ) -> tuple[jax.Array, Any]:
        """Decentralised execution: each agent from what it may see.

        Args:
          params: `TrainState.params`.
          memory: from `initial_memory()` or the previous call.
          observation: `Observation` of one environment.
          key: [] typed PRNG key.
          greedy: True for the best action, False for the learner's evaluation policy.
        Returns:
          actions: [N] int32 (or [N, D] float32), and the next memory.
        """
        raise NotImplementedError(f"{type(self).__name__} must define act")
