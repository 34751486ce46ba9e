"""A batch of environments, and its ways to restart episodes."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import marl_bench
from marl_bench import vector as vector_module
from marl_bench.environment import Environment
from marl_bench.vector import VectorEnvironment

BATCH, STEPS = 4, 12


@struct.dataclass
class CountdownState:
    """start: [] int32 first value; left: [] int32 steps that are left; key: [] PRNG key."""

    start: jax.Array
    left: jax.Array
    step: jax.Array
    key: jax.Array


@struct.dataclass
class Countdown(Environment):
    """Ends after a random number of steps, 1 to `longest`; reward is the start value; the view is what is left."""

    longest: float = 3.0
    same_length: int = struct.field(pytree_node=False, default=0)

    num_agents = property(lambda self: 2)
    num_actions = property(lambda self: 2)
    observation_shape = property(lambda self: (1,))
    fixed_horizon = property(lambda self: self.same_length or None)

    def reset(self, key):
        key, key_start = jax.random.split(key)
        drawn = 1 + jnp.floor(jax.random.uniform(key_start) * self.longest).astype(jnp.int32)
        start = jnp.int32(self.same_length) if self.same_length else drawn
        state = CountdownState(start, start, jnp.int32(0), key)
        return state, self.restart(self.observed(state))

    def step(self, state, actions):
        del actions
        state = CountdownState(state.start, state.left - 1, state.step + 1, state.key)
        done = state.left <= 0
        reward = jnp.full(2, state.start, jnp.float32)
        return state, self.transition(reward, self.observed(state), terminated=done)

    def observed(self, state):
        return self.observe_view(jnp.full((2, 1), state.left, jnp.float32), state.step)


def roll_out(vector, steps=STEPS, seed=0):
    """States and timesteps of `steps` steps, leaves [steps, B, ...]."""

    def play(carry, _):
        state, timestep = vector.step(carry, jnp.zeros((vector.num_envs, 2), int))
        return state, (state, timestep)

    state, first = vector.reset(jax.random.key(seed))
    return first, jax.jit(lambda s: jax.lax.scan(play, s, length=steps))(state)[1]


@pytest.mark.parametrize("strategy", ["select", "pool"])
def test_episodes_restart_in_the_step_that_ends_them(strategy):
    first, (states, steps) = roll_out(VectorEnvironment(Countdown(), BATCH, strategy))
    assert first.extras["is_first"].all() and first.first().all()
    last = np.asarray(steps.last())
    assert last.any() and not last.all()
    np.testing.assert_array_equal(steps.extras["is_first"], last)
    np.testing.assert_array_equal(np.asarray(steps.discount) == 0, np.broadcast_to(last[..., None], (*last.shape, 2)))
    final = np.asarray(steps.extras["final_observation"].agents_view[..., 0, 0])
    shown = np.asarray(steps.observation.agents_view[..., 0, 0])
    assert (final[last] == 0).all() and (shown[last] >= 1).all()
    np.testing.assert_array_equal(final[~last], shown[~last])
    # What is shown is what the state holds; the reward of the last step is still the old episode's.
    np.testing.assert_array_equal(shown, states.inner.left)
    assert (np.asarray(steps.observation.step_count)[last] == 0).all()
    starts = np.concatenate([np.asarray(first.observation.agents_view)[None, :, 0, 0], shown])
    for copy in range(BATCH):
        begun = np.concatenate([[0], 1 + np.flatnonzero(last[:, copy])])
        for start, end in itertools.pairwise(begun):
            assert (np.asarray(steps.reward)[start:end, copy] == starts[start, copy]).all()


def test_games_of_a_fixed_horizon_restart_together_under_one_branch():
    vector = VectorEnvironment(Countdown(same_length=3), BATCH)
    assert vector.chosen_strategy == "cond"
    _, (_, steps) = roll_out(vector)
    np.testing.assert_array_equal(steps.last()[:, 0], np.arange(1, STEPS + 1) % 3 == 0)
    text = jax.jit(vector.step).lower(vector.reset(jax.random.key(0))[0], jnp.zeros((BATCH, 2), int)).as_text()
    assert "stablehlo.case" in text or "stablehlo.if" in text


def test_a_pool_hands_out_its_starts_in_turn_and_then_again_with_new_keys():
    vector = VectorEnvironment(Countdown(longest=5.0), BATCH, "pool", pool_size=6)
    state, _ = vector.reset(jax.random.key(3))
    pool = np.asarray(state.pool[0].start)
    _, (states, steps) = roll_out(vector, 60, seed=3)
    last = np.asarray(steps.last())
    # Starts in the order in which environments ended: by step, then by number.
    taken = np.asarray(states.inner.start)[last]
    assert len(taken) > 20
    np.testing.assert_array_equal(taken, pool[np.arange(len(taken)) % 6])
    keys = np.asarray(jax.random.key_data(states.inner.key))[last]
    assert len(np.unique(keys, axis=0)) == len(taken)
    np.testing.assert_array_equal(states.cursor, np.cumsum(last.sum(axis=1)))


@struct.dataclass
class CrowdState:
    """countdown: the game; keys: [2] one key an agent; nothing: [0] a leaf without entries."""

    countdown: CountdownState
    keys: jax.Array
    nothing: jax.Array


@struct.dataclass
class Crowd(Countdown):
    """A countdown with a leaf without entries and with a key for each agent."""

    def reset(self, key):
        state, timestep = super().reset(key)
        return CrowdState(state, jax.random.split(key, 2), jnp.zeros(0)), timestep

    def step(self, state, actions):
        inner, timestep = super().step(state.countdown, actions)
        return state.replace(countdown=inner), timestep


@pytest.mark.parametrize("chunk", [3, 4096])
def test_a_pool_holds_any_state(chunk, monkeypatch):
    monkeypatch.setattr(vector_module, "_POOL_CHUNK", chunk)
    state, _ = VectorEnvironment(Crowd(), BATCH, "pool", pool_size=7).reset(jax.random.key(0))
    assert state.pool[0].nothing.shape == (7, 0) and state.pool[0].keys.shape == (7, 2)
    _, (states, steps) = roll_out(VectorEnvironment(Crowd(), BATCH, "pool", pool_size=7))
    keys = np.asarray(jax.random.key_data(states.inner.keys))[np.asarray(steps.last())].reshape(-1, 2)
    assert len(np.unique(keys, axis=0)) == len(keys)


def test_refreshing_draws_another_pool_and_leaves_the_rest_alone():
    vector = VectorEnvironment(Countdown(longest=100.0), BATCH, "pool", pool_size=64)
    state, _ = vector.reset(jax.random.key(0))
    fresh = vector.refresh(state)
    assert (np.asarray(fresh.pool[0].start) != np.asarray(state.pool[0].start)).any()
    np.testing.assert_array_equal(fresh.inner.left, state.inner.left)
    assert fresh.cursor == state.cursor
    unpooled, _ = VectorEnvironment(Countdown(), BATCH, "select").reset(jax.random.key(0))
    assert VectorEnvironment(Countdown(), BATCH, "select").refresh(unpooled) is unpooled


def test_endless_games_never_restart():
    vector = VectorEnvironment(marl_bench.make("network_dilemma", side=3), 2)
    assert vector.chosen_strategy == "none"
    state, _ = vector.reset(jax.random.key(0))
    state, timestep = vector.step(state, jnp.zeros((2, 9), int))
    assert not timestep.extras["is_first"].any() and state.cursor == 0


def test_stacked_environments_keep_their_own_parameters():
    environments = [Countdown(longest=value) for value in (1.0, 1.0, 50.0, 50.0)]
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *environments)
    vector = VectorEnvironment(stack, 4, stacked=True)
    assert vector.chosen_strategy == "select"
    _, (states, _) = roll_out(vector)
    assert (np.asarray(states.inner.start)[:, :2] == 1).all()
    assert (np.asarray(states.inner.start)[:, 2:] > 1).any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_envs": 0}, "num_envs=0"),
        ({"strategy": "lazy"}, "must be one of auto, select, cond, pool"),
        ({"pool_size": 0}, "pool_size=0"),
        ({"strategy": "pool", "stacked": True}, "use 'select' or 'cond'"),
    ],
)
def test_bad_arguments_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        VectorEnvironment(Countdown(), **{"num_envs": 2, **fields})
