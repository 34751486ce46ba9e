"""Offline learners of numbered actions: losses against NumPy in float64, memory, gradients, and a game that must be solved."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from offline_oracle import LENGTHS, SMALL, WORLD, agents_outputs, log_softmax, mixed, prepared, source_of

import marl_bench
from marl_bench.algorithms.offline import conservative
from marl_bench.datasets.schema import Trajectories
from marl_bench.environment import Observation

MIXED = {**SMALL, "mixing_size": 4, "hypernet_sizes": (3,)}


# --- NumPy in float64 -------------------------------------------------------------------------------------------


def oracle(learner, networks, target, batch, term) -> float:
    """The loss of `cfcql` and `macql`; `term`: (q [N, A], joint value of values [N], action, mask, log beta) -> R + Q."""
    networks, target = (jax.tree.map(lambda leaf: np.asarray(leaf, np.float64)[0], x) for x in (networks, target))
    batch = jax.tree.map(np.asarray, batch)
    q, target_q, beta = (agents_outputs(x, batch) for x in (networks["q"], target["q"], networks["behaviour"]))
    _, episodes, agents = q.shape[:3]
    every = np.arange(agents)
    td, conserved, imitated, count = 0.0, 0.0, 0.0, 0
    for episode in range(episodes):
        length = int(batch.valid[:, episode].sum())
        returned = None
        for time in reversed(range(length)):
            best = np.argmax(np.where(batch.mask[time + 1, episode], q[time + 1, episode], -np.inf), axis=1)
            after = mixed(target["mixer"], target_q[time + 1, episode, every, best], batch.state[time + 1, episode])
            ended = time == length - 1
            assert bool(batch.is_last[time, episode]) == ended
            later = after if ended else (1 - learner.td_lambda) * after + learner.td_lambda * returned
            returned = batch.reward[time, episode, 0] + learner.discount * batch.discount[time, episode, 0] * later
            action, mask = batch.action[time, episode], batch.mask[time, episode]
            joint = lambda values, state=batch.state[time, episode]: mixed(networks["mixer"], values, state)  # noqa: E731
            here = joint(q[time, episode, every, action])
            log_beta = np.stack(
                [log_softmax(np.where(m, b, -1e9)) for m, b in zip(mask, beta[time, episode], strict=True)]
            )
            td += 0.5 * (here - returned) ** 2
            conserved += term((time, episode), q[time, episode], joint, action, mask, log_beta) - here
            imitated -= log_beta[every, action].mean()
            count += 1
    assert count == sum(LENGTHS)
    return (td + learner.conservative_weight * conserved + imitated) / count


def counterfactual_term(learner, place, q, joint, action, mask, log_beta) -> float:
    agents, actions = q.shape
    soft, kappa = np.zeros(agents), np.zeros(agents)
    for agent in range(agents):
        values = np.array(
            [
                joint(np.where(np.arange(agents) == agent, q[agent, k], q[np.arange(agents), action]))
                for k in range(actions)
            ]
        )
        legal = values[mask[agent]]
        soft[agent] = np.log(np.exp(legal).sum())
        mu, beta = np.exp(log_softmax(legal)) + 1e-5, np.exp(log_beta[agent][mask[agent]]) + 1e-5
        kappa[agent] = (mu * np.log(mu / beta)).sum()
    signed = learner.lambda_sign * kappa
    weights = (
        np.eye(agents)[signed.argmax()]
        if learner.temperature >= 100
        else np.exp(log_softmax(learner.temperature * signed))
    )
    return float(weights @ soft)


def joint_term(learner, drawn_actions, place, q, joint, action, mask, log_beta) -> float:
    every = np.arange(len(q))
    values = [joint(q[every, chosen]) * (mask[every, chosen].all()) for chosen in drawn_actions[place]]
    return float(np.log(np.exp(values).sum()))


@pytest.mark.parametrize("fields", [{"temperature": 1.5}, {"temperature": 100.0, "lambda_sign": -1.0}])
def test_cfcql_loss_is_that_of_numpy(fields):
    learner, networks, target, batch = prepared("cfcql", {**MIXED, **fields, "conservative_weight": 0.7})
    found, metrics = learner.loss(networks, target, WORLD, batch, jax.random.key(0))
    wanted = oracle(learner, networks, target, batch, functools.partial(counterfactual_term, learner))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert all(np.isfinite(value) for value in metrics.values())


def test_macql_loss_is_that_of_numpy():
    learner, networks, target, batch = prepared("macql", {**MIXED, "joint_actions": 7, "conservative_weight": 0.7})
    key = jax.random.key(5)
    shape = (*batch.valid.shape, 7, WORLD.num_agents)
    drawn_actions = np.asarray(conservative.sampled_joint_actions(key, shape, WORLD.num_actions))
    found, _ = learner.loss(networks, target, WORLD, batch, key)
    wanted = oracle(learner, networks, target, batch, functools.partial(joint_term, learner, drawn_actions))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert set(np.unique(drawn_actions)) == set(range(WORLD.num_actions))


# --- all learners -----------------------------------------------------------------------------------------------

LEARNERS = {"cfcql": {**MIXED, "temperature": 1.0}, "macql": MIXED, "bc": SMALL}


@pytest.fixture(scope="module", params=list(LEARNERS))
def learned(request):
    return request.param, *prepared(request.param, LEARNERS[request.param])


def test_every_parameter_gets_a_gradient(learned):
    _, learner, networks, target, batch = learned
    gradient = jax.grad(lambda n: learner.loss(n, target, WORLD, batch, jax.random.key(0))[0])(networks)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)


def test_agents_act_on_what_they_learned_from(learned):
    name, learner, networks, _, batch = learned
    acting = "actor" if "actor" in networks else "q"
    whole = learner.unrolled(networks[acting], WORLD, batch)
    slots = jnp.asarray(learner.slots(WORLD))

    def episode(memory, row):
        view, mask, action = row
        outputs, remembered = learner.step(networks[acting], slots, memory, Observation(view, mask, jnp.int32(0)))
        return (remembered, action), outputs

    rows = (batch.view, batch.mask, batch.action)
    play = lambda rows: jax.lax.scan(episode, learner.initial_memory(WORLD.num_agents), rows)[1]  # noqa: E731
    np.testing.assert_allclose(jax.vmap(play, 1, 1)(rows), whole, atol=1e-5)
    params = {**networks, "slots": slots}
    observation = Observation(batch.view[0, 0], batch.mask[0, 0], jnp.int32(0))
    memory = learner.initial_memory(WORLD.num_agents)
    action, memory = learner.act(params, memory, observation, jax.random.key(0), True)
    assert batch.mask[0, 0][np.arange(WORLD.num_agents), action].all(), name
    np.testing.assert_array_equal(memory[1], action)


def consensus_source():
    """One-step games with uniform random actions: every joint action is in the data."""
    env = marl_bench.make("consensus", players=3)
    state, first = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 3000))
    actions = jax.random.randint(jax.random.key(1), (3000, 3), 0, 3)
    after, last = jax.vmap(env.step)(state, actions)
    part = Trajectories(
        observations=np.asarray(first.observation.agents_view),
        actions=np.asarray(actions),
        rewards=np.asarray(last.reward),
        terminals=np.ones((3000, 3), bool),
        truncations=np.zeros((3000, 3), bool),
        state=np.asarray(jax.vmap(env.global_state)(state), np.float32),
        last_observations=np.asarray(last.observation.agents_view),
        last_state=np.asarray(jax.vmap(env.global_state)(after), np.float32),
    )
    return source_of(env, part)


def test_consensus_is_solved_from_data_with_full_coverage():
    source = consensus_source()
    learner = marl_bench.make_learner(
        "cfcql",
        recurrent_size=0,
        hidden_sizes=(32,),
        batch_size=128,
        learning_rate=3e-3,
        conservative_weight=0.1,
        evaluation_episodes=64,
    )

    @jax.jit
    def train(source):
        state = learner.init(jax.random.key(0), dataclasses.replace(source, data=None))
        state, _ = jax.lax.scan(lambda state, _: learner.update(state, source), state, None, 500)
        return learner.evaluate(state, source)

    assert float(train(source)["return_mean_per_agent"]) == 1.0


def test_plain_q_learning_is_the_control():
    """Without a conservative weight the term is logged and changes nothing."""
    learner, networks, target, batch = prepared(
        "cfcql", {**MIXED, "conservative_weight": 0.0, "behaviour": False, "temperature": 0.0}
    )
    loss = lambda n: learner.loss(n, target, WORLD, batch, jax.random.key(0))  # noqa: E731
    (value, metrics) = loss(networks)
    np.testing.assert_allclose(value, metrics["td_loss"])
    assert float(metrics["conservative"]) > 0


def test_unequal_rewards_stop_the_run_unless_a_team_is_made_of_them():
    for team, stops in (("common", True), ("sum", False), ("mean", False)):
        learner, networks, target, batch = prepared("cfcql", {**MIXED, "team_reward": team}, common=False)
        metrics = learner.loss(networks, target, WORLD, batch, jax.random.key(0))[1]
        assert np.isnan(metrics.get("reward_is_common", 1.0)) == stops


def test_a_run_that_only_models_the_data_is_refused():
    learner = marl_bench.make_learner("cfcql", behaviour_updates=100)
    assert learner.num_updates(101) == 101
    with pytest.raises(ValueError, match=r"behaviour_updates=100: .* steps=100 must be more"):
        learner.num_updates(100)
    assert marl_bench.make_learner("macql", behaviour=False, behaviour_updates=100).num_updates(100) == 100
