"""`maddpg` and `matd3`: losses and gradients against NumPy, delays, targets, replay, known games."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import marl_bench
from marl_bench import specs
from marl_bench.algorithms import ring, slots
from marl_bench.algorithms.maddpg import MADDPG
from marl_bench.algorithms.matd3 import MATD3
from marl_bench.algorithms.rollout import Steps
from marl_bench.environment import Environment, Observation
from marl_bench.learner import Cell

N, D, n, GAMMA = 2, 2, 24, 0.9

start = jax.jit(lambda learner, seed, env: learner.init(jax.random.key(seed), env))
LOW, HIGH = np.array([-0.5, -0.5], np.float32)[:, None], np.array([1.5, 1.0], np.float32)[:, None]


@struct.dataclass
class Line(Environment):
    """Two agents walk round 3 places together, whatever they do, and are paid 1 + place - (action - wish)^2 each.

    After 3 steps the episode ends: the game itself where `ends` is 1, only its time where it is 0.
    """

    ends: float = 0.0

    num_agents = property(lambda self: N)
    num_actions = property(lambda self: 0)
    observation_shape = property(lambda self: (4,))
    fixed_horizon = property(lambda self: 3)
    action_spec = property(lambda self: specs.BoundedArray((N, 1), np.float32, "action", LOW, HIGH))
    WISH = np.array([0.25, 0.5], np.float32)

    def observed(self, step):
        place = jnp.broadcast_to(jax.nn.one_hot(step % 3, 3), (N, 3))
        return self.observe_view(jnp.concatenate([place, jnp.eye(N)[:, :1]], axis=1), step)

    def global_state(self, state):
        return jax.nn.one_hot(state % 3, 3)

    def reset(self, key):
        del key
        return jnp.int32(0), self.restart(self.observed(jnp.int32(0)))

    def step(self, state, actions):
        reward = 1.0 + state - jnp.square(actions[:, 0] - self.WISH)
        state = state + 1
        last = state >= 3
        terminated = last & (jnp.asarray(self.ends) > 0)
        return state, self.transition(reward, self.observed(state), terminated=terminated, truncated=last)


@struct.dataclass
class Sum(Environment):
    """One step, terminated: r = -(a1 + a2 - 0.5)^2 - 0.1 (a1 - a2)^2 for both; best at a1 = a2 = 0.25."""

    bounded: bool = struct.field(pytree_node=False, default=True)

    num_agents = property(lambda self: N)
    num_actions = property(lambda self: 0)
    observation_shape = property(lambda self: (1,))
    fixed_horizon = property(lambda self: 1)

    @property
    def action_spec(self):
        if not self.bounded:
            return specs.BoundedArray((N, 1), np.float32, "action")
        return specs.BoundedArray((N, 1), np.float32, "action", LOW, HIGH)

    def reset(self, key):
        del key
        return jnp.int32(0), self.restart(self.observe_view(jnp.ones((N, 1)), jnp.int32(0)))

    def step(self, state, actions):
        first, second = actions[0, 0], actions[1, 0]
        reward = -jnp.square(first + second - 0.5) - 0.1 * jnp.square(first - second)
        view = self.observe_view(jnp.ones((N, 1)), state + 1)
        return state + 1, self.transition(jnp.broadcast_to(reward, (N,)), view, terminated=True)


# --- losses against NumPy ------------------------------------------------------------------------------------

SPREAD = marl_bench.make("spread", actions="continuous", agents=N)
SMALL = {"hidden_sizes": (6,), "num_envs": 2, "num_steps": 2, "buffer_steps": 4, "batch_size": 4, "discount": GAMMA}
CASES = {
    "maddpg state": MADDPG(**SMALL),
    "maddpg views shared": MADDPG(**SMALL, critic_input="views", sharing="shared", agent_id=True),
    "maddpg own tanh": MADDPG(**SMALL, critic_input="own", activation="tanh"),
    "matd3 state shared": MATD3(**SMALL, sharing="shared"),
    "matd3 own shared": MATD3(**SMALL, critic_input="own", sharing="shared", agent_id=True),
    "matd3 views tanh": MATD3(**SMALL, critic_input="views", activation="tanh"),
}


def perceptron(params, x, activation):
    """[n, in] -> [n, out] in the precision of the parameters; complex numbers pass for the complex step."""
    for layer in params["dense"]:
        x = x @ layer["w"] + layer["b"]
        x = np.tanh(x) if activation == "tanh" else np.where(x.real > 0, x, 0)
    return x @ params["output"]["w"] + params["output"]["b"]


class Oracle:
    """The learner's equations written once more, agent by agent."""

    def __init__(self, learner, batch):
        self.learner, self.batch = learner, jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), batch)
        self.slot = learner.slots(SPREAD)

    def network(self, params, agent):
        return jax.tree.map(lambda leaf: leaf[self.slot[agent]], params)

    def with_id(self, x, agent, wanted):
        return np.concatenate([x, np.broadcast_to(np.eye(N)[agent], (len(x), N))], axis=1) if wanted else x

    def output(self, actor, agent, view):
        read = self.with_id(view[agent], agent, self.learner.agent_id)
        return perceptron(self.network(actor, agent), read, self.learner.activation)

    def values(self, critic, agent, view, state, actions):
        """[C] values [n] of the agent's critics; actions: [N][n, D]."""
        kind = self.learner.critic_input
        if kind == "own":
            parts = [view[agent], actions[agent]]
        else:
            parts = [state if kind == "state" else np.concatenate(list(view), axis=1), *actions]
        read = self.with_id(
            np.concatenate(parts, axis=1),
            agent,
            self.learner.agent_id if kind == "own" else self.slot[0] == self.slot[1],
        )
        params = self.network(critic, agent)
        return [
            perceptron(jax.tree.map(lambda leaf, c=c: leaf[c], params), read, self.learner.activation)[:, 0]
            for c in range(self.learner.num_critics)
        ]

    def targets(self, target, noise):
        b = self.batch
        actions = [np.clip(np.tanh(self.output(target["actor"], j, b.next_view)) + noise[j], -1, 1) for j in range(N)]
        values = [np.min(self.values(target["critic"], i, b.next_view, b.next_state, actions), 0) for i in range(N)]
        return np.stack([b.reward[i] + GAMMA * b.discount[i] * values[i] for i in range(N)])

    def weight(self, agent):
        return 1 / self.slot.count(self.slot[agent])

    def critic_loss(self, critic, target):
        b, loss = self.batch, 0.0
        for i in range(N):
            for value in self.values(critic, i, b.view, b.state, list(b.action)):
                loss = loss + self.weight(i) * np.mean((value - target[i]) ** 2)
        return loss

    def actor_loss(self, actor, critic):
        b, loss = self.batch, 0.0
        for i in range(N):
            output = self.output(actor, i, b.view)
            actions = [np.tanh(output) if j == i else b.action[j] for j in range(N)]
            value = self.values(critic, i, b.view, b.state, actions)[0]
            loss = loss + self.weight(i) * (-np.mean(value) + self.learner.action_penalty * np.mean(output**2))
        return loss


