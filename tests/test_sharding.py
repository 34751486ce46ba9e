"""Environments of one cell on several devices: the results of one device, each device with its share, and plain refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from tiny_worlds import MemoryGame

import marl_bench
from marl_bench import sharding
from marl_bench.absolute_metric import Evaluated
from marl_bench.runtime import runner as runner_module
from marl_bench.runtime.packs import make_packs
from marl_bench.runtime.runner import PackRunner, devices_of_cell

# No other axis is as long as there are environments.
SMALL = {"num_envs": 8, "num_steps": 12, "hidden_sizes": (6,)}
LEARNERS = {
    "feed-forward": ("ippo", {**SMALL, "minibatches": 3}),
    "recurrent": ("ippo", {**SMALL, "recurrent_size": 4, "minibatches": 2, "epochs": 2}),
    "iql": ("iql", {**SMALL, "buffer_size": 32, "batch_size": 8}),
}
OTHERS = {
    "mappo": ("foraging", "mappo", {**SMALL, "gradient_norms": True}),
    "gru": ("foraging", "ippo", {**SMALL, "recurrent_size": 4, "gradient_norms": True, "sharing": "independent"}),
    "pqn": ("foraging", "pqn", {**SMALL, "recurrent_size": 4, "minibatches": 2}),
    "qmix": ("spread", "qmix", {**SMALL, "buffer_size": 32, "batch_size": 8, "team_reward": "sum"}),
    "matd3": ("spread", "matd3", {**SMALL, "buffer_steps": 48, "batch_size": 8, "learning_starts": 1}),
}
# Sums over environments are made in another order: a few 1e-7 each, through three updates of Adam.
TOLERANCE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch):
    monkeypatch.setattr(runner_module, "LEAST_ENVIRONMENTS", 1)


def cells(learner, fields, seeds=1, world=None):
    """A pack that differs in the seed only."""
    learner, world = marl_bench.make_learner(learner, **fields), world or MemoryGame()
    return make_packs([SimpleNamespace(environment=world, learner=learner, seed=seed) for seed in range(seeds)])[0]


def trained(runner, updates=3):
    """State, and metrics with the parameters as arrays."""
    state, metrics, finite = runner.train(runner.start(), updates)
    assert finite.all()
    return state, {**metrics, "params": jax.tree.map(np.asarray, state.params)}


def assert_same(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), found, expected)


def shares(tree):
    """Shapes of what lies on the first device."""
    return {jax.tree_util.keystr(path): leaf.addressable_shards[0].data.shape for path, leaf in leaves(tree)}


def leaves(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


@pytest.fixture(scope="module", params=LEARNERS)
def pair(request):
    """The same cell trained on two devices and on one: (runner, state, numbers) each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner_module, "LEAST_ENVIRONMENTS", 1)
        pack = cells(*LEARNERS[request.param])
        runners = [PackRunner(pack, jax.devices()[:count]) for count in (2, 1)]
        return [(runner, *trained(runner)) for runner in runners]


def test_two_devices_give_what_one_gives(pair):
    (_, _, two), (_, _, one) = pair
    assert_same(two, one)


def test_each_device_has_its_share(pair):
    """Everything with an axis of environments is halved, all else whole; so is what an update needs besides."""
    (runner, state, _), (alone, whole, _) = pair
    for (path, leaf), (_, full) in zip(leaves(state), leaves(whole), strict=True):
        name, here = jax.tree_util.keystr(path), leaf.addressable_shards[0].data.shape
        assert len(leaf.sharding.device_set) == 2 and leaf.shape == full.shape
        assert int(np.prod(here)) * (2 if 8 in full.shape[1:3] else 1) in (full.size, 0), name
    halved = shares((state.world.observation.agents_view, state.world.returns, getattr(state, "replay", ())))
    assert halved["[0]"] == (1, 4, 2, 3) and halved["[1]"] == (1, 4, 2)
    assert all(4 in shape for shape in halved.values())
    temporary = [r._programs["train_chunk"].memory_analysis().temp_size_in_bytes for r in (runner, alone)]
    assert temporary[0] < 0.75 * temporary[1]


