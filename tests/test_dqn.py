"""The DQN against the plain NumPy reference, its schedule, its shortcuts and its generic path."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import marl_bench
from marl_bench.algorithms import code_replay, dqn_codes, dqn_transitions
from marl_bench.algorithms.dqn import DQN
from marl_bench.algorithms.equations import adamw, adamw_init, clip_by_global_norm
from marl_bench.algorithms.networks import init_mlp, mlp
from marl_bench.envs.network_dilemma import NetworkDilemma
from marl_bench.experiments import numpy_dqn

SIDE, BUFFER, STEPS = 6, 20, 47  # the ring wraps round twice


def to_numpy(network) -> dict[str, np.ndarray]:
    first, second = network
    found = {"w1": first["w"], "b1": first["b"], "w2": second["w"], "b2": second["b"]}
    return {name: np.asarray(leaf, np.float64) for name, leaf in found.items()}


def played(env: NetworkDilemma, steps: int, buffer: int):
    """A world whose replay holds random play, with the joint actions [steps + 1, N] that led to it."""
    learner = DQN(buffer_steps=buffer)
    world = dqn_codes.init(learner, env, jax.random.key(0))
    actions = np.random.default_rng(0).integers(0, 2, (steps, env.num_agents)).astype(np.int32)

    def step(world, xs):
        time, action = xs
        env_state, _ = env.step(world.env_state, action)
        replay = code_replay.add(world.replay, env.observation_code(env_state), time + 1)
        return dqn_codes.CodeWorld(env_state, replay), None

    first = np.asarray(world.env_state.actions)[None]
    world, _ = jax.jit(lambda w: jax.lax.scan(step, w, (jnp.arange(steps), jnp.asarray(actions))))(world)
    return world, np.concatenate([first, actions])


@functools.cache
def played_codes(steps: int):
    """A world on a random graph after `steps` steps, and every agent's code at each of them [steps + 1, N]."""
    env = NetworkDilemma(side=SIDE, topology="random").prepare(2)
    world, history = played(env, steps, BUFFER)
    state, _ = env.reset(jax.random.key(0))
    codes = jax.vmap(lambda actions: env.observation_code(state.replace(actions=actions)))
    return env, world, np.asarray(codes(jnp.asarray(history, jnp.uint8)))


windows = jax.jit(code_replay.windows, static_argnums=4)


@pytest.mark.parametrize("n_step", [1, 3, 5, 8])
@pytest.mark.parametrize("steps", [1, 4, 12, STEPS])
def test_windows_equal_the_history(steps: int, n_step: int) -> None:
    """Every stored (step, agent) pair, with wrap-around, and windows longer than one packed word (n = 8)."""
    env, world, codes_at = played_codes(steps)
    newest, filled = steps - 1, min(steps, BUFFER)
    age, agent = (x.reshape(-1) for x in np.meshgrid(np.arange(filled), np.arange(env.num_agents)))
    found = np.asarray(windows(world.replay, jnp.asarray(age), jnp.asarray(agent), jnp.int32(newest), n_step))
    for k in range(n_step + 1):
        time = np.minimum(newest - age + k, newest + 1)
        np.testing.assert_array_equal(found[k], codes_at[time, agent], err_msg=f"offset {k}")


@jax.jit
def loss_and_gradient(learner: DQN, env, world, network, target, newest, word):
    """Of a batch drawn with `word` from the replay of the codes."""
    batch = dqn_codes.sample(learner, env, world, None, newest, word)
    return _on_batch(dqn_codes, learner, env, network, target, batch)