def complex_step(loss, params):
    """Gradient of `loss` by the complex step: exact to rounding, and without a chain rule."""
    leaves, structure = jax.tree.flatten(params)
    gradient = [np.zeros(leaf.shape) for leaf in leaves]
    for place, leaf in enumerate(leaves):
        for entry in np.ndindex(leaf.shape):
            moved = [other.astype(complex) if here == place else other for here, other in enumerate(leaves)]
            moved[place][entry] += 1e-30j
            gradient[place][entry] = loss(jax.tree.unflatten(structure, moved)).imag / 1e-30
    return jax.tree.unflatten(structure, gradient)


def drawn_networks(learner, seed):
    """Parameters of the learner's shapes, none of them zero, in float32 and float64."""
    state = jax.eval_shape(learner.init, jax.random.key(0), SPREAD)
    rng = np.random.default_rng(seed)

    def draw(leaf):
        return rng.normal(0, 0.4, leaf.shape).astype(np.float32)

    networks = jax.tree.map(draw, {name: state.params[name] for name in ("actor", "critic")})
    return networks, jax.tree.map(np.float64, networks)


def drawn_batch(seed=0):
    """Random steps with all four combinations of an end and of the game's own end, through the ring: [N, n, ...]."""
    rng = np.random.default_rng(seed)
    size, state = SPREAD.observation_shape[0], 4 * N + 2 * N + 1
    shape = (n, 1, N)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    discount = np.broadcast_to(np.arange(n)[:, None, None] % 2, shape).astype(np.float32)
    is_last = np.arange(n)[:, None] // 2 % 2 == 1
    assert {(bool(a), bool(b)) for a, b in zip(discount[:, 0, 0], is_last[:, 0], strict=True)} == set(
        itertools.product((False, True), repeat=2)
    )
    empty = np.zeros((*shape, 0), bool)
    steps = Steps(
        view=normal(*shape, size),
        mask=empty,
        state=normal(n, 1, state),
        is_first=np.zeros((n, 1), bool),
        action=np.full((*shape, D), np.nan, np.float32),
        reward=normal(*shape),
        discount=discount,
        is_last=is_last,
        next_view=normal(*shape, size),
        next_mask=empty,
        next_state=normal(n, 1, state),
        extra=rng.uniform(-1, 1, (*shape, D)).astype(np.float32),
    )
    stored = ring.of_steps(jax.tree.map(jnp.asarray, steps))
    batch = jax.tree.map(lambda leaf: jnp.swapaxes(leaf[:, 0], 0, 1), stored)
    return dataclasses.replace(batch, state=stored.state[:, 0], next_state=stored.next_state[:, 0])


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_those_of_the_papers(name):
    learner, batch = CASES[name], drawn_batch()
    networks, exact = drawn_networks(learner, 1)
    target, exact_target = drawn_networks(learner, 2)
    oracle, key = Oracle(learner, batch), jax.random.key(3)
    noise = np.zeros((N, n, D))
    if isinstance(learner, MATD3):
        normal = np.asarray(jax.random.normal(key, (N, n, D)), np.float64)
        noise = np.clip(learner.target_noise * normal, -learner.target_noise_clip, learner.target_noise_clip)

    @jax.jit
    def ours(networks, target):
        goal = learner.targets(target, SPREAD, batch, key)
        critic = jax.value_and_grad(learner.critic_loss, has_aux=True)(networks["critic"], SPREAD, batch, goal)
        actor = jax.value_and_grad(learner.actor_loss, has_aux=True)(
            networks["actor"], networks["critic"], SPREAD, batch
        )
        return goal, critic, actor

    goal, ((critic_loss, _), critic_gradient), ((actor_loss, _), actor_gradient) = ours(networks, target)
    expected = oracle.targets(exact_target, noise)
    np.testing.assert_allclose(goal, expected, atol=1e-5)
    np.testing.assert_allclose(critic_loss, oracle.critic_loss(exact["critic"], expected), rtol=1e-5)
    np.testing.assert_allclose(actor_loss, oracle.actor_loss(exact["actor"], exact["critic"]), rtol=1e-5)
    wanted = complex_step(lambda critic: oracle.critic_loss(critic, expected), exact["critic"])
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, atol=1e-5), critic_gradient, wanted)
    wanted = complex_step(lambda actor: oracle.actor_loss(actor, exact["critic"]), exact["actor"])
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, atol=1e-5), actor_gradient, wanted)
    assert all((np.abs(leaf) > 0).all() for leaf in jax.tree.leaves((critic_gradient, actor_gradient)))


