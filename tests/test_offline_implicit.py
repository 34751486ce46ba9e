"""`iql_offline` and `awac` on both kinds of actions: losses against NumPy in float64, gradients, targets, what they refuse."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import marl_bench
from marl_bench.algorithms.networked import is_discrete
from marl_bench.algorithms.offline.awac import AWAC
from marl_bench.algorithms.offline.iql_offline import IQLOffline
from marl_bench.datasets.sampling import Sequence
from marl_bench.datasets.source import OfflineSource, Statistics

WORLDS = {
    "discrete": marl_bench.make("equal_line", players=2),
    "continuous": marl_bench.make("continuous_dilemma", players=2),
}
SMALL = {"hidden_sizes": (6,), "recurrent_size": 0, "critic_sizes": (5, 4), "weight_limit": 1.5}
TIME, ROWS = 4, 3


def random_batch(env) -> Sequence:
    """A whole episode that is cut, a shorter one that ends, and one of a single step."""
    rng = np.random.default_rng(0)
    shape = (TIME + 1, ROWS, env.num_agents)
    lengths = np.array([TIME, 2, 1])
    valid = np.arange(TIME)[:, None] < lengths
    is_last = np.arange(TIME)[:, None] == lengths - 1
    discount = np.ones(shape, np.float32)
    discount[1, 1], discount[0, 2, 0] = 0.0, 0.0
    action, mask = rng.uniform(-0.2, 1.2, (*shape, 1)).astype(np.float32), None
    if is_discrete(env):
        action = rng.integers(0, env.num_actions, shape)
        mask = rng.random((*shape, env.num_actions)) < 0.6
        np.put_along_axis(mask, action[..., None], True, axis=-1)
    size = {"discrete": env.num_agents, "continuous": env.num_agents + 2}[
        "discrete" if is_discrete(env) else "continuous"
    ]
    batch = Sequence(
        view=rng.normal(size=(*shape, *env.observation_shape)).astype(np.float32),
        state=rng.normal(size=(*shape[:2], size)).astype(np.float32),
        mask=mask,
        action=action,
        reward=rng.normal(size=shape).astype(np.float32),
        discount=discount,
        valid=valid,
        filled=np.concatenate([np.ones((1, ROWS), bool), valid]),
        is_last=is_last,
    )
    return jax.tree.map(jnp.asarray, batch)


def source_of(env, state_mean=0.0) -> OfflineSource:
    return OfflineSource(env, jnp.int32(0), Statistics(None, None, state_mean, None))


@pytest.fixture(scope="module", params=[(kind, world) for kind in (IQLOffline, AWAC) for world in WORLDS])
def prepared(request):
    """A learner, its world, blurred networks, other targets, and a batch."""
    kind, world = request.param
    env = WORLDS[world]
    learner = kind(**SMALL, sharing="independent" if world == "continuous" else "shared")
    state = jax.jit(lambda key: learner.init(key, source_of(env)))(jax.random.key(1))
    rng = np.random.default_rng(1)
    blur = lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32)  # noqa: E731
    networks = {name: jax.tree.map(blur, state.params[name]) for name in state.opt_state}
    return learner, env, networks, jax.tree.map(blur, state.target), random_batch(env)


# --- NumPy in float64 -------------------------------------------------------------------------------------------


def perceptron(params, x):
    for layer in params["dense"]:
        x = np.maximum(x @ layer["w"] + layer["b"], 0)
    return x @ params["output"]["w"] + params["output"]["b"]


def oracle(learner, env, networks, target, batch, noise) -> float:
    """The loss, one step of one agent after the other; `noise`: [T + 1, R, N, D] of AWAC's single draw."""
    discrete, agents = is_discrete(env), env.num_agents
    as_float = lambda tree: jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)  # noqa: E731
    networks, target, batch = as_float(networks), as_float(target), jax.tree.map(np.asarray, batch)
    parts = np.zeros(3)

    def of(tree, agent, *twin):
        slot = agent if learner.sharing == "independent" else 0
        return jax.tree.map(lambda leaf: leaf[(slot, *twin)], tree)

    def read(time, row, agent):
        return np.concatenate([batch.view[time, row, agent].ravel(), np.eye(agents)[agent], batch.state[time, row]])

    def policy(time, row, agent):
        last = np.zeros(env.num_actions)
        if discrete and time:
            last[batch.action[time - 1, row, agent]] = 1
        x = np.concatenate([batch.view[time, row, agent].ravel(), last, np.eye(agents)[agent]])
        return perceptron(of(networks["actor"], agent), x)

    def chances(time, row, agent):
        odds = np.where(batch.mask[time, row, agent], np.exp(policy(time, row, agent)), 0)
        return odds / odds.sum()

    def q(tree, time, row, agent, action):
        x = read(time, row, agent)
        for twin in range(2):
            one = of(tree["critic"], agent, twin)
            yield perceptron(one, x)[action] if discrete else perceptron(one, np.append(x, action))[0]

    def value(time, row, agent):
        if isinstance(learner, IQLOffline):
            return perceptron(of(networks["value"], agent), read(time, row, agent))[0]
        if discrete:
            chance = chances(time, row, agent)
            return sum(p * min(q(target, time, row, agent, k)) for k, p in enumerate(chance))
        spread = np.exp(of(networks["spread"], agent)["log_std"])
        drawn = np.tanh(policy(time, row, agent)) + spread * noise[time, row, agent]
        return min(q(target, time, row, agent, np.clip(drawn, -1, 1)))

    for time, row in np.argwhere(batch.valid):
        for agent in range(agents):
            action = batch.action[time, row, agent]
            if not discrete:
                action = np.clip(2 * action.astype(np.float64) - 1, -1, 1)
            goal = batch.reward[time, row, agent]
            goal = goal + learner.discount * batch.discount[time, row, agent] * value(time + 1, row, agent)
            critic = sum((found - goal) ** 2 for found in q(networks, time, row, agent, action))
            advantage = min(q(target, time, row, agent, action)) - value(time, row, agent)
            weight = min(np.exp(learner.temperature * advantage), learner.weight_limit)
            if discrete:
                log = np.log(chances(time, row, agent)[action])
            else:
                log_std = of(networks["spread"], agent)["log_std"]
                error = (action - np.tanh(policy(time, row, agent))) / np.exp(log_std)
                log = -np.sum(error**2 / 2 + log_std + np.log(2 * np.pi) / 2)
            expected = 0.0
            if isinstance(learner, IQLOffline):
                expected = (1 - learner.expectile if advantage < 0 else learner.expectile) * advantage**2
            parts += np.array([critic, -weight * log, expected]) / agents
    return parts.sum() / batch.valid.sum()