def _on_batch(module, learner: DQN, env, network, target, batch):
    goal = module.targets(learner, env, network, target, batch)
    objective = lambda net, one, wanted: learner.loss(module.predictions(env, net, one), wanted)  # noqa: E731
    return jax.vmap(jax.value_and_grad(objective))(network, batch, goal)


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("steps", [2, 9, STEPS])
def test_loss_and_gradient_equal_the_float64_oracle(steps: int, double: bool) -> None:
    """Random replay contents, young records (1-step fallback) and old ones, wrap-around, double and plain Q."""
    env = NetworkDilemma(side=SIDE, dilemma_strength=0.3)
    world, history = played(env, steps, BUFFER)
    learner = DQN(buffer_steps=BUFFER, double=double, batch_size=64)
    network, target = (jax.tree.map(lambda x: 3 * x[None], init_mlp(jax.random.key(s), (5, 96, 2))) for s in (1, 2))
    word = jax.random.bits(jax.random.key(3), (2, 1, 64), jnp.uint32)
    loss, gradient = loss_and_gradient(learner, env, world, network, target, jnp.int32(steps - 1), word)

    unit = np.asarray(word >> 8, np.float64) / 2**24
    filled = min(steps, BUFFER)
    age, agent = (unit[0, 0] * filled).astype(int), (unit[1, 0] * env.num_agents).astype(int)
    reward, sucker, temptation, punishment = env.payoffs()
    record = numpy_dqn.batch_from_history(
        history, np.asarray(env.neighbor_table), np.array([[reward, sucker], [temptation, punishment]], np.float64),
        steps - 1 - age, agent, steps - 1, learner.n_step,
    )  # fmt: skip
    single = lambda net: to_numpy(jax.tree.map(lambda x: x[0], net))  # noqa: E731
    expected_loss, expected = numpy_dqn.loss_and_gradient(single(network), single(target), record, 0.99, 5, double)
    assert float(loss[0]) == pytest.approx(float(expected_loss), rel=1e-5)
    for name, value in single(gradient).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-5 * np.abs(expected[name]).max() + 1e-7, err_msg=name)
    assert (age < learner.n_step - 1).any(), "the batch must contain 1-step records"


def test_replay_covers_exactly_the_last_100_steps() -> None:
    """900 agents, default buffer: ages 0 ... 99, 96 % of them old enough for 5 steps."""
    env, learner = NetworkDilemma(), DQN()
    world = dqn_codes.init(learner, env, jax.random.key(0))
    assert world.replay.num_steps == 100 and world.replay.ring.shape == (101, 900)
    sample = jax.jit(lambda newest, word: dqn_codes.sample(learner, env, world, None, newest, word).discount)
    for newest, share in ((5, 2 / 6), (8, 5 / 9), (99, 0.96), (500, 0.96)):
        word = jax.random.bits(jax.random.key(newest), (2, 1, 200_000), jnp.uint32)
        long = np.asarray(sample(jnp.int32(newest), word)) < 0.98
        assert long.mean() == pytest.approx(share, abs=0.005)
    ages = np.unique((np.asarray(word[0] >> 8) / 2**24 * 100).astype(int))
    assert ages.min() == 0 and ages.max() == 99


def test_schedule_of_a_full_run() -> None:
    """Spec section 3.2 and 7.1: 23,750 updates, 47 target copies, temperatures."""
    learner = DQN(initial_temperature=0.66)
    assert learner.num_updates(learner.default_steps) == 23_750
    counts = np.arange(4, 95_001, 4)
    assert (counts // 2000 > (counts - 4) // 2000).sum() == 47
    tau = [float(learner.temperature(jnp.int32(c))) for c in (0, 47_500, 95_000, 99_000)]
    assert tau == pytest.approx([0.66, 0.38, 0.10, 0.10], abs=1e-6)
    params = init_mlp(jax.random.key(0), (5, 96, 2))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 770
    bounds = [float(jnp.abs(layer[k]).max()) for layer in params for k in ("w", "b")]
    assert bounds[0] <= 5**-0.5 and bounds[1] <= 5**-0.5 and bounds[2] <= 96**-0.5 and bounds[3] <= 96**-0.5


def test_target_network_is_copied_when_the_counter_passes_a_multiple() -> None:
    env, learner = NetworkDilemma(side=4), DQN(batch_size=8, target_period=8, buffer_steps=10)
    state = learner.init(jax.random.key(0), env)
    update = jax.jit(learner.update)
    same = []
    for _ in range(4):
        state, _ = update(state, env)
        pairs = zip(jax.tree.leaves(state.target), jax.tree.leaves(state.params["network"]), strict=True)
        same.append(all(bool((a == b).all()) for a, b in pairs))
    assert same == [False, True, False, True]


def test_adamw_equals_optax() -> None:
    params = init_mlp(jax.random.key(0), (5, 8, 2))
    ours, state = params, adamw_init(params)
    reference = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(1e-2, weight_decay=1e-2))
    theirs, opt_state = params, reference.init(params)

    @jax.jit
    def both(step, ours, state, theirs, opt_state):
        gradient = jax.tree.map(lambda p: jnp.sin(p * 50 + step), params)
        updates, opt_state = reference.update(gradient, opt_state, theirs)
        clipped = clip_by_global_norm(gradient, 0.5)
        ours, state = adamw(ours, clipped, state, learning_rate=1e-2, weight_decay=1e-2)
        return ours, state, optax.apply_updates(theirs, updates), opt_state

    for step in range(200):
        ours, state, theirs, opt_state = both(step, ours, state, theirs, opt_state)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)