def test_targets_do_not_bootstrap_over_the_games_own_end_only():
    learner, batch = CASES["maddpg state"], drawn_batch()
    networks, _ = drawn_networks(learner, 2)
    goal = np.asarray(learner.targets(networks, SPREAD, batch, jax.random.key(0)))
    over = np.asarray(batch.discount) == 0
    np.testing.assert_array_equal(goal[over], np.asarray(batch.reward)[over])
    assert (np.abs(goal - np.asarray(batch.reward))[~over] > 1e-4).all()


def test_blur_of_the_target_actions_is_clipped():
    action = jnp.linspace(-0.95, 0.95, 4096).reshape(2, 1024, 2)
    key = jax.random.key(0)
    wide = dataclasses.replace(CASES["matd3 state shared"], target_noise=10.0, target_noise_clip=0.3)
    moved = np.asarray(wide.target_action(action, key) - action)
    assert np.abs(moved).max() <= 0.3 + 1e-6
    assert np.isclose(np.abs(moved), 0.3, atol=1e-5).mean() > 0.8
    assert np.abs(wide.target_action(action, key)).max() == 1.0
    narrow = dataclasses.replace(wide, target_noise=0.05)
    assert np.isclose(np.std(narrow.target_action(jnp.zeros_like(action), key)), 0.05, rtol=0.05)
    np.testing.assert_array_equal(dataclasses.replace(wide, target_noise=0.0).target_action(action, key), action)