def test_loss_is_that_of_numpy_and_every_parameter_gets_a_gradient(prepared):
    learner, env, networks, target, batch = prepared
    key = jax.random.key(5)
    noise = np.asarray(jax.random.normal(key, (1, *batch.view.shape[:3], 1)), np.float64)[0]
    step = jax.jit(jax.value_and_grad(lambda n, batch: learner.loss(n, target, env, batch, key), has_aux=True))
    (found, metrics), gradient = step(networks, batch)
    np.testing.assert_allclose(found, oracle(learner, env, networks, target, batch, noise), rtol=1e-5)
    assert all(np.isfinite(value) for value in metrics.values())
    assert 0 < float(metrics["weight"]) < learner.weight_limit
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, jax.tree_util.keystr(path)
    valid = np.pad(batch.valid, ((0, 1), (0, 0)))[..., None]
    other = dataclasses.replace(batch, reward=jnp.where(valid, batch.reward, 9.0))
    assert jax.tree.all(jax.tree.map(lambda one, two: bool((one == two).all()), gradient, step(networks, other)[1]))


def test_targets_follow_the_critics(prepared):
    learner, _, networks, target, _ = prepared
    followed = learner.next_target(target, networks, jnp.int32(1))
    wanted = jax.tree.map(lambda old, new: 0.995 * old + 0.005 * new, target, {"critic": networks["critic"]})
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6), followed, wanted)


def test_values_out_of_range_and_missing_states_are_named():
    for kind, fields in ((IQLOffline, {"expectile": 1.0}), (AWAC, {"value_actions": 0}), (AWAC, {"temperature": -1.0})):
        with pytest.raises(ValueError, match=next(iter(fields))):
            kind(**fields)
    with pytest.raises(TypeError, match="critic_sizes"):
        IQLOffline(critic_sizes=(0,))
    source = source_of(WORLDS["continuous"], state_mean=None)
    with pytest.raises(ValueError, match=r"use learner=awac learner\.critic_input=views"):
        AWAC().validate(source)
    AWAC(critic_input="views").validate(source)
