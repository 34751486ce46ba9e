"""Losses of the offline learners of continuous actions against NumPy in float64: policies, judges of single agents, shared parameters,
sources of drawn actions, normalisation by batches; and packs that run one cell after the other."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_offline_continuous import DRAWN, ROWS, SEEN, SIZE, N, minibatch, numbers, plain

from marl_bench.algorithms import in_turn, slots
from marl_bench.algorithms.offline import batch_norm
from marl_bench.algorithms.offline.cfcql_continuous import CFCQLContinuous
from marl_bench.algorithms.offline.cql_continuous import CQLContinuous
from marl_bench.algorithms.offline.recurrent import OfflineState, started
from marl_bench.algorithms.offline.td3_bc import TD3BC

EVERYONE, GROUPS = (0, 1, 2), (0, 0, 1)
SHARE = {EVERYONE: [1, 1, 1], GROUPS: [0.5, 0.5, 1]}


def drawn_networks(learner, agents, joint_size: int):
    """{"actor", "critic"} [G, ...] of random numbers."""
    critic, actor = learner.critic(SEEN, joint_size), learner.actor((SEEN,), N, SIZE)
    counts = slots.num_slots(learner.judges(agents)), slots.num_slots(agents)
    key = jax.eval_shape(lambda: jax.random.key(0))
    critics, actors = (jax.eval_shape(network.init, key) for network in (critic, actor))
    norm = batch_norm.init((SEEN,)) if learner.normalisation == "batch" else {}
    drawn = lambda count, tree: jax.tree.map(lambda leaf: numbers(count, *leaf.shape, seed=leaf.size), tree)  # noqa: E731
    return {"actor": drawn(counts[1], {"network": actors, "norm": norm}), "critic": drawn(counts[0], critics)}


def plain_policies(actor, agents, view):
    """[N, n, D] in float64."""
    found = []
    for slot, x in zip(agents, np.asarray(view, np.float64), strict=True):
        one = jax.tree.map(lambda leaf, slot=slot: np.asarray(leaf[slot], np.float64), actor)
        if one["norm"]:
            x = (x - x.mean(0)) / np.sqrt(x.var(0) + batch_norm.EPSILON) * one["norm"]["scale"] + one["norm"]["shift"]
        for layer in one["network"]["dense"]:
            x = np.maximum(x @ layer["w"] + layer["b"], 0.0)
        found.append(np.tanh(x @ one["network"]["output"]["w"] + one["network"]["output"]["b"]))
    return np.stack(found)


def own(batch):
    """A batch for judges of single agents."""
    rest = {"read": numbers(N, ROWS, SEEN, seed=3), "next_read": numbers(N, ROWS, SEEN, seed=4)}
    discount = jnp.asarray(np.random.default_rng(6).integers(0, 2, (N, ROWS)), jnp.float32)
    return dataclasses.replace(batch, reward=numbers(N, ROWS, seed=5), discount=discount, **rest)


def with_one_changed(read, action, new):
    """[N M n, S + N D] rows in which an agent's action of [N, n, D] is one of `new` [N, M, n, D], agent by agent."""
    rows = []
    for agent, choices in enumerate(np.asarray(new, np.float64)):
        for chosen in choices:
            joint = np.array(action, np.float64)
            joint[agent] = chosen
            rows.append(np.concatenate([read, np.swapaxes(joint, 0, 1).reshape(ROWS, -1)], axis=1))
    return np.concatenate(rows)