# --- replay --------------------------------------------------------------------------------------------------


def counted(first, length):
    """Steps whose every entry is their number."""
    number = jnp.arange(first, first + length, dtype=jnp.float32)[:, None, None] * jnp.ones((1, 3, N))
    wide = number[..., None]
    return ring.Transitions(wide, number, wide, number, number, wide, number)


def test_ring_keeps_the_last_steps_and_draws_only_what_was_written():
    kept = ring.empty(counted(1, 2), 6)
    assert all((leaf == 0).all() and leaf.shape[:2] == (6, 3) for leaf in jax.tree.leaves(kept))
    written = {0: [1, 2], 1: [1, 2, 3, 4], 2: [1, 2, 3, 4, 5, 6], 3: [3, 4, 5, 6, 7, 8], 6: [9, 10, 11, 12, 13, 14]}
    for count in range(7):
        kept = ring.write(kept, counted(1 + 2 * count, 2), jnp.int32(count))
        rows = jnp.int32(2 * (count + 1))
        drawn = ring.sample(kept, jax.random.key(count), rows, 200)
        assert drawn.view.shape == (N, 200, 1) and drawn.state.shape == (200, N) and drawn.reward.shape == (N, 200)
        if count in written:
            assert sorted(np.unique(drawn.reward)) == written[count]
        for leaf in jax.tree.leaves(dataclasses.replace(drawn, state=None, next_state=None)):
            np.testing.assert_array_equal(leaf.reshape(N, 200), drawn.reward)
        np.testing.assert_array_equal(drawn.state[:, 0], drawn.reward[0])


def test_draws_are_uniform_over_steps_and_copies():
    kept = dataclasses.replace(counted(0, 4), reward=jnp.arange(12.0).reshape(4, 3, 1) * jnp.ones(N))
    drawn = np.asarray(ring.sample(kept, jax.random.key(0), jnp.int32(9), 12_000).reward[0])
    counts = np.bincount(drawn.astype(int), minlength=12)
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)


LINE = MADDPG(num_envs=2, num_steps=4, buffer_steps=8, batch_size=4, hidden_sizes=(4,), learning_starts=8)


def test_true_successors_are_stored():
    @jax.jit
    def played(env):
        state = LINE.init(jax.random.key(0), env)
        return LINE.play(state.params, state.world, env, jnp.int32(0), jax.random.key(1))[1:]

    for ends in (0.0, 1.0):
        steps, metrics = played(Line(ends))
        place = np.argmax(steps.view[..., :3], -1)
        np.testing.assert_array_equal(place[:, 0, 0], [0, 1, 2, 0])
        np.testing.assert_array_equal(np.argmax(steps.next_view[..., :3], -1), (place + 1) % 3)
        np.testing.assert_array_equal(np.argmax(steps.next_state, -1), (np.argmax(steps.state, -1) + 1) % 3)
        np.testing.assert_array_equal(steps.discount[:, 0, 0], [1, 1, 1 - ends, 1])
        world = LOW[:, 0] + 0.5 * (np.asarray(steps.action[..., 0]) + 1) * (HIGH - LOW)[:, 0]
        np.testing.assert_allclose(steps.reward, 1 + place - (world - Line.WISH) ** 2, rtol=1e-5)
        assert np.isclose(metrics["noise"], 0.3)


