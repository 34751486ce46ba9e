"""Packs: which cells share a program, how their leaves are stacked, and what fits into memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from marl_bench import Environment, Learner, field
from marl_bench.errors import RunError, UsageError
from marl_bench.experiments.cells import CellSpec, SweepConfig, expand
from marl_bench.runtime import devices
from marl_bench.runtime.packs import (
    describe_plan,
    group_cells,
    human_bytes,
    make_packs,
    memory_for_packs,
    repeat_packs,
    stack_leaves,
    state_bytes,
)

DILEMMA = ["env=network_dilemma", "learner=dqn", "env.side=4", "learner.batch_size=8", "learner.buffer_steps=20"]


@struct.dataclass
class World(Environment):
    drift: float = field(0.5)
    size: int = field(2, static=True)
    names: object = field((), static=True)
    table: object = field(None)


@struct.dataclass
class Rule(Learner):
    rate: float = field(0.1)

    def init(self, key, source):
        return {"key": key, "weights": jnp.zeros((source.size, 100)), "flags": jnp.zeros(3, jnp.int8)}


def cell(index: int = 0, seed: int = 0, rate: float = 0.1, **fields) -> CellSpec:
    return CellSpec(index, World(**fields), Rule(rate=rate), seed, {})


def sweep(*tokens: str) -> list[CellSpec]:
    return expand(SweepConfig.from_tokens([*DILEMMA, *tokens]))


# --- grouping --------------------------------------------------------------------------------------------


def test_leaves_share_a_pack_and_static_values_do_not():
    specs = sweep("learner.n_step=1,3,5", "learner.initial_temperature=0.4,0.5,0.6", "seeds=2")
    packs = make_packs(specs)
    assert [len(pack) for pack in packs] == [6, 6, 6]
    assert sorted(index for pack in packs for index in pack.indices) == list(range(18))
    for pack, n_step in zip(packs, (1, 3, 5), strict=True):
        assert pack.cells.learner.n_step == n_step
        for row, index in enumerate(pack.indices):
            assert specs[index].learner.n_step == n_step
            assert pack.cells.learner.initial_temperature[row] == np.float32(specs[index].learner.initial_temperature)
            assert pack.cells.key[row] == specs[index].seed


def test_a_field_that_is_left_out_is_another_structure():
    # sucker=None is no leaf, sucker=0.1 is one; sucker varies fastest.
    specs = sweep("env.sucker=none,0.1", "env.dilemma_strength=0.1,0.2")
    assert [spec.environment.sucker for spec in specs] == [None, 0.1, None, 0.1]
    assert group_cells(specs) == [[0, 2], [1, 3]]


def test_leaf_shapes_split_groups_in_order_of_appearance():
    small, large = np.zeros((4, 2), np.int32), np.zeros((6, 2), np.int32)
    specs = [cell(table=large), cell(table=small), cell(table=large + 1), cell()]
    assert group_cells(specs) == [[0, 2], [1], [3]]
    packs = make_packs(specs)
    assert [pack.indices for pack in packs] == [(0, 2), (1,), (3,)]
    np.testing.assert_array_equal(packs[0].cells.environment.table, np.stack([large, large + 1]))
    # Three programs because of shapes, none because of memory.
    assert "split" not in describe_plan(packs, 10, None)


def test_static_field_that_cannot_be_compared_is_named():
    with pytest.raises(UsageError, match=r"static field of World or Rule cannot be compared.*use tuples"):
        group_cells([cell(names=np.zeros(2)), cell(names=np.zeros(2))])


# --- stacking --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leaves", "dtype"),
    [
        ([0.1, 0.2], np.float32),
        ([1, 2], np.int32),
        ([1, 0.5], np.float32),
        ([True, False], np.bool_),
        ([np.float64(1.5), 2], np.float32),
        ([np.zeros(3, np.int8)] * 2, np.int8),
        ([np.zeros(3, np.uint32)] * 2, np.uint32),
        ([np.zeros((2, 2), np.float32)] * 2, np.float32),
    ],
)
def test_stacked_dtypes(leaves, dtype):
    stacked = stack_leaves(leaves)
    assert stacked.dtype == dtype and stacked.shape == (2, *np.shape(leaves[0]))
    for row, leaf in zip(stacked, leaves, strict=True):
        np.testing.assert_array_equal(row, np.asarray(leaf, dtype))


@pytest.mark.parametrize(("value", "kind"), [(2**31, "int32"), (-(2**31) - 1, "int32"), (1e39, "float32")])
def test_number_that_does_not_fit_is_refused_by_name(value, kind):
    with pytest.raises(ValueError, match=f"outside the range of {kind}"):
        stack_leaves([1, value])
    with pytest.raises(UsageError, match=f"^drift: .*outside the range of {kind}"):
        make_packs([cell(drift=value)])


def test_infinity_and_the_largest_numbers_are_kept():
    assert stack_leaves([np.inf, 1.0])[0] == np.inf
    assert stack_leaves([2**31 - 1]).tolist() == [2**31 - 1]


def test_seeds_are_unsigned():
    pack = make_packs([cell(0, seed=0), cell(1, seed=2**32 - 1)])[0]
    assert pack.cells.key.dtype == np.uint32 and pack.cells.key.tolist() == [0, 2**32 - 1]


# --- memory ----------------------------------------------------------------------------------------------


def test_state_bytes_by_hand():
    # key: 2 words of 4 bytes; weights: 2 x 100 float32; flags: 3 bytes.
    assert state_bytes(World(), Rule()) == 8 + 800 + 3


def test_state_bytes_equal_the_allocated_state():
    spec = sweep()[0]
    state = spec.learner.init(jax.random.key(0), spec.environment)
    leaves = [
        jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for leaf in jax.tree.leaves(state)
    ]
    assert state_bytes(spec.environment, spec.learner) == sum(leaf.nbytes for leaf in leaves) > 0


def test_plan_counts_the_cells_own_leaves():
    bare, loaded = make_packs([cell()])[0], make_packs([cell(table=np.zeros(1000, np.float32))])[0]
    assert loaded.bytes_per_cell - bare.bytes_per_cell == 4000


def test_split_by_memory_keeps_every_cell_and_says_so():
    specs = [cell(index, seed=index, rate=0.1 * (index + 1)) for index in range(7)]
    one = make_packs(specs)[0].bytes_per_cell
    # 80 % of the memory may be used: room for three cells, not four.
    packs = make_packs(specs, free_bytes=int(one * 3 / 0.8) + 1)
    assert [pack.indices for pack in packs] == [(0, 1, 2), (3, 4, 5), (6,)]
    assert packs[2].cells.key.tolist() == [6]
    text = describe_plan(packs, 1_000, int(one * 3 / 0.8) + 1)
    assert "7 cells in 3 packs of up to 3" in text and "1,000 environment steps" in text
    assert "split 2 time(s) to fit into memory" in text
    assert f"about {human_bytes(3 * one)} of" in text


def test_no_split_where_everything_fits():
    specs = [cell(index, seed=index) for index in range(4)]
    one = make_packs(specs)[0].bytes_per_cell
    packs = make_packs(specs, free_bytes=int(one * 4 / 0.8) + 1)
    assert [len(pack) for pack in packs] == [4]
    text = describe_plan(packs, 5, None)
    assert "4 cells in 1 pack of up to 4" in text and "unknown free" in text and "split" not in text


def test_one_cell_that_does_not_fit_is_an_error():
    with pytest.raises(RunError, match=r"one cell needs about .*lower buffer_steps"):
        make_packs([cell()], free_bytes=make_packs([cell()])[0].bytes_per_cell)


class _Device:
    def __init__(self, platform):
        self.platform = platform


def test_memory_for_packs_counts_every_accelerator_but_one_host(monkeypatch):
    free = {"cpu": [100, 100], "gpu": [70, 50], "tpu": [70, None]}
    for platform, expected in (("cpu", 100), ("gpu", 100), ("tpu", None)):
        every = [_Device(platform), _Device(platform)]
        known = dict(zip(map(id, every), free[platform], strict=True))
        monkeypatch.setattr(jax, "devices", lambda every=every: every)
        monkeypatch.setattr(devices, "free_bytes", lambda device, known=known: known[id(device)])
        assert memory_for_packs() == expected, platform


# --- the packs of an earlier start -------------------------------------------------------------------------


def test_repeated_packs_equal_the_planned_ones():
    specs = [cell(index, seed=index, size=2 + index % 2) for index in range(6)]
    planned = make_packs(specs, free_bytes=int(make_packs(specs)[-1].bytes_per_cell * 2 / 0.8) + 1)
    repeated = repeat_packs(specs, [pack.indices for pack in planned])
    assert [pack.indices for pack in repeated] == [pack.indices for pack in planned] and len(planned) == 4
    assert [pack.bytes_per_cell for pack in repeated] == [pack.bytes_per_cell for pack in planned]
    for one, other in zip(planned, repeated, strict=True):
        assert jax.tree.structure(one.cells) == jax.tree.structure(other.cells)
        jax.tree.map(np.testing.assert_array_equal, one.cells, other.cells)


def test_a_plan_that_does_not_fit_is_refused():
    specs = [cell(index, size=2 + index % 2) for index in range(4)]
    with pytest.raises(ValueError, match="each of the 4 cells once"):
        repeat_packs(specs, [[0, 2], [1]])
    with pytest.raises(ValueError, match="one program cannot train"):
        repeat_packs(specs, [[0, 1], [2, 3]])


def test_human_bytes():
    assert [human_bytes(n) for n in (0, 1023, 1536, 3 * 2**30, 2**41)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "3.0 GiB",
        "2.0 TiB",
    ]
