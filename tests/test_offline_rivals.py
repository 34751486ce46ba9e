"""Rivals of `cfcql` for numbered actions: losses against NumPy in float64, gradients, and TD(lambda)."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from offline_oracle import (
    LENGTHS,
    SMALL,
    WORLD,
    agents_outputs,
    dense,
    log_softmax,
    mixed,
    prepared,
    recorded,
    source_of,
)

import marl_bench
from marl_bench.algorithms import slots
from marl_bench.algorithms.equations import clip_by_global_norm
from marl_bench.algorithms.offline import recurrent
from marl_bench.algorithms.offline.cql import CQL
from marl_bench.algorithms.offline.stepped import SteppedCriticLearner
from marl_bench.datasets.source import OfflineSource, Statistics
from marl_bench.environment import Observation

JUDGED = {**SMALL, "critic_sizes": (7, 4)}
RIVALS = {
    "cql": {**SMALL, "conservative_weight": 0.7},
    "icq": {**JUDGED, "mixing_size": 4, "team_reward": "mean", "policy_temperature": 0.8, "value_temperature": 2.0},
    "omar_discrete": {**JUDGED, "conservative_weight": 0.7, "search_weight": 0.4},
    "madtkd": {"embedding_size": 4, "batch_size": 5, "relation_weight": 0.7, "teacher_relation": 0.3},
}


@functools.cache
def ready(name):
    """A learner, its networks, target networks, and a batch."""
    return prepared(name, RIVALS[name], common=False)


def total(learner, target, batch):
    """The loss as a function of the networks: of learners whose critics step by themselves, the sum of both losses."""
    if not isinstance(learner, SteppedCriticLearner):
        return lambda networks: learner.loss(networks, target, WORLD, batch, jax.random.key(0))
    read, steps = learner.read(WORLD, batch), len(batch.valid)
    now = jax.tree.map(lambda leaf: leaf[:steps], (batch, read))

    def loss(networks):
        wanted = jax.lax.stop_gradient(learner.targets(networks, target, WORLD, batch, read))
        error, q = learner.critic_loss(networks, WORLD, *now, wanted)
        fixed = jax.lax.stop_gradient((networks, q))
        policy, metrics = learner.policy_loss(networks["actor"], fixed[0], WORLD, batch, fixed[1])
        return error + policy, metrics

    return loss


@pytest.fixture(scope="module", params=list(RIVALS))
def learned(request):
    """A learner, its networks, target networks and batch, its loss and the gradient."""
    learner, networks, target, batch = ready(request.param)
    loss = jax.jit(jax.value_and_grad(total(learner, target, batch), has_aux=True))
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


def critics_outputs(params, batch):
    """[T + 1, R, N, K] of a network that reads a view, a number and the state."""
    shape, agents = batch.view.shape[:3], batch.view.shape[2]
    ids = np.broadcast_to(np.eye(agents), (*shape, agents))
    state = np.broadcast_to(batch.state[:, :, None], (*shape, batch.state.shape[-1]))
    return dense([*params["dense"], params["output"]], np.concatenate([batch.view.reshape(*shape, -1), ids, state], -1))


def policies(params, batch):
    """[T + 1, R, N, A] log-probabilities."""
    outputs = np.where(batch.mask, agents_outputs(params, batch), -1e9)
    return (
        outputs
        - np.log(np.exp(outputs - outputs.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - outputs.max(-1, keepdims=True)
    )


def batch_weights(scores, counted, temperature):
    """[B] mean 1 over the counted."""
    chance = np.exp((scores - scores[counted].max()) / temperature) * counted
    return counted.sum() * chance / chance.sum()


def icq(learner, networks, target, batch):
    log_pi, (slow, q) = (
        policies(networks["actor"], batch),
        (critics_outputs(n["critic"], batch) for n in (target, networks)),
    )
    slow, q = (outputs[..., :-1] + outputs[..., -1:] for outputs in (slow, q))
    steps, rows, agents = batch.reward[:-1].shape
    following, every = np.zeros((steps, rows, 1)), np.arange(agents)
    for time in range(steps):
        for row in range(rows):
            chosen = slow[time + 1, row, every, batch.action[time + 1, row]]
            if batch.is_last[time, row]:
                chosen = (np.exp(log_pi[time + 1, row]) * slow[time + 1, row]).sum(-1)
            following[time, row] = mixed(target["mixer"], chosen, batch.state[time + 1, row])
        weights = batch_weights(following[time, :, 0], batch.filled[time + 1], learner.value_temperature)
        following[time] *= weights[:, None]
    advantage = np.take_along_axis(q, batch.action[..., None], -1)[..., 0] - (np.exp(log_pi) * q).sum(-1)
    paid = batch.reward.mean(-1, keepdims=True)
    team = dataclasses.replace(batch, reward=paid, discount=batch.discount.max(-1, keepdims=True))
    errors, imitated = [], []
    for time, row, _ in steps_of(team):
        state, action = batch.state[time, row], batch.action[time, row]
        here = mixed(networks["mixer"], q[time, row, every, action], state)
        errors.append((here - returned(learner, team, following, (time, row, 0))) ** 2)
        inner, outer = (np.abs(dense(networks["mixer"][name], state)) for name in ("w1", "w2"))
        share = inner.reshape(agents, -1) @ outer
        for agent in range(agents):
            weight = batch_weights(advantage[time, :, agent], batch.valid[time], learner.policy_temperature)[row]
            imitated.append(-share[agent] / share.sum() * weight * log_pi[time, row, agent, action[agent]])
    return np.mean(errors) + np.sum(imitated) / len(errors)


def omar_discrete(learner, networks, target, batch):
    log_pi, slow_pi = policies(networks["actor"], batch), policies(target["actor"], batch)
    twins, slow = (
        [critics_outputs(jax.tree.map(lambda leaf, c=c: leaf[c], n["critic"]), batch) for c in range(2)]
        for n in (networks, target)
    )
    following = np.take_along_axis(np.minimum(*slow), slow_pi.argmax(-1)[..., None], -1)[1:, ..., 0]
    losses = []
    for place in steps_of(batch):
        goal, action, pi = returned(learner, batch, following, place), batch.action[place], np.exp(log_pi[place])
        for q in twins:
            term = log_sum_exp(q[place]) - q[place][action]
            losses.append((q[place][action] - goal) ** 2 + learner.conservative_weight * term)
        q = twins[0][place]
        distance = np.mean((pi - np.eye(len(q))[q.argmax()]) ** 2)
        followed = -(q[action] - pi @ q) * log_pi[place][action]
        losses.append((1 - learner.search_weight) * followed + learner.search_weight * distance)
    return np.sum(losses) / len(list(steps_of(batch)))


def normed(layer, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * layer["scale"] + layer["shift"]


def gelu_mlp(layers, x):
    x = x @ layers[0]["w"] + layers[0]["b"]
    chance = 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    return (x * chance) @ layers[1]["w"] + layers[1]["b"]


def transformer(params, tokens):
    """Logits and mapped features [L, ...] of tokens [L, D], each of which reads itself and those before it."""
    block, found = params["block"], []
    x = tokens + block.get("place", 0)
    inner = normed(block["norm_attention"], x)
    layer = lambda name, x: x @ block[name]["w"] + block[name]["b"]  # noqa: E731
    for place in range(len(x)):
        scores = np.zeros(1)
        if len(x) > 1:
            scores = layer("key", inner[: place + 1]) @ layer("query", inner[place]) / np.sqrt(x.shape[1])
        found.append(np.exp(log_softmax(scores)) @ layer("value", inner[: place + 1]))
    x = x + layer("joined", np.stack(found))
    x = x + gelu_mlp(block["perceptron"], normed(block["norm_perceptron"], x))
    features = normed(block["norm_output"], x)
    return layer("output", features), gelu_mlp(params["map"], features)


def madtkd(learner, networks, target, batch):
    losses, agents = [], batch.reward.shape[2]
    for time, row, agent in steps_of(batch):
        if agent:
            continue
        views = np.concatenate([batch.view[time, row].reshape(agents, -1), np.eye(agents)], axis=1)
        own, seen = (dense([n["output"]], views) for n in (networks["actor"]["token"], networks["teacher_token"]))
        student = [
            np.concatenate(parts) for parts in zip(*(transformer(networks["actor"], x[None]) for x in own), strict=True)
        ]
        teacher = transformer(networks["teacher"], seen)
        mask, action = batch.mask[time, row], batch.action[time, row]
        relation = 0
        for i in range(agents):
            p, q = (np.full(len(mask[i]), -np.inf) for _ in range(2))
            q[mask[i]], p[mask[i]] = (log_softmax(of[0][i][mask[i]]) for of in (student, teacher))
            divergence = np.sum(np.exp(p[mask[i]]) * (p[mask[i]] - q[mask[i]]))
            losses.append(-q[action[i]] - p[action[i]] + learner.divergence_weight * divergence)
            for j in set(range(agents)) - {i}:
                cosine = lambda f: f[i] @ f[j] / np.linalg.norm(f[i]) / np.linalg.norm(f[j])  # noqa: B023, E731
                error = abs(cosine(teacher[1]) - cosine(student[1]))
                relation += 0.5 * error**2 if error < 1 else error - 0.5
        losses[-1] += agents * (learner.relation_weight + learner.teacher_relation) * relation
    return np.mean(losses)


ORACLES = {"cql": cql, "icq": icq, "omar_discrete": omar_discrete, "madtkd": madtkd}


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


def test_madtkd_acts_on_what_it_learned_from():
    learner, networks, _, batch = ready("madtkd")
    logits = learner.unrolled(networks["actor"], WORLD, batch)
    for time in range(3):
        observation = Observation(batch.view[time, 0], batch.mask[time, 0], jnp.int32(time))
        memory = learner.initial_memory(WORLD.num_agents)
        found, _ = learner.step(networks["actor"], jnp.asarray(learner.slots(WORLD)), memory, observation)
        np.testing.assert_allclose(found, logits[time, 0], atol=1e-5)


def test_matrices_decay_apart_from_the_gradient():
    stay, networks, _, _ = ready("madtkd")
    source = source_of(WORLD, recorded(WORLD))
    decay, rate = dataclasses.replace(stay, weight_decay=0.2), stay.learning_rate * 0.2
    stay = dataclasses.replace(stay, weight_decay=0.0)
    state = stay.first_state(networks, {}, jax.random.key(0), WORLD)
    update = jax.jit(lambda learner: learner.update(state, source)[0].params)
    stayed, decayed = ({name: found[name] for name in networks} for found in (update(stay), update(decay)))

    def check(path, start, one, other):
        shrunk = rate * start if path[-1] == jax.tree_util.DictKey("w") else 0.0
        np.testing.assert_allclose(other, one - shrunk, atol=1e-7)

    jax.tree_util.tree_map_with_path(check, networks, stayed, decayed)


def test_critics_step_once_for_each_time_the_last_first():
    learner, networks, target, batch = ready("icq")
    state = learner.first_state(networks, target, jax.random.key(0), WORLD)
    names = ("critic", "mixer")
    found, _, seen, _ = jax.jit(lambda n, b: learner.critics_after(state, n, WORLD, b))(networks, batch)
    read = learner.read(WORLD, batch)
    wanted = learner.targets(networks, target, WORLD, batch, read)
    gradient = jax.jit(jax.value_and_grad(lambda c, *rows: learner.critic_loss(c, WORLD, *rows), has_aux=True))
    critics, adam = ({name: of[name] for name in names} for of in (networks, state.opt_state))
    for time in reversed(range(len(wanted))):
        row = jax.tree.map(lambda leaf, time=time: leaf[time : time + 1], (batch, read, wanted))
        (_, q), slope = gradient(critics, *row)
        np.testing.assert_allclose(seen[time], q[0], rtol=1e-4, atol=1e-5)
        slope = clip_by_global_norm(slope, learner.max_grad_norm)
        for name in names:
            rate = learner.critic_learning_rate
            critics[name], adam[name], _ = slots.adam_step(critics[name], slope[name], adam[name], rate, np.inf)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(critics), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


COUNTERPARTS = {"cql": "cql_continuous", "icq": "iql_offline", "omar_discrete": "omar", "madtkd": "bc"}


@pytest.mark.parametrize(("name", "other"), COUNTERPARTS.items())
def test_the_wrong_kind_of_actions_is_refused_and_the_counterpart_named(name, other):
    vectors = marl_bench.make("continuous_dilemma", players=2)
    source = OfflineSource(vectors, jnp.int32(0), Statistics(None, None, 0.0, None))
    with pytest.raises(ValueError, match=rf"{name} needs discrete actions, .* use learner={other}$"):
        marl_bench.make_learner(name).validate(source)
    if other.startswith(("cql", "omar")):
        assert marl_bench.make_learner(other).counterpart == name


def test_a_data_set_without_states_is_refused():
    source = OfflineSource(WORLD, jnp.int32(0), Statistics(None, None, None, None))
    instead = {
        "icq": "awac learner.critic_input=views",
        "omar_discrete": "omar_discrete learner.critic_input=views",
        "cfcql": "cfcql learner.mixer=sum",
    }
    for name, other in instead.items():
        with pytest.raises(ValueError, match=f"this data set has none; use learner={other}$"):
            marl_bench.make_learner(name).validate(source)
    marl_bench.make_learner("cql").validate(source)


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
