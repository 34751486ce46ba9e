"""Data for offline packs: shards in a repeatable order, read ahead, shared by the cells of a pack."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from marl_bench.errors import RunError
from marl_bench.learner import Learner, Source, TrainState
from marl_bench.runtime.feed import Feed
from marl_bench.runtime.packs import make_packs, shared_bytes
from marl_bench.runtime.runner import PackRunner

LARGE = 10_000_000


@struct.dataclass
class Numbers(Source):
    """Each shard is a vector of its own number."""

    environment: object
    data: object = None
    count: int = struct.field(pytree_node=False, default=1)
    size: int = struct.field(pytree_node=False, default=0)

    @property
    def shards(self):
        return self.count

    @property
    def nbytes(self):
        return self.size

    def load(self, shard):
        return np.full(3, shard, np.float32)

    def with_data(self, data):
        return Numbers(self.environment, data, self.count, self.size)


@struct.dataclass
class Adder(Learner):
    """Remembers ten times what it had plus the data's number; evaluates the sum of the data."""

    weight: float = 1.0

    def init(self, key, source):
        assert source.data is None
        return TrainState(params=jnp.zeros(1), key=key, updates=jnp.int32(0), env_steps=jnp.int32(0))

    def update(self, state, source):
        params = 10 * state.params + self.weight * source.data[:1]
        return state.replace(params=params), {"seen": source.data[0]}

    def evaluate(self, state, source):
        return {"total": state.params[0] + jnp.sum(source.data)}


def packs(count=1, size=0, **limits):
    specs = [
        SimpleNamespace(environment=Numbers(np.float32(0), None, count, size), learner=Adder(weight), seed=0)
        for weight in (1.0, 2.0)
    ]
    return make_packs(specs, **limits)


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_every_shard_comes_once_a_round_in_an_order_that_changes(shards):
    feed = Feed(lambda shard: shard, shards)
    seen = [feed.get(chunk) for chunk in range(6 * shards)]
    rounds = [tuple(seen[start : start + shards]) for start in range(0, len(seen), shards)]
    assert all(sorted(one) == list(range(shards)) for one in rounds)
    assert shards == 1 or len(set(rounds)) > 1
    assert [Feed(lambda shard: shard, shards).get(chunk) for chunk in range(len(seen))] == seen


def test_the_next_shard_is_read_while_the_last_one_is_used_and_none_twice_in_a_row():
    read, arrived = [], threading.Event()

    def load(shard):
        read.append(shard)
        if len(read) == 2:
            arrived.set()
        return shard

    feed = Feed(load, 3)
    first = feed.get(0)
    assert arrived.wait(10) and read == [first, feed.order(1)]
    assert feed.get(1) == read[1] and feed.get(1) == read[1]
    assert read.count(read[1]) == 1


def test_a_failure_to_read_ahead_is_raised_when_the_shard_is_needed():
    def load(shard):
        if shard == Feed(load, 2).order(1):
            raise RunError("lost")
        return shard

    feed = Feed(load, 2)
    feed.get(0)
    with pytest.raises(RunError, match="lost"):
        feed.get(1)


def test_cells_share_the_data_and_each_chunk_has_its_shard():
    (pack,) = packs(count=3)
    runner = PackRunner(pack, jax.devices()[:1])
    order = [Feed(lambda shard: shard, 3).order(chunk) for chunk in range(3)]
    state = runner.start()
    for chunk in range(3):
        state, metrics, finite = runner.train(state, 1, chunk)
        assert finite.all() and list(metrics["seen"]) == [order[chunk]] * 2
    total = sum(number * 10 ** (2 - place) for place, number in enumerate(order))
    np.testing.assert_array_equal(runner.evaluate(state)["total"], np.array([1, 2]) * total + 3 * order[0])


def test_plans_count_shared_data_once_and_say_what_to_do_when_it_does_not_fit():
    small = packs()[0].bytes_per_cell
    assert [len(pack) for pack in packs(size=LARGE, free_bytes=int((LARGE + 2 * small) / 0.8) + 1)] == [2]
    assert shared_bytes(packs(count=4, size=LARGE)[0].cells.environment) == 2 * LARGE
    with pytest.raises(RunError, match="dataset_shards"):
        packs(size=LARGE, free_bytes=LARGE)