def test_actions_are_uniform_at_first_then_noisy():
    learner = dataclasses.replace(LINE, num_envs=1024, noise=0.2, noise_final=0.02, noise_steps=100)

    @jax.jit
    def played(env_steps):
        state = learner.init(jax.random.key(0), Line())
        _, steps, metrics = learner.play(state.params, state.world, Line(), env_steps, jax.random.key(1))
        views = jnp.swapaxes(steps.view.reshape(-1, N, 4), 0, 1)
        policy = jnp.tanh(learner.outputs(state.params["actor"], learner.slots(Line()), views))
        return steps.action.reshape(-1, N), policy[..., 0].T, metrics["noise"]

    uniform = played(jnp.int32(7))[0]
    shares = np.histogram(uniform, 10, (-1, 1))[0] / uniform.size
    assert np.abs(shares - 0.1).max() < 0.015
    for env_steps, sigma in ((8, 0.2 - 0.18 * 0.08), (50, 0.11), (1000, 0.02)):
        action, policy, noise = played(jnp.int32(env_steps))
        assert np.isclose(noise, sigma) and np.isclose(np.std(action - policy), sigma, rtol=0.05)
        assert np.abs(action).max() <= 1


# --- acting --------------------------------------------------------------------------------------------------


def test_agents_act_on_their_own_view_within_bounds():
    learner = MATD3(hidden_sizes=(8,), noise_final=0.5)
    params = start(learner, 0, Line()).params
    params["actor"]["output"]["w"] = params["actor"]["output"]["w"] * 100
    params["actor"]["output"]["b"] = jnp.array([[0.3], [-5.0]])
    view = jax.random.normal(jax.random.key(1), (N, 4))

    chosen = jax.jit(learner.act, static_argnums=4)

    def act(view, key=0, greedy=True):
        observation = Observation(view, jnp.ones((N, 0), bool), jnp.int32(0))
        action, memory = chosen(params, learner.initial_memory(N), observation, jax.random.key(key), greedy)
        assert memory.shape == (N, 0) and action.shape == (N, 1)
        return np.asarray(action)

    base = act(view)
    for agent in range(N):
        changed = act(view.at[agent].set(7.0))
        assert changed[agent] != base[agent] and changed[1 - agent] == base[1 - agent]
    np.testing.assert_array_equal(base, act(view, key=5))
    noisy = np.stack([act(view, key, greedy=False) for key in range(30)])
    assert len(np.unique(noisy[:, 0])) > 10 and (noisy >= LOW).all() and (noisy <= HIGH).all()
    assert (np.isclose(noisy, LOW) | np.isclose(noisy, HIGH)).any()


# --- learning ------------------------------------------------------------------------------------------------


def test_actors_and_targets_move_after_every_second_critic_step_only():
    learner = MATD3(num_envs=2, num_steps=4, buffer_steps=8, batch_size=4, hidden_sizes=(4,), learning_starts=16)
    update, env = jax.jit(learner.update), Line()
    states = [start(learner, 0, env)]
    for _ in range(3):
        states.append(update(states[-1], env)[0])
    learned = lambda s: (s.params, s.target, s.opt_state)  # noqa: E731
    jax.tree.map(np.testing.assert_array_equal, learned(states[0]), learned(states[1]))
    for updates, state in ((1, states[2]), (2, states[3])):
        # The running product of Adam's beta_1 counts its steps.
        np.testing.assert_allclose(state.opt_state["critic"].mean_decay, 0.9 ** (4 * updates), rtol=1e-5)
        np.testing.assert_allclose(state.opt_state["actor"].mean_decay, 0.9 ** (2 * updates), rtol=1e-5)