@pytest.mark.parametrize("fields", [{}, {"normalisation": "batch"}, {"policy_update": "joint"}], ids=str)
def test_policy_loss_under_a_central_judge(fields):
    learner = CFCQLContinuous(hidden_sizes=(8, 8), action_penalty=0.3, **fields)
    networks, batch = drawn_networks(learner, EVERYONE, N * SIZE), minibatch(N)
    norm, critic = learner.normalisation == "batch", jax.tree.map(lambda leaf: leaf[0], networks["critic"])
    action, read = plain_policies(networks["actor"], EVERYONE, batch.view), np.asarray(batch.read[0], np.float64)
    if learner.policy_update == "joint":
        rows = np.concatenate([read, np.swapaxes(action, 0, 1).reshape(ROWS, -1)], axis=1)
    else:
        rows = with_one_changed(read, batch.action, action[:, None])
    wanted = -plain(critic, rows, norm)[0].mean() + 0.3 * np.square(action).mean((1, 2)).sum()
    loss = lambda actor: learner.policy_loss(actor, networks["critic"], EVERYONE, batch, jax.random.key(0))[0]  # noqa: E731
    found, gradient = jax.jit(jax.value_and_grad(loss))(networks["actor"])
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("agents", [EVERYONE, GROUPS], ids=str)
def test_policy_loss_under_own_judges(agents):
    learner = TD3BC(hidden_sizes=(8, 8), action_penalty=0.3)
    networks, batch = drawn_networks(learner, agents, SIZE), own(minibatch(N))
    action, wanted = plain_policies(networks["actor"], agents, batch.view), 0.0
    for agent, slot in enumerate(agents):
        critic = jax.tree.map(lambda leaf, slot=slot: leaf[slot], networks["critic"])
        value = plain(critic, np.concatenate([batch.read[agent], action[agent]], 1), False)[0]
        imitation = np.square(action[agent] - batch.action[agent]).mean()
        term = imitation - 2.5 * value.mean() / np.abs(value).mean() + 0.3 * np.square(action[agent]).mean()
        wanted += SHARE[agents][agent] * term
    loss = lambda actor: learner.policy_loss(actor, networks["critic"], agents, batch, jax.random.key(0))[0]  # noqa: E731
    found = jax.jit(loss)(networks["actor"])
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize(("agents", "normalisation"), [(GROUPS, "dataset"), (EVERYONE, "batch")], ids=str)
def test_critic_loss_and_targets_of_own_judges(agents, normalisation):
    learner = CQLContinuous(
        hidden_sizes=(8, 8),
        normalisation=normalisation,
        target_noise=0.0,
        discount=0.9,
        drawn_actions=DRAWN,
        conservative_weight=0.8,
    )
    networks, batch, key = drawn_networks(learner, agents, SIZE), own(minibatch(N)), jax.random.key(5)
    target = jax.jit(lambda networks: learner.targets(networks, agents, batch, key))(networks)
    done, norm, wanted = plain_policies(networks["actor"], agents, batch.next_view), normalisation == "batch", 0.0
    drawn = np.asarray(learner.drawn(networks, agents, batch, key)["uniform"][0], np.float64)
    for agent, slot in enumerate(agents):
        critic = jax.tree.map(lambda leaf, slot=slot: leaf[slot], networks["critic"])
        after = plain(critic, np.concatenate([batch.next_read[agent], done[agent]], 1), norm).min(0)
        y = np.asarray(batch.reward[agent]) + 0.9 * np.asarray(batch.discount[agent]) * after
        np.testing.assert_allclose(target[agent], y, rtol=1e-5, atol=1e-5)
        value = plain(critic, np.concatenate([batch.read[agent], batch.action[agent]], 1), norm)
        rows = np.concatenate([np.concatenate([batch.read[agent], one], 1) for one in drawn[agent]])
        worth = plain(critic, rows, norm).reshape(2, DRAWN, ROWS) - SIZE * math.log(0.5)
        soft = np.log(np.exp(worth).sum(1))
        wanted += SHARE[agents][agent] * (np.square(value - y).mean(1) + 0.8 * (soft - value).mean(1)).sum()
    loss = lambda critic: learner.critic_loss(critic, networks, agents, batch, target, key)[0]  # noqa: E731
    found = jax.jit(loss)(networks["critic"])
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_current_and_next_actions_have_the_density_of_their_own_noise():
    learner = CFCQLContinuous(hidden_sizes=(8,), drawn_actions=DRAWN, draw_from=("current", "next"))
    batch, key = dataclasses.replace(minibatch(N), next_action=numbers(N, ROWS, SIZE, seed=11)), jax.random.key(7)
    networks = drawn_networks(learner, EVERYONE, N * SIZE)
    critic, read = jax.tree.map(lambda leaf: leaf[0], networks["critic"]), np.asarray(batch.read[0], np.float64)
    worth = []
    for place, view, others in ((1, batch.view, batch.action), (2, batch.next_view, batch.next_action)):
        noise = np.asarray(jax.random.normal(jax.random.fold_in(key, place), (N, DRAWN, ROWS, SIZE)), np.float64)
        action = np.clip(plain_policies(networks["actor"], EVERYONE, view)[:, None] + 0.2 * noise, -1, 1)
        log = -(noise**2) / 2 - np.log(0.2) - np.log(2 * np.pi) / 2
        values = plain(critic, with_one_changed(read, others, action), False).reshape(2, N, DRAWN, ROWS)
        worth.append(values - log.sum(-1))
    wanted = np.log(np.exp(np.concatenate(worth, axis=2)).sum(2))
    found = jax.jit(lambda networks: learner.soft_values(networks["critic"], networks, EVERYONE, batch, key))(networks)
    np.testing.assert_allclose(found[0], wanted, rtol=1e-5, atol=1e-5)
    assert learner.needs_next_action and not CFCQLContinuous().needs_next_action


