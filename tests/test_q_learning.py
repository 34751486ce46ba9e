"""iql, vdn, qmix and pqn: losses against a float64 oracle, training path against acting path, the replay, bad input."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from hypothesis import given, settings
from hypothesis import strategies as st
from test_mixers import mixed

from marl_bench import make, make_learner
from marl_bench.algorithms import ring, value_based
from marl_bench.algorithms.sequence_replay import Sequences
from marl_bench.reward_wrappers import CommonReward

LENGTH, ROWS = 8, 8
SMALL = {"num_envs": 4, "num_steps": LENGTH, "hidden_sizes": (8,), "evaluation_episodes": 8}
SETTINGS = {
    "iql": ("iql", {"td_lambda": 0.8, "hidden_sizes": (8, 6), "layer_norm": True}),
    "iql-gru-groups": ("iql", {"recurrent_size": 4, "groups": (0, 1, 0), "double": False}),
    "vdn-gru": ("vdn", {"recurrent_size": 4, "agent_id": True, "team_reward": "sum", "td_lambda": 1.0}),
    "qmix-groups": ("qmix", {"team_reward": "mean", "td_lambda": 0.8, "groups": (0, 1, 0)}),
    "qmix-gru-paper": ("qmix", {"team_reward": "sum", "hypernet_sizes": (), "recurrent_size": 4}),
    "pqn-groups": ("pqn", {"groups": (0, 1, 0), "minibatches": 2}),
    "pqn-gru-vdn": ("pqn", {"recurrent_size": 4, "mixing": "vdn", "team_reward": "sum", "minibatches": 2}),
}
ENDS = ("inside", "last")


def float64(tree):
    return jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64) if leaf.dtype == np.float32 else np.asarray(leaf), tree
    )


# --- the oracle ------------------------------------------------------------------------------------------------


def network_step(params, memory, view, is_first):
    """One agent's network: memory and output."""
    x = view
    for layer in params["dense"]:
        x = x @ layer["w"] + layer["b"]
        if "scale" in layer:
            x = (x - x.mean()) / np.sqrt(x.var() + 1e-6) * layer["scale"] + layer["shift"]
        x = np.maximum(x, 0)
    if "gru" in params:
        gru, size = params["gru"], len(memory)
        memory = np.zeros(size) if is_first else memory
        given, kept = x @ gru["w"] + gru["b"], memory @ gru["u"]
        reset, update = (1 / (1 + np.exp(-(given + kept)[i * size : (i + 1) * size])) for i in (0, 1))
        candidate = np.tanh(given[2 * size :] + reset * (kept[2 * size :] + gru["c"]))
        memory = x = (1 - update) * candidate + update * memory
    return memory, x @ params["output"]["w"] + params["output"]["b"]


def oracle_values(learner, env, networks, sequence):
    """[T, N, A] values of the views and of the true successors of one sequence, agent by agent and step by step."""
    count, ids = env.num_agents, np.eye(env.num_agents) if learner.agent_id else np.zeros((env.num_agents, 0))
    views, successors = (np.zeros((LENGTH, count, env.num_actions)) for _ in range(2))
    for agent, slot in enumerate(learner.slots(env)):
        params = jax.tree.map(lambda leaf, slot=slot: leaf[slot], networks["q"])
        memory = sequence.memory[agent]
        for t in range(LENGTH):
            view = np.concatenate([sequence.view[t, agent], ids[agent]])
            memory, views[t, agent] = network_step(params, memory, view, sequence.is_first[t])
            whole = len(sequence.next_view) == LENGTH
            after = sequence.next_view[t] if whole else (*sequence.view[1:], sequence.next_view[0])[t]
            after = np.concatenate([after[agent], ids[agent]])
            successors[t, agent] = network_step(params, memory, after, False)[1]
    return views, successors


def oracle_joint(learner, networks, values, state):
    """[J] value of the team, or of the agents."""
    if learner.team is None:
        return values
    if "mixer" not in networks:
        return values.sum(keepdims=True)
    params = jax.tree.map(lambda leaf: leaf[0], networks["mixer"])
    return np.array([mixed(learner.mixer(len(state), len(values)), params, values, state)])


