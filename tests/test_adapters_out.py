"""Ours in other suites' interfaces: PettingZoo, Gymnasium, dicts of agents; same game, same ends, same seeds."""

from __future__ import annotations

import sys
import warnings

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pettingzoo
import pytest
from gymnasium.utils.env_checker import check_env
from pettingzoo.test import parallel_api_test

import marl_bench
from marl_bench.adapters import gymnasium as to_gym
from marl_bench.adapters import pettingzoo as to_zoo
from marl_bench.adapters.dictionary import DictEnvironment
from marl_bench.adapters.extras import MissingExtra
from marl_bench.adapters.gymnasium import to_gymnasium
from marl_bench.adapters.pettingzoo import to_pettingzoo

HORIZON = 6


def game(**fields):
    return marl_bench.make("coin_game", horizon=HORIZON, **fields)


def one_shot():
    """A game that ends by itself: a horizon of one step is a termination."""
    return marl_bench.make("public_goods", players=3, horizon=1)


# --- PettingZoo --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zoo():
    return to_pettingzoo(game(), seed=0)


def test_pettingzoos_own_test_passes(zoo):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(zoo, num_cycles=3 * HORIZON)
    assert isinstance(zoo, pettingzoo.ParallelEnv)


def test_an_episode_is_ours_and_ends_with_its_own_observation(zoo):
    env = game()
    step = jax.jit(env.step)
    views, infos = zoo.reset(seed=5)
    state, timestep = jax.jit(env.reset)(jax.random.split(jax.random.key(5))[1])
    rng = np.random.default_rng(0)
    for count in range(1, HORIZON + 1):
        actions = rng.integers(0, 5, 2)
        views, rewards, terminations, truncations, infos = zoo.step(
            dict(zip(zoo.possible_agents, actions, strict=True))
        )
        state, timestep = step(state, jnp.asarray(actions))
        for index, agent in enumerate(zoo.possible_agents):
            np.testing.assert_array_equal(views[agent], timestep.observation.agents_view[index])
            assert rewards[agent] == float(timestep.reward[index])
            assert (terminations[agent], truncations[agent]) == (False, count == HORIZON)
            assert infos[agent]["action_mask"].tolist() == [1] * 5
    assert zoo.agents == [] and zoo.step({}) == ({}, {}, {}, {}, {})
    assert zoo.render().dtype == np.uint8


def test_seeds_decide_the_episode(zoo):
    first = zoo.reset(seed=1)[0]["agent_0"]
    later = [zoo.reset()[0]["agent_0"] for _ in range(6)]
    assert (zoo.reset(seed=1)[0]["agent_0"] == first).all()
    assert [(zoo.reset()[0]["agent_0"] == view).all() for view in later] == [True] * 6
    assert any((view != first).any() for view in later)


def test_an_end_by_the_game_is_a_termination():
    env = to_pettingzoo(one_shot(), seed=0)
    env.reset()
    _, _, terminations, truncations, _ = env.step({agent: 0 for agent in env.agents})
    assert all(terminations.values()) and not any(truncations.values())


# --- Gymnasium ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gymnasiums_own_check_passes():
    env = to_gymnasium(game(), agent=1, others="scripted", seed=0)
    assert isinstance(env, gymnasium.Env)
    check_env(env, skip_render_check=True)
    assert env.render().shape[2] == 3


def test_the_others_play_their_policy():
    def always_one(state, observation, key):
        return jnp.ones(3, jnp.int32)

    env = to_gymnasium(one_shot(), agent=1, others=always_one, seed=0)
    env.reset()
    # 1.6 a contribution, shared by three, for the only one who gives.
    _, reward, terminated, truncated, infos = env.step(0)
    assert reward == pytest.approx(1.6 / 3) and terminated and not truncated
    assert infos["action_mask"].tolist() == [1, 1]


@pytest.fixture(scope="module")
def batch():
    return to_gymnasium(game(), 3, agent=0, seed=2)


def test_a_batch_is_a_vector_env_with_its_spaces(batch):
    assert isinstance(batch, gymnasium.vector.VectorEnv) and batch.num_envs == 3
    views, infos = batch.reset(seed=3)
    assert batch.observation_space.contains(views) and infos["action_mask"].shape == (3, 5)
    batch.action_space.seed(0)
    views, rewards, terminated, truncated, _ = batch.step(batch.action_space.sample())
    assert batch.observation_space.contains(views)
    assert rewards.shape == terminated.shape == truncated.shape == (3,) and rewards.dtype == np.float64
    assert len(batch.render()) == 3


