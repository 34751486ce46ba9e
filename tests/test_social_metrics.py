"""Social metrics against closed forms and hand numbers, in scans, batches and under auto-reset."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from hypothesis import given, settings
from hypothesis import strategies as st

import marl_bench
from marl_bench.environment import Environment
from marl_bench.envs.social import metrics
from marl_bench.envs.social.metrics import SocialMetrics
from marl_bench.reward_wrappers import CommonReward
from marl_bench.vector import VectorEnvironment
from marl_bench.wrappers import AutoReset

KEY = jax.random.key(0)


def episode(rewards, **counts):
    """Sums of an episode with rewards [T, N] and counts [T, N], made by a scan."""

    @jax.jit
    def run(rewards, counts):
        start = metrics.begin(rewards.shape[1])
        return jax.lax.scan(lambda s, x: (metrics.update(s, x[0], **x[1]), None), start, (rewards, counts))[0]

    return run(jnp.asarray(rewards, jnp.float32), {name: jnp.asarray(value) for name, value in counts.items()})


def summary(rewards, **counts):
    return {name: float(value) for name, value in metrics.summarise(episode(rewards, **counts)).items()}


# --- equality --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returns", "expected"),
    [((1, 3), 0.75), ((2, 2, 2, 2), 1.0), ((0, 0, 5), 1 / 3), ((0, 0, 0, 0, 9), 0.2), ((1, 2, 3), 1 - 8 / 36)],
)
def test_equality_has_its_known_values(returns, expected):
    value, shifted = metrics.equality(jnp.asarray(returns, jnp.float32))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert not shifted


@given(st.lists(st.integers(0, 50), min_size=2, max_size=8).filter(any))
@settings(max_examples=50, deadline=None)
def test_sorted_gini_is_the_pairwise_one(values):
    returns = np.asarray(values, np.float64)
    pairwise = np.abs(returns[:, None] - returns).sum() / (2 * len(values) * returns.sum())
    np.testing.assert_allclose(metrics.gini(jnp.asarray(returns, jnp.float32)), pairwise, atol=1e-6)
    curve = metrics.lorenz(returns)
    # The Gini coefficient is 1 - 2 * area below the Lorenz curve.
    np.testing.assert_allclose(1 - (curve[1:] + curve[:-1]).sum() / len(values), pairwise, atol=1e-9)
    assert curve[0] == 0 and curve[-1] == 1 and (np.diff(curve, 2) >= -1e-12).all()


def test_equality_of_negative_returns_is_flagged():
    value, shifted = metrics.equality(jnp.asarray([-1.0, 1.0]))
    assert shifted and value == 0.5  # Gini of (0, 2)
    value, shifted = metrics.equality(jnp.zeros(3))
    assert shifted and value == 1
    value, shifted = metrics.equality(jnp.asarray([-2.0, -2.0]))
    assert shifted and value == 1


@pytest.mark.parametrize("returns", [[-1.0, 2.0], [0.0, 0.0], [[1.0]], []])
def test_lorenz_needs_something_to_share(returns):
    with pytest.raises(ValueError, match="non-negative numbers with a positive sum"):
        metrics.lorenz(returns)


# --- the others --------------------------------------------------------------------------------------


def test_constant_reward_is_sustained_for_half_the_time():
    found = summary(np.ones((11, 3)))
    assert found["sustainability"] == 5 and found["unpaid_agents"] == 0
    assert found["efficiency"] == 3 and found["efficiency_per_capita"] == 1 and found["equality"] == 1
    assert found["min_return"] == 11 and found["reward_std"] == 0 and found["peace"] == 3
    np.testing.assert_allclose(found["nash_welfare"], 3 * np.log(11.001), rtol=1e-6)


def test_sustainability_leaves_out_the_unpaid():
    rewards = np.zeros((10, 3))
    rewards[[2, 6], 0], rewards[9, 1], rewards[:, 2] = 1, 5, -1
    found = summary(rewards)
    assert found["sustainability"] == (4 + 9) / 2 and found["unpaid_agents"] == 1
    assert found["min_return"] == -10 and found["equality_shifted"] == 1
    nobody = summary(-np.ones((4, 2)))
    assert np.isnan(nobody["sustainability"]) and nobody["unpaid_agents"] == 2
    assert all(np.isfinite(value) for name, value in nobody.items() if name != "sustainability")


def test_events_are_counted():
    removed = np.zeros((8, 4), bool)
    removed[3:7, 1], removed[7, 2] = True, True
    shots, hits = np.zeros((8, 4), np.int32), np.zeros((8, 4), np.int32)
    shots[0], hits[0, :2], shots[5, 0] = 1, 1, 4
    cooperations, defections = np.eye(8, 4, dtype=bool), np.ones((8, 4), np.int8)
    found = summary(
        np.zeros((8, 4)), removed=removed, shots=shots, hits=hits, cooperations=cooperations, defections=defections
    )
    assert found["peace"] == 4 - 5 / 8
    assert found["shots_per_agent"] == 2 and found["hits_per_shot"] == 0.25
    np.testing.assert_allclose(found["cooperation_rate"], 4 / 36)
    with pytest.raises(TypeError, match="unknown counts zaps"):
        metrics.update(metrics.begin(2), jnp.zeros(2), zaps=jnp.zeros(2))


def test_spread_of_rewards():
    np.testing.assert_allclose(summary([[0, 1], [2, 1], [0, 1], [2, 1]])["reward_std"], 0.5)


def test_no_steps_divide_by_nothing():
    found = metrics.summarise(metrics.begin(3))
    assert all(np.isfinite(value) for name, value in found.items() if name != "sustainability")


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=20, deadline=None)
def test_agents_are_interchangeable(seed):
    rng = np.random.default_rng(seed)
    rewards, order = rng.integers(-1, 3, (12, 5)), rng.permutation(5)
    one, two = summary(rewards), summary(rewards[:, order])
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-5, atol=1e-5)


# --- in an environment ---------------------------------------------------------------------------------


@struct.dataclass
class Island(Environment):
    """Two agents; action 1 earns 1 and takes the other out of the game for the step."""

    num_agents = property(lambda self: 2)
    num_actions = property(lambda self: 2)
    observation_shape = property(lambda self: (1,))
    fixed_horizon = property(lambda self: 4)

    def outcome(self, timestep, took):
        return timestep.replace(extras={**timestep.extras, "alive": ~took[::-1], "shots": took.astype(jnp.int8)})

    def reset(self, key):
        timestep = self.restart(self.observe_view(jnp.zeros((2, 1)), jnp.int32(0)))
        return jnp.int32(0), self.outcome(timestep, jnp.zeros(2, bool))

    def step(self, state, actions):
        took, state = actions >= 1, state + 1
        observation = self.observe_view(jnp.zeros((2, 1)), state)
        timestep = self.transition(took.astype(jnp.float32), observation, truncated=state >= 4)
        return state, self.outcome(timestep, took)


ACTIONS = jnp.asarray([[0, 1], [1, 1], [0, 0], [1, 0]] * 2 + [[1, 0]] * 4)
"""Three episodes. Returns of the first two: 2 and 2; paid at steps 1, 3 and 0, 1. Then 4 and 0."""


def check_reports(timestep, is_batch):
    found = {name: np.asarray(value) for name, value in timestep.extras["metrics"].items()}
    expected = {
        "efficiency": [1, 1, 1], "equality": [1, 1, 0.5], "sustainability": [1.25, 1.25, 1.5],
        "sustainability_defined": [1, 1, 1], "unpaid_agents": [0, 0, 1], "peace": [1, 1, 1],
        "shots_per_agent": [2, 2, 2], "hits_per_shot": [0, 0, 0], "min_return": [2, 2, 0],
    }  # fmt: skip
    for name, values in expected.items():
        column = np.zeros(12)
        column[3::4] = values
        shown = found[f"social/{name}"]
        np.testing.assert_allclose(shown, np.broadcast_to(column, (3, 12)) if is_batch else column, err_msg=name)


def test_reports_come_at_the_end_of_every_episode():
    environment = AutoReset(SocialMetrics(Island()))

    @jax.jit
    @jax.vmap
    def play(key):
        return jax.lax.scan(environment.step, environment.reset(key)[0], ACTIONS)[1]

    check_reports(play(jax.random.split(KEY, 3)), True)
    vector = VectorEnvironment(SocialMetrics(Island()), 3)

    @jax.jit
    def batch(key):
        actions = jnp.broadcast_to(ACTIONS[:, None], (12, 3, 2))
        return jax.lax.scan(vector.step, vector.reset(key)[0], actions)[1]

    check_reports(jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), batch(KEY)), True)


def test_raw_rewards_are_judged_inside_a_reward_wrapper():
    environment = CommonReward(SocialMetrics(Island()))
    state, _ = environment.reset(KEY)
    for joint in ACTIONS[8:]:
        state, timestep = environment.step(state, joint)
    assert timestep.reward.tolist() == [1, 1] and timestep.extras["metrics"]["social/equality"] == 0.5


def test_wrapped_environments_conform():
    assert marl_bench.check_environment(SocialMetrics(Island()), num_steps=10) == []
    with pytest.raises(ValueError, match="epsilon=0"):
        SocialMetrics(Island(), epsilon=0)
