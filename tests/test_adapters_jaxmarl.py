"""`jaxmarl:ID`: the adapted environment is JaxMARL's own, step by step; padding, masks and ends are as documented."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import marl_bench
from marl_bench.adapters import jaxmarl as adapter
from marl_bench.adapters.dictionary import DictEnvironment
from marl_bench.adapters.extras import MissingExtra
from marl_bench.check import check_environment

jaxmarl = pytest.importorskip("jaxmarl")

IDS = (
    "MPE_simple_v3", "MPE_simple_tag_v3", "MPE_simple_world_comm_v3", "MPE_simple_spread_v3", "MPE_simple_crypto_v3",
    "MPE_simple_speaker_listener_v4", "MPE_simple_push_v3", "MPE_simple_adversary_v3", "MPE_simple_reference_v3",
    "MPE_simple_facmac_v1", "switch_riddle", "SMAX", "HeuristicEnemySMAX", "hanabi", "overcooked", "overcooked_v2",
    "coin_game", "jaxnav",
)  # fmt: skip


def make(id, **options):
    return marl_bench.make(f"jaxmarl:{id}", options=options)


QUICK = ("MPE_simple_tag_v3", "MPE_simple_world_comm_v3", "switch_riddle", "HeuristicEnemySMAX", "coin_game")
"""Traced in every run of the suite; each costs seconds, because JaxMARL traces slowly."""


@pytest.mark.parametrize("id", [pytest.param(id, marks=() if id in QUICK else pytest.mark.slow) for id in IDS])
def test_shapes_are_those_of_the_specs_at_reset_and_step(id):
    env = make(id)
    state, first = jax.eval_shape(env.reset, jax.eval_shape(lambda: jax.random.key(0)))
    action = jax.ShapeDtypeStruct(env.action_spec.shape, env.action_spec.dtype)
    following, later = jax.eval_shape(env.step, state, action)
    for before, after in ((first, later), (state, following)):
        assert jax.tree.structure(before) == jax.tree.structure(after)
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)
    spec = env.observation_spec.agents_view
    assert (first.observation.agents_view.shape, first.observation.agents_view.dtype) == (spec.shape, spec.dtype)
    assert first.observation.action_mask.shape == (env.num_agents, env.num_actions)
    assert later.reward.shape == (env.num_agents,) and later.reward.dtype == np.float32
    assert len(env.agent_names) == len(env.view_lengths) == len(env.action_sizes) == env.num_agents


@pytest.fixture(scope="module")
def tag():
    env = make("MPE_simple_tag_v3")
    return env, jax.jit(env.reset), jax.jit(env.step)


def test_tag_is_jaxmarls_step_by_step_and_ends_by_time(tag):
    env, reset, step = tag
    assert env.agent_names == ("adversary_0", "adversary_1", "adversary_2", "agent_0")
    assert env.view_lengths == (16, 16, 16, 14)
    theirs = jaxmarl.make("MPE_simple_tag_v3")
    their_step = jax.jit(theirs.step_env)
    state, timestep = reset(jax.random.key(4))
    key_reset, key = jax.random.split(jax.random.key(4))
    observation, their_state = jax.jit(theirs.reset)(key_reset)
    rng = np.random.default_rng(0)
    for count in range(1, 27):
        actions = rng.integers(0, 5, 4)
        state, timestep = step(state, jnp.asarray(actions, jnp.int32))
        key, key_step = jax.random.split(key)
        joint = {agent: jnp.asarray(action) for agent, action in zip(theirs.agents, actions, strict=True)}
        observation, their_state, rewards, dones, _ = their_step(key_step, their_state, joint)
        for index, agent in enumerate(theirs.agents):
            view = np.asarray(timestep.observation.agents_view[index])
            np.testing.assert_allclose(view[: observation[agent].size], observation[agent], rtol=1e-6)
            assert (view[observation[agent].size :] == 0).all()
            assert timestep.reward[index] == pytest.approx(float(rewards[agent]), rel=1e-6)
        assert bool(timestep.last()) == bool(dones["__all__"]) == (count == 26)
        assert timestep.discount.tolist() == [1.0] * 4
    assert timestep.extras["agent_done"].all() and timestep.extras["metrics"]["alive"] == 0


def test_only_particles_have_pictures_and_they_show_the_bodies(tag, capsys):
    env, reset, _ = tag
    picture = np.asarray(env.render(reset(jax.random.key(4))[0]))
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    # Adversaries, prey and obstacles have colours of their own, on white.
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 4 and (picture[2, 2] == 255).all()
    assert capsys.readouterr().out == ""
    with pytest.raises(NotImplementedError, match="no viewer that draws one state of switch_riddle"):
        make("switch_riddle").render(None)


@pytest.fixture(scope="module")
def battle():
    env = make("HeuristicEnemySMAX", scenario="3m")
    return env, jax.jit(env.reset), jax.jit(env.step)


def test_smax_masks_and_world_state_are_jaxmarls(battle):
    env, reset, step = battle
    state, timestep = reset(jax.random.key(0))
    assert env.num_agents == 3 and env.agent_names[0] == "ally_0"
    for _ in range(3):
        legal = env.inner.get_avail_actions(state.inner)
        mask = np.stack([legal[agent] for agent in env.inner.agents])
        np.testing.assert_array_equal(timestep.observation.action_mask, mask)
        np.testing.assert_allclose(env.global_state(state), env.inner.get_world_state(state.inner))
        actions = [np.flatnonzero(row)[0] for row in mask]
        state, timestep = step(state, jnp.asarray(actions, jnp.int32))
    assert env.global_state(state).dtype == np.float32 and env.global_state(state).ndim == 1


@pytest.mark.parametrize(
    ("alive", "time", "ended", "discount"),
    [("allies", 5, True, 0.0), ("enemies", 5, True, 0.0), ("both", 5, False, 1.0), ("both", 200, True, 1.0)],
)
def test_smax_ends_by_victory_or_by_time(battle, alive, time, ended, discount):
    _, reset, step = battle
    state, _ = reset(jax.random.key(0))
    inner = state.inner.state
    team = np.repeat([alive != "enemies", alive != "allies"], 3)
    inner = inner.replace(
        unit_alive=jnp.asarray(team), unit_health=inner.unit_health * team, step=jnp.full_like(inner.step, time)
    )
    state = state.replace(inner=state.inner.replace(state=inner))
    _, timestep = step(state, jnp.full(3, 4, jnp.int32))
    assert bool(timestep.last()) == ended and timestep.discount.tolist() == [discount] * 3


def test_boxes_of_unequal_size_are_padded_and_cut():
    env = make("MPE_simple_world_comm_v3")
    spec = env.action_spec
    assert env.action_sizes == (9, 5, 5, 5, 5, 5) and spec.shape == (6, 9)
    assert (spec.maximum[1, 5:] == 0).all() and (spec.maximum[0] > 0).all()
    written = env._write(jnp.full((6, 9), 7.0))
    assert [value.size for value in written.values()] == [9, 5, 5, 5, 5, 5]
    assert all(float(value.max()) == 1.0 for value in written.values())


def test_actions_beyond_an_agents_own_are_masked_and_clipped():
    env = make("MPE_simple_speaker_listener_v4")
    assert env.action_sizes == (3, 5)
    written = env._write(jnp.array([4, 9]))
    assert {agent: int(action) for agent, action in written.items()} == {"speaker_0": 2, "listener_0": 4}
    _, timestep = jax.jit(env.reset)(jax.random.key(0))
    np.testing.assert_array_equal(timestep.observation.action_mask.sum(axis=1), [3, 5])
    np.testing.assert_array_equal(timestep.observation.agents_view[0, 3:], np.zeros(8))


@pytest.mark.slow
@pytest.mark.parametrize("id", ["MPE_simple_tag_v3", "MPE_simple_world_comm_v3", "HeuristicEnemySMAX", "coin_game"])
def test_all_keep_the_contract(id):
    assert check_environment(make(id), num_steps=30) == []


def test_the_small_one_keeps_the_contract():
    assert check_environment(make("switch_riddle"), num_steps=8) == []


@pytest.mark.parametrize(
    ("id", "options", "error", "message"),
    [
        ("MPE_simple_spred_v3", {}, LookupError, "did you mean 'MPE_simple_spread_v3'"),
        (
            "switch_riddle",
            {"agents": 3},
            ValueError,
            r"jaxmarl:switch_riddle: cannot be made \(TypeError.*options: initial_",
        ),
        (
            "MPE_simple_spread_v3",
            {"foo": 1},
            ValueError,
            r"has no option 'foo' \(options: accel, .*local_ratio, .*, u_noise\)",
        ),
        (
            "HeuristicEnemySMAX",
            {"foo": 1},
            ValueError,
            r"\(options: action_type, attack_mode, enemy_shoots, map_height,",
        ),
        ("storm_np", {}, ValueError, "observations are not keyed by agent"),
        ("switch_riddle", {"num_agents": [3]}, TypeError, "must map names to values that can be hashed"),
    ],
)
def test_wrong_requests_are_named(id, options, error, message):
    with pytest.raises(error, match=message):
        make(id, **options)


def test_a_missing_extra_is_one_line_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxmarl", None)
    adapter._load.cache_clear()
    with pytest.raises(MissingExtra, match=r'^jaxmarl is not installed: pip install "marl-bench\[jaxmarl\]"$'):
        make("switch_riddle")


def test_ours_runs_under_jaxmarls_wrapper():
    from jaxmarl.wrappers.baselines import LogWrapper

    ours = DictEnvironment(marl_bench.make("public_goods", players=2, horizon=3))
    wrapped = LogWrapper(ours)
    _, state = wrapped.reset(jax.random.key(0))
    step = jax.jit(wrapped.step)
    returns = np.zeros(2)
    for count in range(3):
        _, state, rewards, dones, infos = step(jax.random.key(count), state, {a: jnp.int32(0) for a in ours.agents})
        returns += [float(rewards[agent]) for agent in ours.agents]
    assert dones["__all__"] and infos["returned_episode"].all()
    np.testing.assert_allclose(infos["returned_episode_returns"], returns, rtol=1e-6)
    assert ours.action_space("agent_0").n == 2 and ours.observation_space("agent_1").shape == (4,)