def test_running_moments_follow_batches_as_in_pytorch():
    running = {"mean": jnp.zeros((N, SEEN)), "std": jnp.ones((N, SEEN))}
    follow, mean, variance = jax.jit(batch_norm.followed), 0.0, 1.0
    for seed in range(3):
        view = numbers(N, ROWS, SEEN, seed=seed)
        running = follow(running, view)
        mean = 0.9 * mean + 0.1 * np.asarray(view).mean(1)
        variance = 0.9 * variance + 0.1 * (np.asarray(view).var(1, ddof=1) + batch_norm.EPSILON)
    np.testing.assert_allclose(running["mean"], mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(running["std"], np.sqrt(variance), rtol=1e-5)


@pytest.mark.parametrize("devices", [1, 2])
def test_cells_in_turn_are_cells_at_once(monkeypatch, devices):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    function = lambda tree, x: {"sum": tree["a"] + x, "shared": 2.0 * tree["b"]}  # noqa: E731
    tree, x = {"a": numbers(4, 3), "b": numbers(3, seed=1)}, numbers(4, 3, seed=2)
    axes = ({"a": 0, "b": None}, 0)
    found = jax.vmap(in_turn.in_turn(function), axes)(tree, x)
    wanted = jax.vmap(function, axes)(tree, x)
    assert jax.tree.all(jax.tree.map(lambda one, two: bool((one == two).all()), found, wanted))
    loops = [str(eqn.primitive) for eqn in jax.make_jaxpr(jax.vmap(in_turn.in_turn(function), axes))(tree, x).eqns]
    assert any("scan" in name for name in loops) == (devices == 1)
    alone = in_turn.in_turn(function)({"a": tree["a"][0], "b": tree["b"]}, x[0])
    np.testing.assert_array_equal(alone["sum"], wanted["sum"][0])


@pytest.mark.parametrize("ready", [False, True])
def test_networks_with_targets_wait_for_the_model_of_the_data(ready):
    def state(number):
        learned = {"actor": number, "behaviour": number}
        return OfflineState({**learned, "view": number}, None, number, number, {"actor": number}, learned)

    found = started(jnp.bool_(ready), state(0), state(1))
    assert found.params == {"actor": int(ready), "behaviour": 1, "view": 1}
    assert found.opt_state == {"actor": int(ready), "behaviour": 1} and found.target == {"actor": int(ready)}
    assert found.updates == found.env_steps == 1
