"""Small recorded episodes, and the offline learners' networks in NumPy and float64."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import marl_bench
from marl_bench.datasets.data import as_data
from marl_bench.datasets.schema import Trajectories
from marl_bench.datasets.source import OfflineSource, statistics_of

SMALL = {"hidden_sizes": (6,), "recurrent_size": 5, "batch_size": 5}
WORLD = marl_bench.make("equal_line", players=2)
LENGTHS = (5, 3, 4, 1, 5)


def recorded(env, lengths=LENGTHS, seed=0, common=True) -> Trajectories:
    """Random episodes: some are terminated, some cut; some actions are illegal."""
    rng = np.random.default_rng(seed)
    steps, agents, actions, episodes = sum(lengths), env.num_agents, env.num_actions, len(lengths)
    legals = rng.random((steps + episodes, agents, actions)) < 0.8
    chosen = rng.integers(0, actions, (steps, agents))
    np.put_along_axis(legals[:steps], chosen[..., None], True, axis=-1)
    legals[steps:, :, 0] = True
    ends = np.cumsum(lengths) - 1
    terminals, truncations = np.zeros((2, steps, agents), bool)
    terminals[ends[::2]], truncations[ends[1::2]] = True, True
    view = rng.normal(size=(steps + episodes, agents, *env.observation_shape)).astype(np.float32)
    state = rng.normal(size=(steps + episodes, agents)).astype(np.float32)
    rewards = rng.normal(size=(steps, 1 if common else agents)).astype(np.float32)
    return Trajectories(
        observations=view[:steps],
        actions=chosen.astype(np.int32),
        rewards=np.broadcast_to(rewards, (steps, agents)),
        terminals=terminals,
        truncations=truncations,
        state=state[:steps],
        legals=legals[:steps],
        last_observations=view[steps:],
        last_state=state[steps:],
        last_legals=legals[steps:],
    )


def source_of(env, part: Trajectories) -> OfflineSource:
    data = jax.tree.map(jnp.asarray, as_data([part], env.num_actions))
    return OfflineSource(env, jnp.int32(0), statistics_of(part), data, int(part.lengths.max()))


def prepared(name: str, fields: dict, common: bool = True):
    """A learner, networks, other target networks, and a batch of all episodes."""
    learner = marl_bench.make_learner(name, **fields)
    source = source_of(WORLD, recorded(WORLD, common=common))
    state = learner.init(jax.random.key(1), dataclasses.replace(source, data=None))
    keys = iter(jax.random.split(jax.random.key(2), 1000))
    blur = lambda leaf: leaf + 0.3 * jax.random.normal(next(keys), leaf.shape)  # noqa: E731
    networks = {name: jax.tree.map(blur, state.params[name]) for name in state.opt_state}
    target = jax.tree.map(blur, state.target)
    return learner, networks, target, learner.batch(source, jax.random.key(3))


# --- NumPy in float64 -------------------------------------------------------------------------------------------


def dense(layers, x):
    for layer in layers[:-1]:
        x = np.maximum(x @ layer["w"] + layer["b"], 0)
    return x @ layers[-1]["w"] + layers[-1]["b"]


def agents_outputs(params, batch):
    """[T + 1, R, N, K], one step and one agent after the other."""
    rows, episodes, agents = batch.view.shape[:3]
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    found = []
    for agent in range(agents):
        memory, last = np.zeros((episodes, 5)), np.zeros((episodes, WORLD.num_actions))
        for time in range(rows):
            ids = np.broadcast_to(np.eye(agents)[agent], (episodes, agents))
            x = np.concatenate([batch.view[time, :, agent].reshape(episodes, -1), last, ids], axis=1)
            for layer in params["dense"]:
                x = np.maximum(x @ layer["w"] + layer["b"], 0)
            gates, inner = x @ params["gru"]["w"] + params["gru"]["b"], memory @ params["gru"]["u"]
            (r, z, n), (rh, zh, nh) = np.split(gates, 3, 1), np.split(inner, 3, 1)
            reset, update = sigmoid(r + rh), sigmoid(z + zh)
            memory = (1 - update) * np.tanh(n + reset * (nh + params["gru"]["c"])) + update * memory
            found.append(memory @ params["output"]["w"] + params["output"]["b"])
            last = np.eye(WORLD.num_actions)[batch.action[time, :, agent]]
    return np.stack(found).reshape(agents, rows, episodes, -1).transpose(1, 2, 0, 3)


def log_softmax(x):
    return x - np.log(np.exp(x - x.max()).sum()) - x.max()


def mixed(params, values, state):
    """[] from values [N] and a state [S]."""
    inner = np.abs(dense(params["w1"], state)).reshape(len(values), -1)
    hidden = values @ inner + dense(params["b1"], state)
    hidden = np.where(hidden > 0, hidden, np.expm1(np.minimum(hidden, 0)))
    return hidden @ np.abs(dense(params["w2"], state)) + dense(params["b2"], state)[0]