@pytest.mark.parametrize("learner", [MADDPG, MATD3])
def test_targets_go_part_of_the_way(learner):
    learner = learner(hidden_sizes=(4,), num_steps=2, target_rate=0.25, batch_size=4, buffer_steps=2)
    networks, _ = drawn_networks(learner, 1)
    target = jax.tree.map(lambda leaf: leaf + 1.0, networks)
    adam = {name: slots.adam_init(networks[name]) for name in networks}
    batch = drawn_batch()
    learn = jax.jit(lambda *learned: learner.learn(*learned, SPREAD, lambda key: batch, jax.random.key(1)))
    new, moved, opt_state, _ = learn(networks, target, adam)
    jax.tree.map(lambda t, o, w: np.testing.assert_allclose(t, 0.75 * o + 0.25 * w, atol=1e-6), moved, target, new)
    np.testing.assert_allclose(opt_state["critic"].mean_decay, 0.9**learner.delay, rtol=1e-6)
    np.testing.assert_allclose(opt_state["actor"].mean_decay, 0.9, rtol=1e-6)
    # The first steps of Adam are as long as its step size, whatever the gradient.
    for name, length in (("actor", learner.learning_rate), ("critic", learner.delay * learner.critic_learning_rate)):
        moves = jax.tree.map(lambda a, b: np.abs(a - b).max(), networks[name], new[name])
        np.testing.assert_allclose(jax.tree.leaves(moves), length, rtol=0.02)


def test_every_slot_is_clipped_by_its_own_norm():
    params = {"w": jnp.zeros((2, 3))}
    gradient = {"w": jnp.array([[3.0, 4.0, 0.0], [0.3, 0.0, 0.4]])}
    state = slots.adam_init(params)
    _, state, norm = slots.adam_step(params, gradient, state, 0.1, 1.0)
    np.testing.assert_allclose(norm, [5.0, 0.5])
    np.testing.assert_allclose(state.mean, 0.1 * np.array([[0.6, 0.8, 0.0], [0.3, 0.0, 0.4]]), rtol=1e-5)


@functools.partial(jax.jit, static_argnums=1)
def trained(cells, updates):
    """States of a stack of cells after so many updates."""

    def run(cell):
        state = cell.learner.init(cell.key, cell.environment)
        step = lambda state, _: (cell.learner.update(state, cell.environment)[0], None)  # noqa: E731
        return jax.lax.scan(step, state, length=updates)[0]

    return jax.vmap(run)(cells)


def stacked(cells):
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *cells)


@pytest.mark.parametrize("learner", [MADDPG, pytest.param(MATD3, marks=pytest.mark.slow)])
def test_the_best_joint_action_of_a_team_game_is_found(learner):
    make = functools.partial(
        learner,
        critic_input="views",
        hidden_sizes=(32,),
        activation="tanh",
        critic_learning_rate=3e-3,
        num_envs=8,
        buffer_steps=256,
        batch_size=32,
        learning_starts=512,
        target_rate=0.05,
        noise_steps=4000,
    )
    cells = [Cell(Sum(), make(learning_rate=rate), jax.random.key(0)) for rate in (3e-3, 1e-3)]
    state = trained(stacked(cells), 200)
    observation = Observation(jnp.ones((N, 1)), jnp.ones((N, 0), bool), jnp.int32(0))
    act = lambda params: make().act(params, jnp.zeros((N, 0)), observation, jax.random.key(0), True)[0]  # noqa: E731
    action = np.asarray(jax.vmap(act)(state.params))[..., 0]
    np.testing.assert_allclose(action, 0.25, atol=0.03)
    assert (action[0] != action[1]).all()