def oracle_loss(learner, env, networks, target, batch):
    """Loss of a batch [R, T, ...]."""
    errors = []
    for row in range(ROWS):
        sequence = jax.tree.map(lambda leaf, row=row: leaf[row], batch)
        values, online = oracle_values(learner, env, networks, sequence)
        _, frozen = oracle_values(learner, env, target, sequence)
        choosing = online if getattr(learner, "double", True) else frozen
        later = None
        for t in reversed(range(LENGTH)):
            best = np.where(sequence.next_mask[t], choosing[t], -np.inf).argmax(axis=1)
            state = next_state = None
            if sequence.state is not None:
                state = sequence.state[t]
                whole = len(sequence.next_state) == LENGTH
                next_state = sequence.next_state[t] if whole else (*sequence.state[1:], sequence.next_state[0])[t]
            agents = np.arange(env.num_agents)
            following = oracle_joint(learner, target, frozen[t, agents, best], next_state)
            if later is not None and not sequence.is_last[t]:
                following = (1 - learner.td_lambda) * following + learner.td_lambda * later
            later = sequence.reward[t] + learner.discount * sequence.discount[t] * following
            chosen = oracle_joint(learner, networks, values[t, agents, sequence.action[t]], state)
            errors.append((chosen - later) ** 2)
    by_entry = np.mean(errors, axis=0)
    if learner.team is not None:
        return by_entry.sum()
    slots = np.asarray(learner.slots(env))
    return sum(by_entry[slots == slot].mean() for slot in set(slots))


def random_batch(learner, env, ends, seed=0):
    """Sequences with all four pairs of (discount, is_last), illegal best actions, and memories to begin with."""
    rng = np.random.default_rng(seed)
    count, width = env.num_agents, 1 if learner.team else env.num_agents
    kind = rng.permuted(np.arange(ROWS * LENGTH) % 4).reshape(ROWS, LENGTH)
    if ends == "last":
        kind[:, :-1] *= 2  # (1, no end) or (0, no end) before the last step
        kind %= 4
        kind[:, -1] = np.arange(ROWS) % 4
    is_last = np.isin(kind, (1, 3)) if ends == "inside" else np.isin(kind, (1, 3)) & (np.arange(LENGTH) == LENGTH - 1)
    discount = np.where(np.isin(kind, (2, 3)), 0.0, 1.0)[..., None]
    assert len(set(zip(discount.ravel(), is_last.ravel(), strict=True))) == 4
    kept = LENGTH if ends == "inside" else 1
    mask = rng.random((ROWS, LENGTH, count, env.num_actions)) < 0.5
    mask[..., rng.integers(env.num_actions)] = True

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    def state(length):
        return normal(ROWS, length, 6) if learner.reads_state else None

    return Sequences(
        view=normal(ROWS, LENGTH, count, *env.observation_shape),
        state=state(LENGTH),
        is_first=np.concatenate([rng.random((ROWS, 1)) < 0.5, is_last[:, :-1]], axis=1),
        action=rng.integers(0, env.num_actions, (ROWS, LENGTH, count)).astype(np.int32),
        reward=normal(ROWS, LENGTH, width),
        discount=np.broadcast_to(discount, (ROWS, LENGTH, width)).astype(np.float32),
        is_last=is_last,
        next_mask=mask,
        next_view=normal(ROWS, kept, count, *env.observation_shape),
        next_state=state(kept),
        memory=normal(ROWS, count, learner.recurrent_size),
    )


def make_networks(learner, env, key):
    """Random networks, biases included, so that every gradient is informative."""
    q = learner.network(env.observation_shape, env.num_agents, env.num_actions)
    networks = {"q": learner.init_slots(q, key, env)}
    if learner.reads_state:
        networks["mixer"] = jax.vmap(learner.mixer(6, env.num_agents).init)(key[None])
    leaves, tree = jax.tree.flatten(networks)
    keys = jax.random.split(key, len(leaves))
    noise = [leaf + 0.1 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, noise)


