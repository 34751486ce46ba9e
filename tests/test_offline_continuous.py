"""Offline learners of continuous actions: drawn actions, soft maxima, search, imitation; against plain evaluation and exact facts."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_bench.algorithms.networks import Network
from marl_bench.algorithms.offline import batch_norm
from marl_bench.algorithms.offline.cfcql_continuous import CFCQLContinuous
from marl_bench.algorithms.offline.critics import TwinCritic
from marl_bench.algorithms.offline.macql_continuous import MACQLContinuous
from marl_bench.algorithms.offline.minibatch import Minibatch
from marl_bench.algorithms.offline.omar import OMAR
from marl_bench.algorithms.offline.td3_bc import TD3BC
from marl_bench.algorithms.offline.vae import DECODER_VARIANCE, ActionVAE

N, ROWS, SEEN, SIZE, DRAWN = 3, 6, 5, 2, 4


def numbers(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32))


def plain(params, rows, norm):
    """[C, R] values of rows [R, I] in float64, each row on its own but for the batch's moments."""
    rows = np.asarray(rows, np.float64)
    if norm:
        rows = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + batch_norm.EPSILON)
        rows = rows * np.asarray(params["norm"]["scale"]) + np.asarray(params["norm"]["shift"])
    found = []
    for c in range(2):
        twin = jax.tree.map(lambda leaf, c=c: np.asarray(leaf[c], np.float64), params["twins"])
        x = rows
        for layer in twin["dense"]:
            x = np.maximum(x @ layer["w"] + layer["b"], 0.0)
        found.append((x @ twin["output"]["w"] + twin["output"]["b"])[:, 0])
    return np.stack(found)


@pytest.mark.parametrize("norm", [False, True])
def test_changed_actions_cost_a_product_and_have_the_values_of_whole_rows(norm):
    critic = TwinCritic(Network((SEEN + N * SIZE,), 1, (8, 8), "relu"), batch_norm=norm)
    params = critic.init(jax.random.key(0))
    params["norm"] = {name: leaf + 0.3 * numbers(*leaf.shape, seed=7) for name, leaf in params["norm"].items()}
    read, action, new = numbers(ROWS, SEEN), numbers(ROWS, N * SIZE, seed=1), numbers(N, DRAWN, ROWS, SIZE, seed=2)
    rows = []
    for agent in range(N):
        for drawn in range(DRAWN):
            joint = np.array(action).reshape(ROWS, N, SIZE)
            joint[:, agent] = new[agent, drawn]
            rows.append(np.concatenate([read, joint.reshape(ROWS, -1)], axis=1))
    wanted = plain(params, np.concatenate(rows), norm).reshape(2, N, DRAWN, ROWS)
    np.testing.assert_allclose(critic.changed(params, read, action, new), wanted, rtol=1e-4, atol=1e-5)
    whole = np.concatenate([read, action], axis=1)
    np.testing.assert_allclose(critic.values(params, read, action), plain(params, whole, norm), rtol=1e-4, atol=1e-5)
    together = numbers(DRAWN, ROWS, N * SIZE, seed=3)
    whole = np.concatenate([np.tile(read, (DRAWN, 1)), together.reshape(-1, N * SIZE)], axis=1)
    found = critic.joint(params, read, together).reshape(2, -1)
    np.testing.assert_allclose(found, plain(params, whole, norm), rtol=1e-4, atol=1e-5)


def minibatch(agents: int) -> Minibatch:
    return Minibatch(
        view=numbers(agents, ROWS, SEEN),
        next_view=numbers(agents, ROWS, SEEN, seed=1),
        action=numbers(agents, ROWS, SIZE, seed=2),
        next_action=None,
        read=numbers(1, ROWS, SEEN, seed=3),
        next_read=numbers(1, ROWS, SEEN, seed=4),
        reward=numbers(1, ROWS, seed=5),
        discount=jnp.asarray([[0.0, 1.0, 1.0, 0.0, 1.0, 1.0]]),
    )


def drawn_critic(learner, agents: int):
    critic = learner.critic(SEEN, agents * SIZE)
    return jax.vmap(critic.init)(jax.random.split(jax.random.key(3), 1))


@pytest.mark.parametrize(("kind", "entries"), [(CFCQLContinuous, SIZE), (MACQLContinuous, N * SIZE)])
def test_soft_value_of_a_constant_critic(kind, entries):
    """X12: c + log M - d log(1/2), d being the entries of what is drawn at once."""
    learner = kind(hidden_sizes=(8,), drawn_actions=DRAWN)
    params = drawn_critic(learner, N)
    params["twins"]["output"] = jax.tree.map(jnp.zeros_like, params["twins"]["output"])
    params["twins"]["output"]["b"] += 0.7
    soft, weight, _ = learner.soft_value(params, {}, (0, 1, 2), minibatch(N), jax.random.key(1))
    assert weight == learner.conservative_weight and soft.shape == (1, 2, ROWS)
    np.testing.assert_allclose(soft, 0.7 + math.log(DRAWN) - entries * math.log(0.5), rtol=1e-5)


