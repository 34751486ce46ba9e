"""`jumanji:ID`: the adapted environment is Jumanji's own, step by step; ends, agents and actions are read as documented."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import jumanji
import numpy as np
import pytest

import marl_bench
from marl_bench.adapters import jumanji as adapter
from marl_bench.adapters.extras import MissingExtra, import_extra
from marl_bench.check import check_environment

SINGLE = ("Snake-v1", "Tetris-v0", "Game2048-v1")
SEVERAL = {
    "LevelBasedForaging-v0": (2, 6, (12,)),
    "RobotWarehouse-v0": (4, 5, (66,)),
    "Connector-v3": (10, 5, (110,)),
    "Cleaner-v0": (3, 4, (105,)),
    "MMST-v0": (3, 36, (1 + 36 + 36 * 36 + 3,)),
    "JobShop-v0": (10, 21, (2 + 3 * 20 * 8 + 10,)),
    "MultiCVRP-v0": (2, 21, None),
    "SearchAndRescue-v0": (2, 0, (3, 128)),
}


QUICK = ("LevelBasedForaging-v0", "Connector-v3", "MultiCVRP-v0", "Snake-v1")
"""Traced in every run of the suite; each costs seconds, because Jumanji makes and traces slowly."""


@pytest.mark.parametrize(
    "id", [pytest.param(id, marks=() if id in QUICK else pytest.mark.slow) for id in (*SEVERAL, *SINGLE)]
)
def test_shapes_are_those_of_the_specs_at_reset_and_step(id):
    env = marl_bench.make(f"jumanji:{id}")
    state, first = jax.eval_shape(env.reset, jax.eval_shape(lambda: jax.random.key(0)))
    action = jax.ShapeDtypeStruct(env.action_spec.shape, env.action_spec.dtype)
    following, later = jax.eval_shape(env.step, state, action)
    assert jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), first, later)
    assert jax.tree.structure(first) == jax.tree.structure(later)
    assert jax.tree.structure(state) == jax.tree.structure(following)
    spec = env.observation_spec.agents_view
    assert (first.observation.agents_view.shape, first.observation.agents_view.dtype) == (spec.shape, spec.dtype)
    assert first.observation.action_mask.shape == (env.num_agents, env.num_actions)
    assert later.reward.shape == later.discount.shape == (env.num_agents,) and later.reward.dtype == np.float32
    if id in SEVERAL:
        agents, actions, view = SEVERAL[id]
        assert (env.num_agents, env.num_actions) == (agents, actions)
        assert view is None or env.observation_shape == view
    else:
        assert env.num_agents == 1


@pytest.fixture(scope="module")
def foraging():
    env = marl_bench.make("jumanji:LevelBasedForaging-v0", options={"time_limit": 12})
    return env, jax.jit(env.reset), jax.jit(env.step)


def test_foraging_is_jumanjis_step_by_step(foraging):
    _, reset, step = foraging
    theirs = jumanji.make("LevelBasedForaging-v0", time_limit=12)
    their_step = jax.jit(theirs.step)
    state, timestep = reset(jax.random.key(1))
    their_state, their_timestep = jax.jit(theirs.reset)(jax.random.key(1))
    rng = np.random.default_rng(0)
    for _ in range(12):
        np.testing.assert_array_equal(timestep.observation.agents_view, their_timestep.observation.agents_view)
        np.testing.assert_array_equal(timestep.observation.action_mask, their_timestep.observation.action_mask)
        np.testing.assert_array_equal(timestep.reward, their_timestep.reward)
        np.testing.assert_array_equal(timestep.discount, their_timestep.discount)
        assert timestep.step_type == their_timestep.step_type
        actions = jnp.asarray(rng.integers(0, 6, 2), jnp.int32)
        state, timestep = step(state, actions)
        their_state, their_timestep = their_step(their_state, actions)
    # The time limit: an end with discount 1, with the old episode's own observation.
    assert timestep.last() and timestep.discount.tolist() == [1.0, 1.0]
    assert timestep.observation.step_count == 12
    np.testing.assert_array_equal(timestep.observation.agents_view, their_timestep.observation.agents_view)


def test_food_that_is_eaten_terminates(foraging):
    _, _, step = foraging
    state, _ = foraging[1](jax.random.key(1))
    food = state.inner.food_items.replace(eaten=jnp.ones(2, bool))
    _, timestep = step(state.replace(inner=state.inner.replace(food_items=food)), jnp.zeros(2, jnp.int32))
    assert timestep.last() and timestep.discount.tolist() == [0.0, 0.0]


def test_actions_out_of_range_are_clipped(foraging):
    _, reset, step = foraging
    state, _ = reset(jax.random.key(2))
    for wild, tame in (((99, -7), (5, 0)), ((6, 5), (5, 5))):
        outcomes = [step(state, jnp.asarray(actions, jnp.int32)) for actions in (wild, tame)]
        jax.tree.map(np.testing.assert_array_equal, *[jax.tree.leaves((t.observation, t.reward)) for _, t in outcomes])


def test_pictures_are_those_of_jumanjis_viewer_and_open_no_window(foraging):
    import matplotlib
    from matplotlib import pyplot

    env, reset, _ = foraging
    before = matplotlib.get_backend(), pyplot.get_fignums()
    one, other = (np.asarray(env.render(reset(jax.random.key(seed))[0])) for seed in (0, 1))
    assert one.shape == other.shape == (400, 400, 3) and one.dtype == np.uint8
    # Black ground, white figures, red fruit; the two starts differ.
    assert len(np.unique(one.reshape(-1, 3), axis=0)) > 3 and (one != other).any()
    np.testing.assert_array_equal(one, env.render(reset(jax.random.key(0))[0]))
    assert (matplotlib.get_backend(), pyplot.get_fignums()) == before


def test_a_viewer_that_makes_no_pixels_is_an_error(foraging, monkeypatch):
    env, reset, _ = foraging
    monkeypatch.setattr(env.inner.unwrapped, "_viewer", None)
    with pytest.raises(NotImplementedError, match="Jumanji has no viewer of LevelBasedForaging-v0"):
        env.render(reset(jax.random.key(0))[0])


def test_what_is_shared_goes_to_every_agent():
    env = marl_bench.make("jumanji:Cleaner-v0")
    state, timestep = jax.jit(env.reset)(jax.random.key(0))
    view = np.asarray(timestep.observation.agents_view)
    np.testing.assert_array_equal(view[:, :2], state.inner.agents_locations)
    np.testing.assert_array_equal(view[:, 2:-3], np.tile(np.ravel(state.inner.grid), (3, 1)))
    np.testing.assert_array_equal(view[:, -3:], np.eye(3))
    legal = np.argmax(timestep.observation.action_mask, axis=1)
    _, timestep = jax.jit(env.step)(state, jnp.asarray(legal, jnp.int32))
    assert len(set(np.asarray(timestep.reward).tolist())) == 1 and timestep.reward.shape == (3,)
    assert {"num_dirty_tiles", "ratio_dirty_tiles"} == set(timestep.extras["metrics"]) == set(env.metric_units)


def test_a_composite_action_of_one_agent_is_one_index():
    env = marl_bench.make("jumanji:RubiksCube-partly-scrambled-v0")
    sizes = np.asarray(env.inner.action_spec.num_values)
    assert env.num_agents == 1 and env.num_actions == sizes.prod()
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    their_step, step = jax.jit(env.inner.step), jax.jit(env.step)
    for index in (0, 7, int(sizes.prod()) - 1):
        _, timestep = step(state, jnp.array([index]))
        parts = jnp.asarray(np.unravel_index(index, tuple(sizes)), jnp.int32)
        _, theirs = their_step(state.inner, parts)
        np.testing.assert_array_equal(timestep.observation.agents_view[0], np.ravel(theirs.observation.cube))


def test_continuous_actions_are_a_box_that_clips():
    env = marl_bench.make("jumanji:SearchAndRescue-v0")
    spec = env.action_spec
    assert spec.shape == (2, 2) and env.num_actions == 0 and spec.dtype == np.float32
    written = env._write(jnp.full((2, 2), 100.0))
    np.testing.assert_array_equal(written, np.broadcast_to(spec.maximum, (2, 2)))


def test_one_environment_is_made_once_and_never_under_a_trace():
    adapter._load.cache_clear()
    adapter._view_of.cache_clear()

    @jax.jit
    def inside(key):
        env = marl_bench.make("jumanji:Snake-v1")
        return env.reset(key)[1].observation.agents_view

    view = inside(jax.random.key(0))
    env = marl_bench.make("jumanji:Snake-v1")
    np.testing.assert_array_equal(view, env.reset(jax.random.key(0))[1].observation.agents_view)
    assert env.inner is marl_bench.make("jumanji:Snake-v1", options={}).inner
    assert env.inner is not marl_bench.make("jumanji:Snake-v1", options={"time_limit": 7}).inner


@pytest.mark.slow
@pytest.mark.parametrize("id", ["LevelBasedForaging-v0", "Connector-v3", "Cleaner-v0", "SearchAndRescue-v0"])
def test_all_keep_the_contract(id):
    assert check_environment(marl_bench.make(f"jumanji:{id}"), num_steps=30) == []


# --- requests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("jumanji:LevelBasedForagin-v0", {}, LookupError, "did you mean 'LevelBasedForaging-v0'"),
        ("jumanji:Sake-v1", {}, LookupError, r"did you mean 'Snake-v1'.* \('marl-bench list jumanji' shows all\)"),
        (
            "jumanji:Snake-v1",
            {"num_row": 3},
            ValueError,
            r"TypeError.*did you mean 'num_rows'\? \(options: num_cols, num_rows,",
        ),
        ("jumanji:Snake-v1", {"time_limit": [3]}, TypeError, "must map names to values that can be hashed"),
        ("jumanji:Snake-v1", 3, TypeError, "must map names to values"),
    ],
)
def test_wrong_requests_are_named(name, options, error, message):
    with pytest.raises(error, match=message):
        marl_bench.make(name, options=options)


def test_a_missing_extra_is_one_line_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "jumanji", None)
    adapter._load.cache_clear()
    with pytest.raises(MissingExtra, match=r'^jumanji is not installed: pip install "marl-bench\[jumanji\]"$'):
        marl_bench.make("jumanji:Snake-v1")


def test_an_extra_that_fails_to_import_says_why(monkeypatch, tmp_path):
    (tmp_path / "half_a_package.py").write_text("import no_such_part\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtra, match=r"half_a_package cannot be imported \(No module named 'no_such_part'\)"):
        import_extra("half_a_package", "jumanji")
