"""Reward wrappers against numbers worked out by hand, batched, stacked, and under auto-reset."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from hypothesis import given, settings
from hypothesis import strategies as st

import marl_bench
from marl_bench.environment import Environment
from marl_bench.reward_wrappers import (
    CommonReward,
    InequityAversion,
    ProsocialReward,
    SanctionCosts,
    SocialValueOrientation,
    averse,
)
from marl_bench.vector import VectorEnvironment
from marl_bench.wrappers import AutoReset, EpisodeMetrics

KEY = jax.random.key(0)
FIRST, SECOND = (1.0, 2.0, 4.0), (0.0, 3.0, 0.0)
NOTHING = jnp.zeros(3, jnp.int32)


@struct.dataclass
class Paid(Environment):
    """Three agents paid by a table; agent i shoots where its action is 1 and hits agent i + 1."""

    table: Any = (FIRST, SECOND)
    horizon: int = struct.field(pytree_node=False, default=2)

    num_agents = property(lambda self: 3)
    num_actions = property(lambda self: 2)
    observation_shape = property(lambda self: (1,))
    fixed_horizon = property(lambda self: self.horizon)
    metric_units = property(lambda self: {"paid": "reward of all agents"})

    def outcome(self, timestep, shots):
        extras = {**timestep.extras, "shots": shots, "hits": jnp.roll(shots, 1)}
        return timestep.replace(extras=extras)

    def reset(self, key):
        count = jnp.int32(0)
        timestep = self.restart(self.observe_view(jnp.zeros((3, 1)), count), {"paid": 0})
        return count, self.outcome(timestep, jnp.zeros(3, jnp.int32))

    def step(self, state, actions):
        shots = (jnp.clip(actions, 0, 1) == 1).astype(jnp.int32)
        table = jnp.asarray(self.table)
        reward = jnp.where(state % 2 == 0, table[0], table[1])
        state = state + 1
        observation = self.observe_view(jnp.zeros((3, 1)), state)
        last = state >= self.horizon
        return state, self.outcome(
            self.transition(reward, observation, truncated=last, metrics={"paid": reward.sum()}), shots
        )


def rewards(environment, actions=(NOTHING, NOTHING)):
    state, timestep = environment.reset(KEY)
    assert not timestep.reward.any() and not timestep.extras["raw_reward"].any()
    found = []
    for joint in actions:
        state, timestep = environment.step(state, joint)
        found.append(timestep.reward)
        assert timestep.extras["raw_reward"].shape == (3,)
    np.testing.assert_array_equal(timestep.extras["raw_reward"], SECOND)
    return np.asarray(found)


# Envy of agents 0 and 1 in the first step: (2-1) + (4-1) = 4 and 4-2 = 2; guilt of 1 and 2: 1 and 3+2 = 5.
G = 0.99 * 0.975
TRACE = np.array([G, 2 * G + 3, 4 * G])  # 0.96525, 4.9305, 3.861
HAND = {
    "sum": (CommonReward(Paid()), [[7] * 3, [3] * 3]),
    "mean": (CommonReward(Paid(), reduce="mean"), [[7 / 3] * 3, [1] * 3]),
    "prosocial": (ProsocialReward(Paid(), selfishness=0.75), [[1.5, 2.125, 3.375], [0.375, 2.25, 0.375]]),
    "selfish": (ProsocialReward(Paid(), selfishness=1.0), [FIRST, SECOND]),
    "altruist": (ProsocialReward(Paid(), selfishness=0.0), [[3, 2.5, 1.5], [1.5, 0, 1.5]]),
    "own weight each": (ProsocialReward(Paid(), selfishness=np.float32([1, 0, 0.5])), [[1, 2.5, 2.75], [0, 0, 0.75]]),
    "inequity": (
        InequityAversion(Paid()),
        [
            [1 - 2.5 * 4, 2 - 2.5 * 2 - 0.025 * 1, 4 - 0.025 * 5],
            [
                -2.5 * (TRACE[1] - TRACE[0] + TRACE[2] - TRACE[0]),
                3 - 0.025 * (TRACE[1] - TRACE[0] + TRACE[1] - TRACE[2]),
                -2.5 * (TRACE[1] - TRACE[2]) - 0.025 * (TRACE[2] - TRACE[0]),
            ],
        ],
    ),
    "no memory": (InequityAversion(Paid(), trace_decay=0.0), [[-9, -3.025, 3.875], [-7.5, 2.85, -7.5]]),
    "orientation": (
        SocialValueOrientation(Paid(), angle=0.0, weight=2.0),
        [
            [1 - 2 * np.arctan2(3, 1), 2 - 2 * np.arctan2(2.5, 2), 4 - 2 * np.arctan2(1.5, 4)],
            [-2 * np.pi / 2, 3, -2 * np.pi / 2],
        ],
    ),
}


@pytest.mark.parametrize(("environment", "expected"), HAND.values(), ids=HAND)
def test_hand_numbers(environment, expected):
    np.testing.assert_allclose(rewards(environment), expected, rtol=1e-5, atol=1e-6)


def test_sanctions_charge_shooter_and_target():
    environment = SanctionCosts(Paid(), shot_cost=1.0, hit_cost=50.0)
    # Agent 0 shoots 1; then all shoot, so that each pays for its own shot and one hit.
    found = rewards(environment, (jnp.asarray([1, 0, 0]), jnp.ones(3, jnp.int32)))
    np.testing.assert_array_equal(found, [[0, -48, 4], [-51, -48, -51]])


def test_missing_counts_are_named():
    wrapped = SanctionCosts(marl_bench.make("public_goods"), shot_cost=1.0)
    state, _ = wrapped.reset(KEY)
    with pytest.raises(LookupError, match="PublicGoods reports no 'shots'"):
        wrapped.step(state, jnp.zeros(4, jnp.int32))


def test_orientation_is_neutral_where_nobody_is_paid():
    environment = SocialValueOrientation(Paid(table=((0.0, 0.0, 0.0), (0.0, 3.0, 0.0))), weight=7.0)
    state, _ = environment.reset(KEY)
    state, timestep = environment.step(state, NOTHING)
    assert timestep.reward.tolist() == [0, 0, 0]
    np.testing.assert_allclose(environment.step(state, NOTHING)[1].reward, [-7 * np.pi / 4, 3 - 7 * np.pi / 4, -7 * np.pi / 4], rtol=1e-6)  # fmt: skip
    slope = jax.grad(lambda w: environment.replace(weight=w).step(jnp.int32(0), NOTHING)[1].reward.sum())(1.0)
    assert slope == 0


def test_coefficients_are_swept_and_scheduled_in_one_program():
    traces = 0

    @jax.jit
    def second(environment):
        nonlocal traces
        traces += 1
        state, _ = environment.reset(KEY)
        return environment.step(state, NOTHING)[1].reward

    for selfishness in (1.0, 0.75, 0.0):
        expected = {1.0: FIRST, 0.75: [1.5, 2.125, 3.375], 0.0: [3, 2.5, 1.5]}[selfishness]
        scheduled = ProsocialReward(Paid()).replace(selfishness=jnp.float32(selfishness))
        np.testing.assert_allclose(second(scheduled), expected)
    assert traces == 1
    many = jax.vmap(lambda alpha, beta: second(InequityAversion(Paid(), alpha=alpha, beta=beta)))
    found = many(jnp.float32([0, 5]), jnp.float32([0, 0.05]))
    np.testing.assert_allclose(found, [FIRST, [-9, -3.025, 3.875]], rtol=1e-6)


WRAPPERS = [CommonReward, ProsocialReward, InequityAversion, SocialValueOrientation, SanctionCosts]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_batches_and_restarts(wrapper):
    """Six steps of two-step episodes: every episode is paid alike, so traces start anew and nothing leaks."""
    environment = AutoReset(wrapper(Paid()))
    keys = jax.random.split(KEY, 3)

    @jax.jit
    @jax.vmap
    def play(key):
        state, _ = environment.reset(key)
        return jax.lax.scan(lambda state, _: environment.step(state, NOTHING), state, None, 6)[1]

    timestep = play(keys)
    alone = rewards(wrapper(Paid()))
    np.testing.assert_allclose(timestep.reward, np.broadcast_to(np.tile(alone, (3, 1)), (3, 6, 3)), rtol=1e-6)
    np.testing.assert_array_equal(timestep.extras["raw_reward"], np.broadcast_to([FIRST, SECOND] * 3, (3, 6, 3)))
    vector = VectorEnvironment(wrapper(Paid()), 3)
    state, _ = vector.reset(KEY)
    for expected in [*alone, *alone]:
        state, outcome = jax.jit(vector.step)(state, jnp.zeros((3, 3), jnp.int32))
        np.testing.assert_allclose(outcome.reward, np.broadcast_to(expected, (3, 3)), rtol=1e-6)


def test_wrappers_nest_and_keep_the_first_reward():
    environment = CommonReward(InequityAversion(Paid()))
    found = rewards(environment)
    np.testing.assert_allclose(found[0], [-9 - 3.025 + 3.875] * 3, rtol=1e-5)
    outside, inside = EpisodeMetrics(CommonReward(Paid())), CommonReward(EpisodeMetrics(Paid()))
    for wrapped, total in ((outside, 30), (inside, 10)):
        state, _ = wrapped.reset(KEY)
        for _ in range(2):
            state, timestep = wrapped.step(state, NOTHING)
        assert timestep.extras["metrics"]["return/sum"] == total


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_environments_conform(wrapper):
    assert marl_bench.check_environment(wrapper(Paid()), num_steps=10) == []


def test_codes_no_longer_give_the_reward():
    game = marl_bench.make("public_goods")
    wrapped = CommonReward(game)
    assert game.code_outcome(jnp.int32(1), jnp.int32(0)) is not None
    assert wrapped.code_outcome(jnp.int32(1), jnp.int32(0)) is None and wrapped.num_codes == game.num_codes


@given(st.lists(st.floats(-5, 5, width=16), min_size=2, max_size=6), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_inequity_is_symmetric_and_blind_to_equal_gains(values, shift):
    reward = jnp.asarray(values)
    paid = averse(reward, reward, 5.0, 0.05)
    assert (paid <= reward + 1e-5).all()
    np.testing.assert_allclose(averse(reward[::-1], reward[::-1], 5.0, 0.05), paid[::-1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(averse(reward, reward + shift, 5.0, 0.05), paid, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(averse(reward, jnp.ones_like(reward), 5.0, 0.05), reward)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CommonReward(Paid(), reduce="max"), "reduce='max'"),
        (lambda: ProsocialReward(Paid(), selfishness=1.5), "selfishness=1.5"),
        (lambda: InequityAversion(Paid(), alpha=-1.0), "alpha=-1.0"),
        (lambda: InequityAversion(Paid(), trace_decay=1.1), "trace_decay=1.1"),
        (lambda: SocialValueOrientation(Paid(), angle=4.0), "angle=4.0"),
        (lambda: SanctionCosts(Paid(), hit_cost=-1.0), "hit_cost=-1.0"),
        (lambda: CommonReward(AutoReset(Paid())), "AutoReset must be outermost"),
    ],
)
def test_bad_coefficients_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