def test_acting_frequencies_follow_the_policy() -> None:
    probabilities = jnp.asarray([[[0.2, 0.5, 0.3], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
    code = jnp.asarray(np.repeat([0, 1, 2], 40_000), jnp.uint8)
    word = jax.random.bits(jax.random.key(0), code.shape, jnp.uint32)
    actions = np.asarray(dqn_codes.choose_actions(probabilities, code, None, word)).reshape(3, -1)
    for row, expected in zip(actions, np.asarray(probabilities[0]), strict=True):
        np.testing.assert_allclose(np.bincount(row, minlength=3) / row.size, expected, atol=0.01)
    assert (actions[1] == 0).all() and (actions[2] == 2).all()


@pytest.mark.parametrize("sharing", ["grouped", "independent"])
def test_groups_partition_the_agents_and_use_their_own_network(sharing: str) -> None:
    env = NetworkDilemma(side=4)
    learner = DQN(sharing=sharing, num_groups=4 if sharing == "grouped" else 1, batch_size=8, buffer_steps=10)
    state = learner.init(jax.random.key(0), env)
    members, group = np.asarray(state.members), np.asarray(state.params["group"])
    assert sorted(members.reshape(-1)) == list(range(16))
    for g, row in enumerate(members):
        assert (group[row] == g).all()
    word = jax.random.bits(jax.random.key(1), (2, len(members), 8), jnp.uint32)
    env_state, _ = env.reset(jax.random.key(2))
    code = env.observation_code(env_state)

    @jax.jit
    def greedy(network, group, code, word):
        tables = dqn_codes.q_tables(env, network, jnp.zeros(0))
        return dqn_codes.choose_actions(jax.nn.softmax(tables * 1e5), code, group, word)

    actions = greedy(state.params["network"], state.params["group"], code, word[0].reshape(-1)[:16])
    values = jax.jit(mlp)
    networks = [jax.tree.map(lambda leaf, g=g: np.asarray(leaf)[g], state.params["network"]) for g in group]
    views = env.code_observations()[np.asarray(code)]
    expected = [int(np.argmax(values(*pair))) for pair in zip(networks, views, strict=True)]
    np.testing.assert_array_equal(actions, expected)
    # Every group's network moves, and no two groups move alike: each has its own data and gradient.
    after, update = state, jax.jit(learner.update)
    for _ in range(4):
        after, _ = update(after, env)
    old, new = (np.asarray(s.params["network"][1]["b"]) for s in (state, after))
    moves = (new - old).reshape(len(members), -1)
    assert (np.abs(moves) > 0).any(axis=1).all()
    assert len({tuple(move) for move in moves.tolist()}) == len(members)


def test_update_waits_for_a_full_batch() -> None:
    """Spec section 3.2: a 9-agent group first learns at t = 28."""
    env = NetworkDilemma(side=6)
    learner = DQN(sharing="grouped", num_groups=4, buffer_steps=1000)
    state = learner.init(jax.random.key(0), env)
    update, first = jax.jit(learner.update), None
    for iteration in range(9):
        before = state.params["network"]
        state, _ = update(state, env)
        if first is None and any(
            bool((a != b).any())
            for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(state.params["network"]), strict=True)
        ):
            first = 4 * iteration
    assert first == 28


def test_learner_inputs_follow_the_schedule() -> None:
    """Spec section 6.3: progress = c / A with the first value repeated; temperature feature = 1 - progress."""
    env, learner = NetworkDilemma(side=4, observe="both"), DQN(anneal_steps=100)
    found = np.asarray(learner.training_inputs(env, jnp.asarray([0, 1, 2, 50, 100, 150])))
    progress = np.array([0.01, 0.01, 0.02, 0.5, 1, 1])
    np.testing.assert_allclose(found, np.stack([1 - progress, progress], 1), atol=1e-6)
    np.testing.assert_array_equal(learner.final_inputs(env), [0, 1])


@pytest.mark.parametrize("observe", ["actions", "both"])
def test_codes_and_transitions_learn_the_same_from_the_same_data(observe: str) -> None:
    """The exact shortcut and the generic path: same records, same loss and gradient."""
    env = NetworkDilemma(side=4, observe=observe)
    learner = DQN(batch_size=32, buffer_steps=8, anneal_steps=50)
    codes, generic = (
        dqn_codes.init(learner, env, jax.random.key(0)),
        dqn_transitions.init(learner, env, jax.random.key(0)),
    )
    state = learner.init(jax.random.key(5), env)
    network, target = state.params["network"], jax.tree.map(lambda x: x * 2, state.target)
    start = codes.env_state  # both begin with the same joint action
    inner = jax.tree.map(lambda leaf: leaf[None], start)
    generic = generic.replace(env_state=generic.env_state.replace(inner=inner), view=_first_view(learner, env, start))

    @jax.jit
    def collect(codes, generic, time, word):
        policy = dqn_codes.policy(env, network)
        codes, one = dqn_codes.collect(learner, env, codes, policy, None, time, word)
        generic, other = dqn_transitions.collect(learner, env, generic, network, None, time, word)
        return codes, generic, one["cooperation_rate"], other["cooperation_rate"]

    for time in range(11):
        word = jax.random.bits(jax.random.key(time), (16,), jnp.uint32)
        codes, generic, one, other = collect(codes, generic, jnp.int32(time), word)
        assert float(one) == float(other)
    word = jax.random.bits(jax.random.key(99), (2, 1, 32), jnp.uint32)

    @jax.jit
    def results(codes, generic):
        pairs = ((dqn_codes, codes), (dqn_transitions, generic))
        batches = [module.sample(learner, env, world, None, jnp.int32(10), word) for module, world in pairs]
        return [
            _on_batch(module, learner, env, network, target, batch)
            for (module, _), batch in zip(pairs, batches, strict=True)
        ]

    for x, y in zip(*map(jax.tree.leaves, results(codes, generic)), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)


def _first_view(learner, env, env_state):
    views = jnp.asarray(env.code_observations())[env.observation_code(env_state).astype(jnp.int32)]
    return dqn_transitions.with_inputs(views[None], learner.training_inputs(env, jnp.int32(0)))


@pytest.mark.parametrize("sharing", ["shared", "grouped", "independent"])
def test_seed_decides_everything(sharing: str) -> None:
    env = NetworkDilemma(side=4)
    learner = DQN(sharing=sharing, num_groups=4 if sharing == "grouped" else 1, batch_size=8, buffer_steps=10)
    run = jax.jit(lambda key: learner.update(learner.init(key, env), env)[0])
    one, again, other = (
        jax.tree.map(np.asarray, (s.params, s.world)) for s in map(run, map(jax.random.key, (1, 1, 2)))
    )
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    weights = [state[0]["network"][0]["w"] for state in (one, other)]
    assert not np.array_equal(*weights)
    assert not np.array_equal(one[1].replay.ring, other[1].replay.ring)


def test_learns_the_dominant_action_of_a_one_shot_dilemma() -> None:
    """Golden: in the one-shot prisoner's dilemma Q(D) - Q(C) is the temptation against the partner's play."""
    env = marl_bench.make("matrix_game", game="prisoners_dilemma", horizon=1)
    learner = DQN(
        learning_rate=3e-3,
        batch_size=64,
        num_envs=8,
        n_step=1,
        anneal_steps=2000,
        evaluation_steps=400,
        target_period=200,
    )
    state = learner.init(jax.random.key(0), env)
    state, _ = jax.jit(lambda s: jax.lax.scan(lambda c, _: learner.update(c, env), s, None, length=500))(state)
    result = learner.evaluate(state, env)
    assert float(result["cooperation_rate"]) < 0.05
    assert float(result["q_signed_gap"]) < -0.8  # P - S = 1 against a defector
    assert float(result["return_mean_per_agent"]) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rate": -0.1}, "learning_rate=-0.1: must be > 0"),
        ({"initial_temperature": 0.0}, "initial_temperature=0.0: must be > 0"),
        ({"evaluation_temperature": -1.0}, "must be > 0"),
        ({"discount": 1.5}, "discount=1.5: must be >= 0 and < 1"),
        ({"discount": float("nan")}, "discount=nan"),
        ({"num_groups": 0}, "num_groups=0: must be >= 1"),
        ({"num_groups": 3}, "'grouped' needs num_groups"),
        ({"sharing": "grouped"}, "'grouped' needs num_groups"),
        ({"sharing": "shard"}, "did you mean 'shared'"),
        ({"n_step": 0}, "n_step=0"),
        ({"n_step": 200}, "buffer_steps=100: must be >= n_step=200"),
        ({"hidden_sizes": (0,)}, "hidden_sizes"),
        ({"hidden_sizes": [96]}, "hidden_sizes"),
        ({"double": 1}, "double=1"),
        ({"batch_size": 2.5}, "must be an integer"),
        ({"initial_epsilon": 0.5}, "with 'epsilon' only"),
        ({"exploration": "epsilon"}, "give it with 'epsilon'"),
    ],
)
def test_bad_fields_are_named(fields: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        DQN(**fields)


def test_bad_combinations_are_named() -> None:
    with pytest.raises(ValueError, match="num_groups=7 does not divide the 900 agents of NetworkDilemma"):
        DQN(sharing="grouped", num_groups=7).validate(NetworkDilemma())
    with pytest.raises(ValueError, match="steps=4000: must be at least"):
        DQN().num_updates(4000)
    with pytest.raises(ValueError, match="use steps=100000"):
        DQN().num_updates(100_002)


SECOND_VALUES = {
    "sharing": {"sharing": "independent"},
    "num_groups": {"sharing": "grouped", "num_groups": 2},
    "hidden_sizes": {"hidden_sizes": (8,)},
    "double": {"double": False},
    "n_step": {"n_step": 2},
    "batch_size": {"batch_size": 16},
    "buffer_steps": {"buffer_steps": 6},
    "update_period": {"update_period": 2},
    "num_envs": {"num_envs": 2},
    "exploration": {"exploration": "epsilon", "initial_epsilon": 0.5, "final_epsilon": 0.1, "evaluation_epsilon": 0.0},
    "evaluation_steps": {"evaluation_steps": 6},
    "target_period": {"target_period": 4},
    "learning_rate": {"learning_rate": 1e-3},
    "weight_decay": {"weight_decay": 0.5},
    "max_grad_norm": {"max_grad_norm": 1e-9},
    "huber_delta": {"huber_delta": 0.01},
    "discount": {"discount": 0.5},
    "initial_temperature": {"initial_temperature": 2.0},
    "final_temperature": {"final_temperature": 0.5},
    "evaluation_temperature": {"evaluation_temperature": 5.0},
    "anneal_steps": {"anneal_steps": 4},
}
EPSILON = {"exploration": "epsilon", "initial_epsilon": 0.5, "final_epsilon": 0.1, "evaluation_epsilon": 0.0}


def _outcome(learner: DQN) -> str:
    """Everything that six updates and an evaluation leave behind, as text."""
    return "|".join(str(np.asarray(leaf).tolist()) for leaf in jax.tree.leaves(_six_updates(learner)))


@jax.jit
def _six_updates(learner: DQN):
    """One program for all learners that differ in leaves only."""
    env = NetworkDilemma(side=4)
    state = learner.init(jax.random.key(0), env)
    state, _ = jax.lax.scan(lambda carry, _: learner.update(carry, env), state, None, length=6)
    return state.params, state.target, learner.evaluate(state, env)


@pytest.fixture(scope="module")
def base_outcome() -> str:
    return _outcome(DQN(**BASE))


BASE = {
    "batch_size": 8,
    "buffer_steps": 8,
    "n_step": 3,
    "anneal_steps": 50,
    "evaluation_steps": 4,
    "learning_rate": 0.05,
}


def test_every_field_is_covered() -> None:
    names = {f.name for f in dataclasses.fields(DQN)}
    assert names == set(SECOND_VALUES) | {"initial_epsilon", "final_epsilon", "evaluation_epsilon"}


@pytest.mark.parametrize("name", SECOND_VALUES)
def test_every_field_matters(name: str, base_outcome: str) -> None:
    assert _outcome(DQN(**{**BASE, **SECOND_VALUES[name]})) != base_outcome


@pytest.mark.parametrize("name", ["initial_epsilon", "final_epsilon", "evaluation_epsilon"])
def test_every_epsilon_field_matters(name: str) -> None:
    base = {**BASE, **EPSILON, "anneal_steps": 2}
    assert _outcome(DQN(**base)) != _outcome(DQN(**{**base, name: 0.9}))