@pytest.mark.parametrize("name", SETTINGS)
def test_loss_equals_the_oracle(name):
    """Both where episodes end inside a sequence and where only the last successor is kept; every parameter has a gradient."""
    learner = make_learner(SETTINGS[name][0], **{**SMALL, **SETTINGS[name][1]}, discount=0.9)
    env = make("spread")
    networks, target = (jax.jit(make_networks, static_argnums=(0, 1))(learner, env, jax.random.key(i)) for i in (0, 1))
    for ends in ENDS:
        batch = random_batch(learner, env, ends)
        if name.startswith("pqn"):
            target = networks
            loss = jax.jit(jax.value_and_grad(lambda n, t, b: pqn_loss(learner, env, n, t, b)))
        else:
            loss = jax.jit(jax.value_and_grad(lambda n, t, b: learner.loss(n, t, env, b)[0]))
        found, gradient = loss(networks, target, batch)
        expected = oracle_loss(learner, env, *(float64(tree) for tree in (networks, target, batch)))
        assert float(found) == pytest.approx(expected, rel=1e-5)
        for leaf in jax.tree.leaves(gradient):
            assert all(np.abs(slot).max() > 0 for slot in np.asarray(leaf))


def pqn_loss(learner, env, networks, target, batch):
    """As `PQN.update` does it: targets first, then rows."""
    learner = dataclasses.replace(learner, num_envs=ROWS)
    rows = learner.rows(batch, learner.fresh_targets(jax.lax.stop_gradient(target), env, batch))
    return learner.loss(networks, env, *rows)[0]


# --- what is stored is what was played -------------------------------------------------------------------------


@struct.dataclass
class Played:
    """A learner that only acts greedily, and what it played and stored in `spread` with episodes of five steps."""

    env: object = struct.field(pytree_node=False)
    learner: object = struct.field(pytree_node=False)
    params: dict
    before: jax.Array
    world: object
    batch: Sequences


GREEDY = {"initial_epsilon": 0.0, "final_epsilon": 0.0}


@pytest.fixture(scope="module", params=["vdn-gru", "iql-gru-groups", "qmix-groups", "pqn-gru-vdn"])
def played(request):
    name, fields = SETTINGS[request.param]
    env, learner = make("spread", horizon=5), make_learner(name, **{**SMALL, **fields, **GREEDY})

    def play(key):
        state = learner.init(key, env)
        world, _, _ = learner.collect(state.params, state.world, state.env_steps, env, key)
        following, batch, _ = learner.collect(state.params, world, state.env_steps, env, jax.random.fold_in(key, 1))
        return Played(env, learner, state.params, world.memory, following, batch)

    return jax.jit(play)(jax.random.key(0))


def test_the_training_path_repeats_the_acting_path(played):
    """Values at every step, with episodes starting and ending inside, the actions they led to, and the last memory."""
    learner, env, batch = played.learner, played.env, played.batch
    assert np.asarray(batch.is_last)[:, :-1].any() and np.asarray(batch.is_first)[:, 1:].any()
    np.testing.assert_array_equal(batch.memory, played.before)
    memories, q = jax.jit(lambda s: learner.unrolled(played.params, env, s))(batch)
    actions = jnp.swapaxes(batch.action, 0, 1)
    np.testing.assert_array_equal(value_based.best_action(q, jnp.ones(q.shape, bool)), actions)
    np.testing.assert_allclose(memories[-1], played.world.memory, atol=1e-5)
    act = jax.jit(jax.vmap(learner.action_values, (None, 0, 0, 0)))
    memory = batch.memory
    for t in range(LENGTH):
        memory, values = act(played.params, memory, batch.view[:, t], batch.is_first[:, t])
        np.testing.assert_allclose(values, q[t], atol=1e-5)


def test_one_successor_is_enough_where_episodes_end_with_sequences(monkeypatch):
    """The same targets from T + 1 views as from all T successors; elsewhere all successors are kept."""
    env = make("spread", horizon=LENGTH)
    learner = make_learner("vdn", **SMALL, recurrent_size=4, team_reward="sum", td_lambda=0.5)
    assert value_based.ends_with_sequences(env, LENGTH) and value_based.ends_with_sequences(env, LENGTH // 2)
    assert not value_based.ends_with_sequences(env, LENGTH - 1) and not value_based.ends_with_sequences(env, 2 * LENGTH)
    assert not value_based.ends_with_sequences(make("Foraging-5x5-2p-1f-v3"), LENGTH)
    assert value_based.ends_with_sequences(make("stag_hunt", horizon=None), 7)

    def gradient(key):
        state = learner.init(key, env)
        _, batch, _ = learner.collect(state.params, state.world, state.env_steps, env, key)
        networks = {"q": state.params["q"]}
        return jax.grad(lambda n: learner.loss(n, state.target, env, batch)[0])(networks), batch

    short, batch = jax.jit(gradient)(jax.random.key(0))
    monkeypatch.setattr(value_based, "ends_with_sequences", lambda env, num_steps: False)
    whole, longer = jax.jit(lambda key: gradient(key))(jax.random.key(0))
    assert (batch.next_view.shape[1], longer.next_view.shape[1]) == (1, LENGTH) and batch.is_last[:, -1].all()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), short, whole)