def test_resumed_on_another_number_of_devices(pair):
    """What a checkpoint holds fits any number of devices, and the training goes on as it would have."""
    (runner, state, _), (alone, _, _) = pair
    stored = alone._map_rows(np.copy, runner.unpadded(state))
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), stored)
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), runner.template())
    after = []
    for one in (runner, alone):
        # A copy each: what is trained is used up.
        following, metrics, _ = one.train(one.place(one._map_rows(np.copy, stored)), 1)
        after.append({**metrics, "params": jax.tree.map(np.asarray, following.params)})
    assert_same(*after)


FOUR = """
import sys
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 4)
sys.path.insert(0, {folder!r})
import test_sharding as t
t.runner_module.LEAST_ENVIRONMENTS = 1
found = {{}}
for seeds in (1, 2):
    runner = t.PackRunner(t.cells(*t.LEARNERS["feed-forward"], seeds=seeds))
    state, numbers = t.trained(runner)
    view = state.world.observation.agents_view
    assert len(view.sharding.device_set) == 4, view.sharding
    assert view.addressable_shards[0].data.shape == (1, 2 * seeds, 2, 3), view.sharding
    found |= {{f"{{seeds}}{{jax.tree_util.keystr(path)}}": leaf for path, leaf in t.leaves(numbers)}}
np.savez({out!r}, **found)
"""


def test_four_devices_for_one_cell_and_for_two(tmp_path):
    """A cell on four devices, and two on two each, give what they give on one device."""
    out = str(tmp_path / "found.npz")
    code = FOUR.format(folder=str(Path(__file__).parent), out=out)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    found = np.load(out)
    _, numbers = trained(PackRunner(cells(*LEARNERS["feed-forward"], seeds=2), jax.devices()[:1]))
    for path, expected in leaves(numbers):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(found[f"2{name}"], expected, **TOLERANCE, err_msg=name)
        np.testing.assert_allclose(found[f"1{name}"], expected[:1], **TOLERANCE, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_learners_and_worlds(name):
    """Starts from a pool, a critic of the state, parameter slots, norms of gradients, replays: two devices as one."""
    world, learner, fields = OTHERS[name]
    options = {"actions": "continuous"} if learner == "matd3" else {}
    pack = cells(learner, fields, world=marl_bench.make(world, **options))
    found = [trained(PackRunner(pack, jax.devices()[:count])) for count in (2, 1)]
    assert found[0][0].world.returns.addressable_shards[0].data.shape[1] == 4
    assert_same(found[0][1], found[1][1])


@pytest.mark.parametrize(
    ("num_envs", "available", "expected"),
    [(16, 4, 1), (511, 2, 1), (512, 2, 2), (513, 2, 1), (1024, 3, 2), (768, 8, 3), (1024, 1, 1)],
)
def test_devices_of_a_cell(monkeypatch, num_envs, available, expected):
    """The most that get equal shares that are large enough; never an error."""
    monkeypatch.undo()
    learner = marl_bench.make_learner("ippo", num_envs=num_envs)
    assert devices_of_cell(learner, available) == devices_of_cell(Evaluated(learner), available) == expected


def test_shares_that_would_be_unequal_stay_on_one_device():
    runner = PackRunner(cells("ippo", {**SMALL, "num_envs": 7, "minibatches": 2}))
    assert runner._mesh.shape == {"cells": 1}


def test_an_evaluated_learner_is_divided_too():
    learner = Evaluated(marl_bench.make_learner("ippo", **SMALL))
    pack = make_packs([SimpleNamespace(environment=MemoryGame(), learner=learner, seed=0)])[0]
    specs = PackRunner(pack)._state_sharding
    assert specs.inner.world.returns.spec == jax.sharding.PartitionSpec("cells", sharding.AXIS)
    assert specs.best_params["slots"].spec == jax.sharding.PartitionSpec("cells")