def test_one_agent_makes_both_terms_equal():
    batch, key = minibatch(1), jax.random.key(1)
    one, other = (kind(hidden_sizes=(8,), drawn_actions=DRAWN) for kind in (CFCQLContinuous, MACQLContinuous))
    params = drawn_critic(one, 1)
    found, wanted = (learner.soft_value(params, {}, (0,), batch, key)[0] for learner in (one, other))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [CFCQLContinuous, MACQLContinuous])
def test_critic_loss_and_target_against_numpy(kind):
    learner = kind(hidden_sizes=(8, 8), drawn_actions=DRAWN, conservative_weight=0.8, soft_temperature=1.5)
    learner = dataclasses.replace(learner, target_noise=0.0, discount=0.9)
    params, batch, key = drawn_critic(learner, N), minibatch(N), jax.random.key(5)
    critic = jax.tree.map(lambda leaf: leaf[0], params)
    actor = learner.actor((SEEN,), N, SIZE)
    actor = {"network": jax.vmap(actor.init)(jax.random.split(key, N)), "norm": {}}
    done = np.asarray(learner.policy(actor, (0, 1, 2), batch.next_view), np.float64)
    rows = np.concatenate([batch.next_read[0], np.swapaxes(done, 0, 1).reshape(ROWS, -1)], axis=1)
    y = np.asarray(batch.reward[0]) + 0.9 * np.asarray(batch.discount[0]) * plain(critic, rows, False).min(0)
    target = learner.targets({"actor": actor, "critic": params}, (0, 1, 2), batch, key)
    np.testing.assert_allclose(target[0], y, rtol=1e-5, atol=1e-6)
    action = np.swapaxes(np.asarray(batch.action, np.float64), 0, 1)
    new, density = (np.asarray(leaf, np.float64) for leaf in learner.drawn({}, (0, 1, 2), batch, key)["uniform"])
    read = np.asarray(batch.read[0], np.float64)
    value = plain(critic, np.concatenate([read, action.reshape(ROWS, -1)], 1), False)

    def soft(agents):
        worth = []
        for m in range(DRAWN):
            joint = action.copy()
            joint[:, agents] = np.swapaxes(new[agents, m], 0, 1)
            log = density[agents, m].sum(0)
            worth.append(plain(critic, np.concatenate([read, joint.reshape(ROWS, -1)], 1), False) - log)
        return 1.5 * np.log(np.exp(np.stack(worth) / 1.5).sum(0))

    parts = [[i] for i in range(N)] if kind is CFCQLContinuous else [list(range(N))]
    lowered = np.mean([soft(agents) for agents in parts], axis=0)
    wanted = sum(np.mean((value[c] - y) ** 2) + 0.8 * np.mean(lowered[c] - value[c]) for c in range(2))
    loss, _ = learner.critic_loss(params, {}, (0, 1, 2), batch, target, key)
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    gradient = jax.grad(lambda p: learner.critic_loss(p, {}, (0, 1, 2), batch, target, key)[0])(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("elites", [0, 5])
def test_search_finds_better_actions_of_a_quadratic(elites):
    learner = OMAR(search_iterations=4, search_actions=20, search_elites=elites)
    goal = jnp.asarray([0.6, -0.3])

    def value(action):
        return -20.0 * jnp.sum(jnp.square(action - goal), axis=-1)

    start = -0.9 * jnp.ones((N, ROWS, SIZE))
    found, gain = learner.searched(start, value, jax.random.key(0))
    np.testing.assert_allclose(gain, value(found) - value(start), rtol=1e-4, atol=1e-4)
    assert float(jnp.min(gain)) > 0 and float(jnp.mean(jnp.abs(found - goal))) < 0.2
    kept, nothing = learner.searched(jnp.broadcast_to(goal, start.shape), value, jax.random.key(0))
    assert np.array_equal(kept, jnp.broadcast_to(goal, start.shape)) and not nothing.any()


def test_without_value_td3_bc_imitates():
    batch, learner = minibatch(N), TD3BC(value_weight=0.0)
    action = numbers(N, ROWS, SIZE, seed=9)
    loss, _ = learner.policy_terms(action, lambda new: jnp.sum(new, axis=-1), batch, jax.random.key(0))
    np.testing.assert_allclose(loss, np.mean(np.square(action - batch.action), axis=(1, 2)), rtol=1e-5)
    with pytest.raises(ValueError, match="value_weight"):
        TD3BC(value_weight=-1.0)


# --- how likely actions are in the data -------------------------------------------------------------------------

MODEL = ActionVAE(SEEN, N * SIZE, (7, 6))
log_density = jax.jit(lambda *arrays: MODEL.log_density(*arrays, num_agents=N))


def drawn_model():
    shapes = jax.eval_shape(MODEL.init, jax.eval_shape(lambda: jax.random.key(0)))
    return jax.tree.map(lambda leaf: 0.5 * numbers(*leaf.shape, seed=leaf.size), shapes)


def perceptron(layers, x):
    for layer in layers[:-1]:
        x = np.maximum(x @ layer["w"] + layer["b"], 0.0)
    return x @ layers[-1]["w"] + layers[-1]["b"]


def plain_model(params, read, joint, noise):
    """Loss of joint actions with the first noise, and [n, N] log-densities with all, in float64."""
    params, read, joint, noise = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, read, joint, noise))
    mean, log_std = np.split(perceptron(params["encoder"], np.concatenate([read, joint], 1)), 2, axis=1)
    log_std, weighted, losses = np.clip(log_std, -4, 15), [], []
    for eps in noise:
        z = mean + np.exp(log_std) * eps
        done = np.tanh(perceptron(params["decoder"], np.concatenate([read, z], 1)))
        divergence = 0.5 * (np.exp(2 * log_std) + mean**2 - 1) - log_std
        losses.append(np.mean((done - joint) ** 2) + 0.5 * divergence.mean())
        ratio = np.prod(np.exp(-(z**2) / 2 + eps**2 / 2 + log_std), axis=1)
        normal = np.exp(-((done - joint) ** 2) / (2 * DECODER_VARIANCE)) / np.sqrt(2 * np.pi * DECODER_VARIANCE)
        weighted.append(normal.reshape(len(read), N, SIZE).prod(2) * ratio[:, None])
    return losses[0], np.log(np.mean(weighted, axis=0))