# --- the replay ------------------------------------------------------------------------------------------------


def numbered(numbers):
    """Sequences that say which ones they are."""
    wide = np.asarray(numbers, np.float32)[:, None]
    return Sequences(
        **{field.name: wide for field in dataclasses.fields(Sequences) if not field.name.endswith("state")},
        state=None,
        next_state=None,
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 9))
def test_the_ring_holds_the_newest_sequences(size, count, writes):
    """After any number of writes: exactly the last ones, each whole, and only they are drawn, all of them."""
    row = lambda numbers: jax.tree.map(lambda leaf: leaf[None], numbered(numbers))  # noqa: E731
    stored = ring.empty(row(range(count)), size)
    expected = collections.deque(maxlen=size * count)
    for number in range(writes):
        new = range(1 + number * count, 1 + (number + 1) * count)
        stored = ring.write(stored, row(new), jnp.int32(number))
        expected.extend(new)
    assert sorted(stored.view.ravel().astype(int).tolist()) == sorted(
        [*expected, *[0] * (size * count - len(expected))]
    )
    drawn = ring.draw(stored, jax.random.key(writes), jnp.int32(writes), 500)
    assert set(np.asarray(drawn.view)[:, 0].astype(int)) == set(expected)
    for leaf in jax.tree.leaves(drawn):
        np.testing.assert_array_equal(leaf, drawn.view)


# --- exploration -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.6, 1.0])
def test_exploration_is_uniform_over_legal_actions(epsilon):
    q, mask = jnp.array([3.0, 1.0, 2.0, 9.0]), jnp.array([True, True, True, False])
    uniform = jnp.arange(60_000) / 60_000
    actions = value_based.explored(jnp.tile(q, (60_000, 1)), jnp.tile(mask, (60_000, 1)), uniform, epsilon)
    shares = np.bincount(np.asarray(actions), minlength=4) / 60_000
    np.testing.assert_allclose(shares, [1 - 2 * epsilon / 3, epsilon / 3, epsilon / 3, 0], atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(st.floats(2**-20, 1, width=32), st.integers(1, 15))
def test_no_rounding_explores_an_illegal_action(epsilon, legal):
    """At the largest uniform number that still explores."""
    mask = jnp.array([bool(legal >> bit & 1) for bit in range(4)])
    uniform = jnp.nextafter(jnp.float32(epsilon), jnp.float32(0))
    for number in (uniform, jnp.float32(0)):
        assert mask[value_based.explored(jnp.arange(4.0), mask, number, jnp.float32(epsilon))]


def test_epsilon_falls_by_environment_steps():
    learner = make_learner("iql", initial_epsilon=1.0, final_epsilon=0.2, anneal_steps=1000)
    epsilon = learner.epsilon(jnp.array([0, 500, 1000, 5000]))
    np.testing.assert_allclose(epsilon, [1.0, 0.6, 0.2, 0.2], atol=1e-6)


# --- when what is learned --------------------------------------------------------------------------------------


def test_learning_starts_and_targets_move_on_time():
    """Nothing moves before `learning_starts`; then the target is a copy after every `target_period` gradient steps."""
    env = make("stag_hunt", horizon=4)
    learner = make_learner(
        "iql", num_envs=2, num_steps=4, hidden_sizes=(4,), batch_size=4, learning_starts=24, target_period=2.0
    )
    update = jax.jit(lambda learner, state: learner.update(state, env))
    soft = dataclasses.replace(learner, target_period=1, target_step=0.25)
    for one in (learner, soft):
        state = jax.jit(one.init)(jax.random.key(0), env)
        for number in range(1, 7):
            old, (state, metrics) = state, update(one, state)
            moved = [
                np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (old.params, state.params)), strict=True)
            ]
            assert (max(moved) > 0) == (number >= 3) and int(state.env_steps) == 8 * number
            step = one.target_step * (number >= 3) * (number % one.target_period == 0)
            expected = old.target["q"], state.params["q"]
            expected = jax.tree.map(lambda a, b, step=step: a + step * (b - a), *expected)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), state.target["q"], expected)
    assert set(metrics) >= {"loss", "value", "td_error", "gradient_norm", "epsilon", "episode_return"}