def test_a_batch_hands_over_the_final_observation(batch):
    before, _ = batch.reset(seed=3)
    for count in range(1, 2 * HORIZON + 1):
        views, _, terminated, truncated, infos = batch.step(np.full(3, 4))
        ended = count % HORIZON == 0
        assert truncated.tolist() == [ended] * 3 and not terminated.any()
        assert ("final_obs" in infos) == ended
        if ended:
            assert infos["_final_obs"].all() and infos["final_obs"].shape == views.shape
            # The agent stayed where it was, until the next episode put it elsewhere.
            np.testing.assert_array_equal(infos["final_obs"][..., 0], before[..., 0])
            assert (infos["final_obs"] != views).any()
        before = views


def test_seeds_decide_a_batch(batch):
    runs = []
    for seed in (7, 7, 8):
        views = [batch.reset(seed=seed)[0]]
        views += [batch.step(np.array([0, 1, 2]))[0] for _ in range(HORIZON + 1)]
        runs.append(np.stack(views))
    assert (runs[0] == runs[1]).all() and (runs[0] != runs[2]).any()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"agent": 2}, ValueError, "agent=2: must be between 0 and 1"),
        ({"others": "coperate"}, LookupError, "did you mean 'cooperate'"),
    ],
)
def test_wrong_requests_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        to_gymnasium(game(), **arguments)


@pytest.mark.parametrize(
    ("package", "make"), [("pettingzoo", lambda: to_pettingzoo(game())), ("gymnasium", lambda: to_gymnasium(game()))]
)
def test_a_missing_extra_is_one_line_with_its_command(monkeypatch, package, make):
    for module in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, module, None)
    to_zoo._parallel_class.cache_clear()
    to_gym._class.cache_clear()
    with pytest.raises(MissingExtra, match=rf'pip install "marl-bench\[{package}\]"$'):
        make()


# --- dicts of agents ---------------------------------------------------------------------------------------


def test_dicts_hold_our_game_and_restart_in_step():
    env = game()
    ours = DictEnvironment(env)
    step, reset = jax.jit(ours.step), jax.jit(ours.reset)
    views, state = reset(jax.random.key(0))
    inner, timestep = jax.jit(env.reset)(jax.random.key(0))
    their_step = jax.jit(env.step)
    for count in range(1, HORIZON + 1):
        actions = jnp.array([count % 5, (2 * count) % 5])
        joint = dict(zip(ours.agents, actions, strict=True))
        views, state, rewards, dones, infos = step(jax.random.key(100 + count), state, joint)
        inner, timestep = their_step(inner, actions)
        for index, agent in enumerate(ours.agents):
            np.testing.assert_array_equal(infos["final_observation"][agent], timestep.observation.agents_view[index])
            assert rewards[agent] == timestep.reward[index]
            assert bool(infos["truncated"][agent]) == bool(dones[agent]) == (count == HORIZON)
            assert not infos["terminated"][agent]
    fresh, _ = reset(jax.random.key(100 + HORIZON))
    assert dones["__all__"] and state.done and state.step == 0
    for agent in ours.agents:
        np.testing.assert_array_equal(views[agent], fresh[agent])


def test_dicts_can_start_the_next_episode_where_they_are_told():
    ours = DictEnvironment(one_shot())
    _, state = ours.reset(jax.random.key(0))
    _, start = ours.reset(jax.random.key(9))
    actions = {agent: jnp.int32(0) for agent in ours.agents}
    views, following, _, dones, infos = jax.jit(ours.step)(jax.random.key(1), state, actions, start)
    assert dones["__all__"] and all(bool(flag) for flag in infos["terminated"].values())
    jax.tree.map(
        lambda a, b: (
            np.testing.assert_array_equal(jax.random.key_data(a), jax.random.key_data(b))
            if jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
            else np.testing.assert_array_equal(a, b)
        ),
        following.inner,
        start.inner,
    )
    np.testing.assert_array_equal(views["agent_2"], start.observation.agents_view[2])


def test_dicts_offer_masks_and_refuse_unknown_agents():
    ours = DictEnvironment(game())
    _, state = ours.reset(jax.random.key(0))
    assert ours.get_avail_actions(state)["agent_1"].tolist() == [True] * 5
    assert ours.get_world_state(state).ndim == 1 and ours.name == "CoinGame"
    with pytest.raises(ValueError, match="agent 'agent_2': unknown"):
        ours.observation_space("agent_2")