def test_loss_and_densities_of_the_model_against_numpy():
    params, noise = drawn_model(), jax.random.normal(jax.random.key(1), (3, ROWS, 2 * N * SIZE))
    read, joint = numbers(ROWS, SEEN), numbers(ROWS, N * SIZE, seed=1)
    wanted = plain_model(params, read, joint, noise)
    loss, gradient = jax.jit(jax.value_and_grad(MODEL.loss))(params, read, joint, noise[0])
    np.testing.assert_allclose(loss, wanted[0], rtol=1e-5)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    np.testing.assert_allclose(log_density(params, read, joint, noise), wanted[1], rtol=1e-5, atol=1e-5)


def test_density_without_code_is_that_of_a_normal():
    """X13: an encoder that says N(0, 1) and a decoder that does not read z."""
    params, read, joint = drawn_model(), numbers(ROWS, SEEN), numbers(ROWS, N * SIZE, seed=1)
    params["encoder"][-1] = jax.tree.map(jnp.zeros_like, params["encoder"][-1])
    params["decoder"][0]["w"] = params["decoder"][0]["w"].at[SEEN:].set(0.0)
    noise = jax.random.normal(jax.random.key(1), (3, ROWS, 2 * N * SIZE))
    mean = np.asarray(MODEL.decoded(params, read, noise[0]), np.float64)
    log = -((joint - mean) ** 2) / (2 * DECODER_VARIANCE) - 0.5 * np.log(2 * np.pi * DECODER_VARIANCE)
    found = log_density(params, read, joint, noise)
    np.testing.assert_allclose(found, log.reshape(ROWS, N, SIZE).sum(2), rtol=1e-5, atol=1e-5)


def test_weights_of_agents_by_their_deviation():
    """Sum of lambda_i soft_i; lambda = softmax of -tau log beta_i, larger for actions that the data do not have."""
    learner = CFCQLContinuous(
        hidden_sizes=(8,),
        drawn_actions=DRAWN,
        behaviour=True,
        behaviour_sizes=(7, 6),
        behaviour_draws=3,
        temperature=2.0,
    )
    batch, key, agents = minibatch(N), jax.random.key(2), (0, 1, 2)
    actor = jax.vmap(learner.actor((SEEN,), N, SIZE).init)(jax.random.split(key, N))
    networks = {"actor": {"network": actor, "norm": {}}, "behaviour": jax.tree.map(lambda x: x[None], drawn_model())}
    critic = drawn_critic(learner, N)
    soft_value = jax.jit(lambda critic, learner: learner.soft_value(critic, networks, agents, batch, key))
    found, _, scalars = soft_value(critic, learner)
    noise = jax.random.normal(jax.random.fold_in(key, 3), (3, ROWS, 2 * N * SIZE))
    joint = learner.joint(learner.policy(networks["actor"], agents, batch.view))[0]
    log = plain_model(drawn_model(), batch.read[0], joint, noise)[1]
    weights = np.exp(-2.0 * log) / np.exp(-2.0 * log).sum(1, keepdims=True)
    soft = np.asarray(learner.soft_values(critic, networks, agents, batch, key), np.float64)[0]
    np.testing.assert_allclose(found[0], np.einsum("can,na->cn", soft, weights), rtol=1e-5)
    np.testing.assert_allclose(scalars["largest_weight"], weights.max(1).mean(), rtol=1e-4)
    np.testing.assert_allclose(scalars["deviation"], (-SIZE * np.log(0.2 * np.sqrt(2 * np.pi)) - log).mean(), rtol=1e-5)
    equal, _, _ = soft_value(critic, dataclasses.replace(learner, temperature=0.0))
    np.testing.assert_allclose(equal[0], soft.mean(1), rtol=1e-5)
    with pytest.raises(ValueError, match="set behaviour=True"):
        CFCQLContinuous(temperature=1.0)