def test_the_step_size_falls_to_zero():
    env = make("stag_hunt", horizon=4)
    learner = make_learner("pqn", num_envs=2, num_steps=4, hidden_sizes=(4,), minibatches=1, learning_rate_steps=8)
    update = jax.jit(lambda state: learner.update(state, env))
    states = [jax.jit(learner.init)(jax.random.key(0), env)]
    for _ in range(2):
        states.append(update(states[-1])[0])
    weights = [np.asarray(state.params["q"]["output"]["w"]) for state in states]
    assert np.abs(weights[1] - weights[0]).max() > 0
    np.testing.assert_array_equal(weights[2], weights[1])


# --- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("world", "learner", "fields", "message"),
    [
        (
            "omar_spread",
            "vdn",
            {},
            "VDN chooses one of A actions for each agent; Spread takes actions of shape .*=ippo",
        ),
        ("stag_hunt", "vdn", {}, "MatrixGame may pay its agents differently.*team_reward='sum'.*learner=iql"),
        ("coin_game", "pqn", {"mixing": "vdn"}, "CoinGame may pay .*field of PQN"),
        ("spread", "vdn", {}, "Spread may pay its agents differently"),
        ("foraging", "qmix", {}, "Foraging may pay its agents differently"),
        ("stag_hunt", "qmix", {}, "team_reward='sum'"),
    ],
)
def test_worlds_that_do_not_fit_are_refused(world, learner, fields, message):
    with pytest.raises(ValueError, match=message):
        make_learner(learner, **fields).validate(make(world))


def test_worlds_that_fit_are_accepted():
    for name, fields in [("iql", {}), ("pqn", {}), ("vdn", {"team_reward": "sum"}), ("qmix", {"team_reward": "mean"})]:
        make_learner(name, **fields).validate(make("stag_hunt"))
    for world, more in (("two_step", {}), ("tag", {"prey": "flee"}), ("climbing", {})):
        make_learner("qmix").validate(make(world, **more))
    make_learner("vdn").validate(CommonReward(make("stag_hunt")))


@pytest.mark.parametrize(
    ("learner", "fields", "message"),
    [
        ("vdn", {"team_reward": "first"}, "team_reward='first': must be one of common, sum, mean"),
        ("qmix", {"mixing_size": 0}, "mixing_size=0"),
        ("iql", {"final_epsilon": 1.5}, "final_epsilon=1.5"),
        ("iql", {"target_step": 0.0}, "target_step=0.0: must be > 0"),
        ("iql", {"buffer_size": 0}, "buffer_size=0"),
        ("pqn", {"mixing": "qmix"}, "mixing='qmix'"),
        ("pqn", {"minibatches": 7}, "minibatches=7: must divide num_envs \\* num_steps = 2048"),
        ("pqn", {"minibatches": 7, "recurrent_size": 4}, "must divide num_envs = 128"),
    ],
)
def test_bad_fields_are_refused(learner, fields, message):
    with pytest.raises(ValueError, match=message):
        make_learner(learner, **fields)
    with pytest.raises(TypeError, match=r"double=1|layer_norm=1|hypernet_sizes=8"):
        make_learner(learner, **{"qmix": {"hypernet_sizes": 8}, "pqn": {"layer_norm": 1}}.get(learner, {"double": 1}))


@pytest.mark.parametrize(("world", "common"), [("spread", False), ("two_step", True)])
def test_rewards_that_differ_are_not_taken_for_common(world, common):
    """In `spread` agents also pay for their own collisions: the metric is NaN, which stops a run."""
    env, learner = make(world), make_learner("vdn", **SMALL)

    def play(key):
        state = learner.init(key, env)
        return learner.collect(state.params, state.world, state.env_steps, env, key)[2]["reward_is_common"]

    found = float(jax.jit(play)(jax.random.key(1)))
    assert found == 1 if common else np.isnan(found)
