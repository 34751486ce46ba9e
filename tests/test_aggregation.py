"""aggregation: rules by hand, the anchors of its specification, symmetries, noise and conformance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import marl_bench
from marl_bench import make, random
from marl_bench.envs.swarms import rules

EPISODES = 24


def average(env, policy, episodes=EPISODES):
    """Mean undiscounted return of a scripted policy, and spread after the last step."""

    def play(key):
        state, timestep = env.reset(key)

        def step(carry, index):
            state, observation = carry
            actions = policy(state, observation, jax.random.fold_in(key, index))
            state, timestep = env.step(state, actions)
            return (state, timestep.observation), (timestep.reward[0], timestep.extras["metrics"]["spread"])

        _, (rewards, spread) = jax.lax.scan(step, (state, timestep.observation), jnp.arange(env.horizon))
        return jnp.sum(rewards), spread[-1]

    returns, spread = jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(0), episodes))
    return float(returns.mean()), float(returns.std() / episodes**0.5), float(spread.mean())


# --- rules ---------------------------------------------------------------------------------------------------


def test_no_direction_is_faster_than_another():
    push = rules.limited(jnp.array([[3.0, 1.0, 0.3, 0.0], [0.0, -1.0, 0.4, 0.0]]))
    half = 0.5**0.5
    np.testing.assert_allclose(push, [[1, half, 0.3, 0], [0, -half, 0.4, 0]], atol=1e-6)


def test_walls_stop():
    moved = rules.moved(jnp.array([[1.9], [-1.9]]), jnp.array([[0.2], [-0.05]]), jnp.zeros((2, 1)), 2.0)
    np.testing.assert_allclose(moved, [[2.0], [-1.95]], atol=1e-6)


def test_distances_of_a_square():
    square = jnp.array([[1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0]])
    assert rules.spread(square) == pytest.approx(2**0.5, abs=1e-6)
    assert rules.pairwise_distance(square) == pytest.approx((2 * 2 + 8**0.5) / 4, abs=1e-6)
    offset = rules.neighbour_offset(square, 2.5)  # the diagonal is longer
    np.testing.assert_allclose(offset, -square, atol=1e-6)
    assert not np.asarray(rules.neighbour_offset(square, 1.5)).any()


@given(st.lists(st.tuples(st.floats(-2, 2, width=32), st.floats(-2, 2, width=32)), min_size=2, max_size=8))
@settings(max_examples=50, deadline=None)
def test_spread_against_numpy(places):
    position = np.array(places, np.float32)
    centred = position - position.astype(np.float64).mean(0)
    found = rules.spread(jnp.asarray(position.T))
    assert found == pytest.approx(np.linalg.norm(centred, axis=1).mean(), abs=2e-6)
    assert (found < 1e-6) == (np.ptp(position, axis=0) < 1e-6).all()


def test_gradient_where_all_are_in_one_point():
    assert np.isfinite(jax.grad(rules.spread)(jnp.ones((2, 5)))).all()


def test_normal_words_are_normal():
    drawn = np.sort(random.normal(jnp.asarray(np.arange(2**16) * 2**16, jnp.uint32)))
    quantiles = jax.scipy.stats.norm.ppf((np.arange(2**16) + 0.5) / 2**16)
    np.testing.assert_allclose(drawn[200:-200], quantiles[200:-200], atol=4e-3)
    extremes = random.normal(jnp.array([0, 2**32 - 1], jnp.uint32))
    assert -5.5 < extremes[0] < -5 and extremes[1] == -extremes[0]


# --- the world -----------------------------------------------------------------------------------------------


def test_reward_is_paid_for_the_state_before_the_step():
    for later in (False, True):
        env = make("aggregation", agents=4, action_cost=0.5, reward_on_next=later)
        state, timestep = env.reset(jax.random.key(1))
        following, timestep = env.step(state, jnp.ones((4, 2)).at[0].set(0.0))
        paid = following if later else state
        np.testing.assert_allclose(timestep.reward, -rules.spread(paid.position) - 0.5 * 0.75, atol=1e-6)


def test_starts():
    key = jax.random.key(0)
    uniform = make("aggregation", agents=2000).reset(key)[0].position
    assert np.abs(uniform).max() <= 2 and np.abs(uniform).mean() == pytest.approx(1, abs=0.05)
    clusters = make("aggregation", agents=200, start="two_clusters", start_spread=0.1).reset(key)[0].position
    np.testing.assert_allclose(np.sort(np.asarray(clusters[0]))[[50, 150]], [-1, 1], atol=0.1)
    around = make("aggregation", agents=200, start="random_gauss", start_spread=0.1)
    centres = [around.reset(jax.random.key(seed))[0].position.mean(1) for seed in range(3)]
    assert np.ptp(centres, axis=0).max() > 0.1 and np.abs(centres).max() <= 1.05


def test_noise_of_motion_and_of_the_reading():
    env = make("aggregation", agents=4000, start="gauss", start_spread=0.2)
    state, timestep = env.reset(jax.random.key(0))
    following, later = env.step(state, jnp.zeros((4000, 2)))
    assert np.std(following.position - state.position) == pytest.approx(0.03, rel=0.05)
    for seen, true in ((timestep, state), (later, following)):
        assert np.std(seen.observation.agents_view * 2 - true.position.T) == pytest.approx(0.2, rel=0.05)
    assert np.corrcoef(
        (timestep.observation.agents_view * 2 - state.position.T).ravel(),
        (later.observation.agents_view * 2 - following.position.T).ravel(),
    )[0, 1] == pytest.approx(0, abs=0.05)


def test_neighbours_do_not_depend_on_where_the_swarm_is():
    env = make("aggregation", agents=20, sensor="neighbours", motion_noise=0.0)
    state, _ = env.reset(jax.random.key(0))
    near = state.replace(position=0.2 * state.position)
    views = [
        env.step(moved, jnp.zeros((20, 2)))[1].observation.agents_view
        for moved in (near, near.replace(position=near.position + 0.5))
    ]
    np.testing.assert_allclose(*views, atol=1e-5)
    assert np.abs(views[0]).max() > 0.01


@pytest.mark.parametrize(("agents", "initial"), [(5, -1.338), (25, -1.495), (100, -1.521)])
def test_initial_reward(agents, initial):
    env = make("aggregation", agents=agents)
    start = jax.jit(jax.vmap(lambda key: rules.spread(env.reset(key)[0].position)))
    spread = start(jax.random.split(jax.random.key(0), 400))
    assert -spread.mean() == pytest.approx(initial, abs=3 * float(spread.std()) / 20 + 1e-3)


def test_anchors_of_scripted_play():
    """Returns of 100 steps with 300 agents: at rest -153.0, and with gains 0.05, 0.14, 0.3 as in the specification."""
    env = make("aggregation", agents=300)
    returns, error, _ = average(env, env.scripted_policies()["rest"])
    assert returns == pytest.approx(-153.0, abs=3 * error + 0.6)

    def with_gain(gain):
        return lambda state, observation, key: -gain * env.half_side * observation.agents_view / env.max_speed

    for gain, expected in ((0.05, -35.96), (0.14, -19.53), (0.3, -18.89)):
        returns, error, _ = average(env, with_gain(gain))
        assert returns == pytest.approx(expected, abs=3 * error + 0.3), gain


def test_stationary_spread_of_linear_feedback():
    """s = (k^2 sigma_y^2 + sigma_x^2) / (2 k - k^2) an axis; the mean distance is sqrt(s pi / 2)."""
    env = make("aggregation", agents=300)
    *_, spread = average(env, env.scripted_policies()["gather"])
    gain = 0.14
    variance = (gain**2 * 0.2**2 + 0.03**2) / (2 * gain - gain**2)
    assert spread == pytest.approx((variance * np.pi / 2) ** 0.5, rel=0.02)


def test_permuted_agents_are_permuted_outcomes():
    env = make("aggregation", agents=6, motion_noise=0.0, sensor_noise=0.0)
    state, _ = env.reset(jax.random.key(0))
    order = np.array([3, 0, 5, 1, 4, 2])
    actions = jax.random.normal(jax.random.key(1), (6, 2))
    plain, moved = (
        env.step(state.replace(position=state.position[:, index]), actions[index]) for index in (np.arange(6), order)
    )
    np.testing.assert_array_equal(plain[0].position[:, order], moved[0].position)
    np.testing.assert_array_equal(plain[1].observation.agents_view[order], moved[1].observation.agents_view)
    np.testing.assert_allclose(plain[1].reward, moved[1].reward, atol=1e-6)


def test_a_batch_of_different_worlds_is_one_program():
    calls = []

    @functools.partial(jax.jit)
    def spreads(envs, keys):
        calls.append(0)
        state, _ = jax.vmap(lambda env, key: env.reset(key))(envs, keys)
        return jax.vmap(lambda env, state: env.step(state, jnp.zeros((5, 2)))[1].reward[0])(envs, state)

    keys = jax.random.split(jax.random.key(0), 2)
    for sides in ((1.0, 2.0), (3.0, 4.0)):
        envs = [make("aggregation", agents=5, half_side=side) for side in sides]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *envs)
        found = spreads(stacked, keys)
        alone = [
            env.step(env.reset(key)[0], jnp.zeros((5, 2)))[1].reward[0] for env, key in zip(envs, keys, strict=True)
        ]
        np.testing.assert_allclose(found, alone, rtol=1e-5)
    assert len(calls) == 1


@pytest.mark.parametrize("fields", [{}, {"sensor": "neighbours", "reward": "pairwise", "start": "random_gauss"}])
def test_conformance(fields):
    assert marl_bench.check_environment(make("agg3d", agents=5, horizon=4, **fields)) == []


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"agents": 1}, "agents=1: must be >= 2"),
        ({"agents": 0}, "agents=0: must be >= 2"),
        ({"dimensions": 6}, "dimensions=6: must be between 1 and 5"),
        ({"motion_noise": -0.1}, "motion_noise=-0.1: must be >= 0"),
        ({"sensor": "neighbours", "sensor_radius": 2.5}, "sensor_radius=2.5: must be at most half the box's side"),
        ({"sensor": "neighbours", "agents": 5000}, "agents=5000: sensor='neighbours' compares all pairs"),
        ({"start": "gaus"}, "did you mean 'gauss'"),
        ({"half_side": float("nan")}, "half_side=nan: must be > 0"),
    ],
)
def test_bad_fields(fields, fault):
    with pytest.raises(ValueError, match=fault):
        make("aggregation", **fields)
