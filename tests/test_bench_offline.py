"""`marl-bench bench offline`: its requests, and that the loop in PyTorch is the same algorithm."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_datasets

from marl_bench.algorithms.mixers import MonotonicMixer
from marl_bench.algorithms.offline.cfcql import CFCQL
from marl_bench.algorithms.value_based import best_action
from marl_bench.datasets.data import as_data
from marl_bench.datasets.sampling import stretch
from marl_bench.datasets.source import OfflineSource, statistics_of
from marl_bench.errors import UsageError
from marl_bench.experiments import bench_offline

LENGTHS = (3, 5, 4, 5)
SMALL = {"hidden_sizes": (6,), "mixing_size": 4, "hypernet_sizes": (5,), "batch_size": 4, "temperature": 2.0}


def test_requests_that_make_no_sense(monkeypatch):
    with pytest.raises(UsageError, match="--only trainin: no such contest; did you mean 'training'"):
        bench_offline.main("trainin", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs torch, which is not installed: pip install 'marl-bench\[torch\]'"):
        bench_offline.main("training", None)


def test_both_ways_to_counterfactual_values_agree():
    mixer, keys = MonotonicMixer(4, 3, 5, (6,)), jax.random.split(jax.random.key(0), 3)
    q, state = jax.random.normal(keys[0], (2, 3, 4)), jax.random.normal(keys[1], (2, 4))
    inputs = jax.jit(mixer.init)(keys[2]), q, best_action(q, jnp.ones_like(q, bool)), state
    one, other = jax.jit(lambda *inputs: [way(mixer, *inputs) for way in (bench_offline.whole, bench_offline.changed)])(
        *inputs
    )
    np.testing.assert_allclose(one, other, atol=1e-5)


class World:
    """What the learner asks of the world of `small_datasets`."""

    num_agents, num_actions, observation_shape, agent_types = 3, 5, (4,), (0, 0, 0)
    unwrapped = property(lambda self: self)


@pytest.mark.parametrize("recurrent_size", [0, 3])
def test_the_peers_loss_and_gradients_are_ours(recurrent_size):
    """Episodes of different lengths, some ended by termination, with illegal actions, and other target networks."""
    pytest.importorskip("torch")
    from marl_bench.experiments.peer_cfcql import PeerCFCQL

    learner = CFCQL(recurrent_size=recurrent_size, **SMALL)
    played = small_datasets.episodes(*LENGTHS, team=True)
    data = jax.tree.map(jnp.asarray, as_data([played], 5))
    source = OfflineSource(World(), jnp.int32(0), statistics_of(played), data, max(LENGTHS))
    peer = PeerCFCQL(learner, source)
    networks, target = (drawn(learner, key) for key in jax.random.split(jax.random.key(0)))
    peer.load(networks, target)
    batch = stretch(data, source.part, jnp.arange(4), jnp.zeros(4, jnp.int32), source.longest)
    batch = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), batch)
    loss = jax.value_and_grad(lambda nets: learner.loss(nets, target, source.environment, batch, jax.random.key(0))[0])
    ours, gradient = jax.jit(loss)(networks)
    theirs = peer.loss(np.arange(4))
    theirs.backward()
    assert theirs.item() == pytest.approx(float(ours), rel=1e-5)
    for nets, name in ((peer.networks["q"], "q"), (peer.behaviour, "behaviour")):
        for layer, wanted in (
            (nets["dense"][0], gradient[name]["dense"][0]),
            (nets["output"], gradient[name]["output"]),
        ):
            np.testing.assert_allclose(layer.weight.grad.numpy().T, wanted["w"][0], rtol=1e-3, atol=1e-4)
    for part, layers in gradient["mixer"].items():
        found = peer.networks["mixer"][part][0].weight.grad.numpy().T
        np.testing.assert_allclose(found, layers[0]["w"][0], rtol=1e-3, atol=1e-4, err_msg=part)


def drawn(learner, key):
    """Networks in the shape of the learner's, all parameters standard normal, times 0.5."""
    networks = {
        "q": jax.eval_shape(lambda k: learner.init_agents(k, World(), 5), key),
        "behaviour": jax.eval_shape(lambda k: learner.init_agents(k, World(), 5), key),
        "mixer": jax.eval_shape(jax.vmap(learner.monotonic(6, 3).init), key[None]),
    }
    rng = np.random.default_rng(int(jax.random.key_data(key)[-1]))
    return jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), jnp.float32), networks)


def test_the_peer_learns_and_copies_its_target():
    """Its own values fall by the update, and the target follows after `target_period` updates only."""
    torch = pytest.importorskip("torch")
    from marl_bench.experiments.peer_cfcql import PeerCFCQL

    torch.manual_seed(0)
    learner = CFCQL(recurrent_size=0, target_period=3, learning_rate=0.01, **SMALL)
    played = small_datasets.episodes(*LENGTHS, team=True)
    source = OfflineSource(World(), np.int32(0), statistics_of(played), as_data([played], 5), max(LENGTHS))
    peer = PeerCFCQL(learner, source)
    same, losses = [], []
    for _ in range(12):
        losses.append(peer.update())
        pairs = zip(peer.networks.parameters(), peer.target.parameters(), strict=True)
        same.append(all(torch.equal(one, other) for one, other in pairs))
    assert same == [False, False, True] * 4
    assert losses[-1] < losses[0]
