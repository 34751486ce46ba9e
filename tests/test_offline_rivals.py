"""Rivals of `cfcql` for numbered actions: losses against NumPy in float64, gradients, and TD(lambda)."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from offline_oracle import LENGTHS, SMALL, WORLD, agents_outputs, prepared, recorded, source_of

from marl_bench.algorithms.offline import recurrent
from marl_bench.algorithms.offline.cql import CQL

RIVALS = {"cql": {**SMALL, "conservative_weight": 0.7}}


@pytest.fixture(scope="module", params=list(RIVALS))
def learned(request):
    """A learner, its networks, target networks and batch, its loss and the gradient."""
    learner, networks, target, batch = prepared(request.param, RIVALS[request.param], common=False)
    loss = jax.jit(jax.value_and_grad(lambda n: learner.loss(n, target, WORLD, batch, jax.random.key(0)), has_aux=True))
    return request.param, learner, networks, target, batch, *loss(networks)


# --- NumPy in float64 -------------------------------------------------------------------------------------------


def log_sum_exp(x):
    return np.log(np.exp(x - x.max()).sum()) + x.max()


def steps_of(batch):
    """(time, episode, agent) of all steps that are learned from."""
    for episode in range(batch.valid.shape[1]):
        for time in range(int(batch.valid[:, episode].sum())):
            for agent in range(batch.reward.shape[2]):
                yield time, episode, agent


def returned(learner, batch, following, place):
    """TD(lambda) target of a step, from values `following` [T, R, N] of what came after it."""
    time, episode, agent = place
    after = following[place]
    if not batch.is_last[time, episode]:
        later = returned(learner, batch, following, (time + 1, episode, agent))
        after = (1 - learner.td_lambda) * after + learner.td_lambda * later
    return batch.reward[place] + learner.discount * batch.discount[place] * after


def cql(learner, networks, target, batch):
    q, slow = agents_outputs(networks["q"], batch), agents_outputs(target["q"], batch)
    best = np.argmax(np.where(batch.mask, q, -np.inf), axis=-1)
    following = np.take_along_axis(slow, best[..., None], axis=-1)[1:, ..., 0]
    losses = []
    for place in steps_of(batch):
        here = q[place][batch.action[place]]
        term = log_sum_exp(q[place][batch.mask[place]]) - here
        error = here - returned(learner, batch, following, place)
        losses.append(0.5 * error**2 + learner.conservative_weight * term)
    return np.mean(losses)


ORACLES = {"cql": cql}


def test_loss_is_that_of_numpy(learned):
    name, learner, networks, target, batch, (found, metrics), _ = learned
    networks, target = (jax.tree.map(lambda leaf: np.asarray(leaf, np.float64)[0], x) for x in (networks, target))
    batch = jax.tree.map(np.asarray, batch)
    assert len(list(steps_of(batch))) == sum(LENGTHS) * WORLD.num_agents
    np.testing.assert_allclose(found, ORACLES[name](learner, networks, target, batch), rtol=1e-5)
    assert all(np.isfinite(value) for value in metrics.values())


def test_every_parameter_gets_a_gradient(learned):
    for path, leaf in jax.tree_util.tree_leaves_with_path(learned[-1]):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


# --- TD(lambda) -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def episodes():
    """A batch of all random episodes, of which some end and some are cut, and values of what came after each step."""
    batch = CQL(batch_size=len(LENGTHS)).batch(source_of(WORLD, recorded(WORLD, common=False)), jax.random.key(0))
    following = np.random.default_rng(1).normal(size=batch.reward[:-1].shape)
    return jax.tree.map(np.asarray, batch), following


def test_lambda_0_is_the_one_step_target(episodes):
    batch, following = episodes
    found = recurrent.returns(batch, batch.reward[:-1], batch.discount[:-1], following, 0.9, 0.0)
    wanted = batch.reward[:-1] + 0.9 * batch.discount[:-1] * following
    np.testing.assert_allclose(found[batch.valid], wanted[batch.valid], rtol=1e-5)


def test_lambda_1_is_the_discounted_return_and_the_value_of_where_an_episode_was_cut(episodes):
    batch, following = episodes
    found = recurrent.returns(batch, batch.reward[:-1], batch.discount[:-1], following, 0.9, 1.0)
    ended, cut = 0, 0
    for episode in range(len(LENGTHS)):
        last = int(batch.valid[:, episode].sum()) - 1
        beyond = following[last, episode] * batch.discount[last, episode]  # nothing where the game ended
        ended, cut = ended + (beyond == 0).all(), cut + (beyond != 0).all()
        for time in range(last + 1):
            rewards = batch.reward[time : last + 1, episode]
            powers = 0.9 ** np.arange(len(rewards) + 1)
            np.testing.assert_allclose(found[time, episode], powers[:-1] @ rewards + powers[-1] * beyond, atol=1e-5)
    assert ended == 3 and cut == 2