def test_values_count_what_follows_a_truncation_but_not_an_end():
    learner = MATD3(
        critic_input="own",
        sharing="shared",
        agent_id=True,
        activation="tanh",
        hidden_sizes=(16,),
        num_envs=8,
        buffer_steps=512,
        batch_size=32,
        discount=0.8,
        learning_starts=512,
        learning_rate=3e-3,
        critic_learning_rate=5e-3,
        max_grad_norm=10.0,
        target_rate=0.05,
        action_penalty=0.0,
        target_noise=0.0,
    )
    cells = [Cell(Line(ends), learner, jax.random.key(0)) for ends in (0.0, 1.0)]
    state = trained(stacked(cells), 120)
    views = jnp.stack([Line().observed(jnp.int32(step)).agents_view for step in range(3)], axis=1)

    def judged(params):
        action = jnp.tanh(learner.outputs(params["actor"], learner.slots(Line()), views))
        value = learner.values(params["critic"], Line(), views, None, action)[..., 0]
        return action, value

    action, value = jax.vmap(judged)(state.params)
    world = LOW[:, None] + 0.5 * (np.asarray(action) + 1) * (HIGH - LOW)[:, None]
    np.testing.assert_allclose(world[..., 0], np.broadcast_to(Line.WISH[:, None], (2, N, 3)), atol=0.1)
    rewards, g = np.array([1.0, 2.0, 3.0]), 0.8
    once = np.array([rewards[s:] @ g ** np.arange(3 - s) for s in range(3)])
    for_ever = once + g ** (3 - np.arange(3)) * once[0] / (1 - g**3)
    np.testing.assert_allclose(value[0], np.broadcast_to(for_ever, (N, 3)), rtol=0.05)
    np.testing.assert_allclose(value[1], np.broadcast_to(once, (N, 3)), rtol=0.05)


def test_the_seed_decides_and_rates_belong_to_their_cell():
    make = functools.partial(MATD3, num_envs=2, num_steps=4, buffer_steps=8, batch_size=4, hidden_sizes=(4,))
    cells = [
        Cell(Line(), make(learning_starts=0, learning_rate=rate), jax.random.key(seed))
        for seed, rate in ((0, 1e-3), (0, 1e-3), (1, 1e-3), (0, 1e-2))
    ]
    state = trained(stacked(cells), 3)
    numbers = [leaf for leaf in jax.tree.leaves(state) if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    assert all(np.asarray(leaf[0]).tobytes() == np.asarray(leaf[1]).tobytes() for leaf in numbers)
    weights = state.params["actor"]["output"]["w"]
    assert (weights[0] != weights[2]).any()
    moved = np.abs(weights[3] - weights[0])
    assert moved.max() > 1e-3 and np.asarray(state.env_steps).tolist() == [24] * 4
    turned = trained(stacked(cells[::-1]), 3).params["actor"]["output"]["w"]
    np.testing.assert_array_equal(turned[::-1], weights)


# --- bad input -----------------------------------------------------------------------------------------------


def test_worlds_that_cannot_be_played_are_refused_in_words():
    with pytest.raises(
        ValueError, match=r"maddpg needs continuous actions, Spread .* env.actions=continuous, or learner=vdn or"
    ):
        MADDPG().validate(marl_bench.make("spread"))
    with pytest.raises(ValueError, match=r"matd3 needs continuous actions, TwoStep has discrete ones; use learner=vdn"):
        MATD3().validate(marl_bench.make("two_step"))
    with pytest.raises(
        ValueError, match=r"maddpg needs a global state, Sum .*learner=maddpg learner.critic_input=views"
    ):
        MADDPG().validate(Sum())
    with pytest.raises(ValueError, match=r"maddpg needs bounded actions, those of Sum"):
        MADDPG(critic_input="own").validate(Sum(bounded=False))
    for learner in (MADDPG(critic_input="views"), MADDPG(critic_input="own"), MATD3(critic_input="views")):
        learner.validate(Sum())
    MADDPG().validate(SPREAD)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"recurrent_size": 8}, r"recurrent_size=8: must be 0.*learner=ippo"),
        ({"buffer_steps": 100}, r"buffer_steps=100: must be a multiple of num_steps=16"),
        ({"critic_input": "veiws"}, r"critic_input='veiws': must be one of state, views, own.*views"),
        ({"batch_size": 0}, r"batch_size=0: must be >= 1"),
        ({"target_rate": 0.0}, r"target_rate=0.0: must be > 0 and <= 1"),
        ({"noise": -0.1}, r"noise=-0.1: must be >= 0"),
        ({"policy_delay": 3}, r"policy_delay=3: must divide num_steps \* updates_per_step = 16"),
        ({"target_noise_clip": -1.0}, r"target_noise_clip=-1.0: must be >= 0"),
    ],
)
def test_fields_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        MATD3(**fields)
