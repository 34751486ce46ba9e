"""Laws of the particle worlds: momentum, speed, symmetry, finite derivatives, and one program for many parameters."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from marl_bench.envs.batch_last import batch_last
from marl_bench.envs.particles import rules
from marl_bench.envs.particles.particle_world import State
from marl_bench.envs.particles.spread import Spread
from marl_bench.envs.particles.tag import Tag

coordinates = st.floats(-1.5, 1.5, width=32, allow_subnormal=False)


def points(count):
    return arrays.arrays(np.float32, (count, 2), elements=coordinates)


def state_of(position, velocity, landmark):
    return State(*map(jnp.asarray, (position, velocity, landmark)), None, None, jnp.int32(0), None)


@functools.cache
def stepper(cls, rules_name):
    return jax.jit(cls(rules=rules_name, actions="continuous").step)


usual = settings(max_examples=40, deadline=None)


@usual
@given(points(3), points(3))
def test_without_actions_momentum_decays_by_a_quarter(position, velocity):
    after, _ = stepper(Spread, "omar")(state_of(position, velocity, position), jnp.zeros((3, 2)))
    # Forces are up to 30 a pair; they cancel to rounding.
    np.testing.assert_allclose(np.sum(after.velocity, axis=0), 0.75 * velocity.sum(axis=0), atol=3e-5)


@usual
@given(points(4), arrays.arrays(np.float32, (4, 2), elements=st.floats(-9, 9, width=32)), points(4), points(2))
def test_speed_limits_hold(position, velocity, push, landmark):
    after, _ = stepper(Tag, "mpe2")(state_of(position, velocity, landmark), jnp.clip(push, -1, 1))
    speed = np.linalg.norm(after.velocity, axis=1)
    assert (speed <= np.array([1, 1, 1, 1.3]) * (1 + 1e-6)).all() and np.isfinite(speed).all()


def test_terminal_speed_is_force_times_step_over_damping():
    env = Spread(actions="continuous")
    state, _ = env.reset(jax.random.key(0))
    state = state.replace(position=jnp.array([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]]))
    push = jnp.tile(jnp.array([[1.0, 0.0]]), (3, 1))
    final = jax.jit(lambda state: jax.lax.fori_loop(0, 60, lambda _, s: env.step(s, push)[0], state))(state)
    np.testing.assert_allclose(final.velocity, [[2.0, 0.0]] * 3, rtol=1e-5)


@usual
@given(points(3), points(3), points(3), points(3), st.permutations(range(3)))
def test_agents_of_a_kind_can_change_places(position, velocity, landmark, push, order):
    step, order = stepper(Spread, "omar"), np.array(order)
    push = np.clip(push, -1, 1)
    one, first = step(state_of(position, velocity, landmark), push)
    two, second = step(state_of(position[order], velocity[order], landmark), push[order])
    np.testing.assert_allclose(two.velocity, np.asarray(one.velocity)[order], atol=3e-5)
    np.testing.assert_allclose(two.position, np.asarray(one.position)[order], atol=1e-5)
    own = np.asarray(first.observation.agents_view)[order, :10]
    np.testing.assert_allclose(second.observation.agents_view[:, :10], own, atol=3e-5)


@usual
@given(points(3), points(3), points(3), points(3))
def test_a_quarter_turn_turns_everything(position, velocity, landmark, push):
    step, push = stepper(Spread, "mpe2"), np.clip(push, -1, 1)

    def turned(a):
        return np.stack([-a[..., 1], a[..., 0]], axis=-1)

    _, first = step(state_of(position, velocity, landmark), push)
    _, second = step(state_of(turned(position), turned(velocity), turned(landmark)), turned(push))
    views = turned(np.asarray(first.observation.agents_view).reshape(3, 9, 2))
    np.testing.assert_allclose(np.asarray(second.observation.agents_view).reshape(3, 9, 2), views, atol=3e-5)
    np.testing.assert_allclose(second.reward, first.reward, atol=1e-5)


def grid_points(count):
    """Points on a grid of eighths, so that moving them by whole numbers is exact."""
    return arrays.arrays(np.int8, (count, 2), elements=st.integers(-12, 12)).map(lambda a: a.astype(np.float32) / 8)


@usual
@given(grid_points(3), grid_points(3), st.integers(-2, 2))
def test_moving_the_world_leaves_relative_views_and_rewards(position, landmark, shift):
    step, still = stepper(Spread, "mpe2"), np.zeros((3, 2), np.float32)
    _, first = step(state_of(position, still, landmark), still)
    _, second = step(state_of(position + shift, still, landmark + shift), still)
    np.testing.assert_array_equal(second.observation.agents_view[:, 4:], first.observation.agents_view[:, 4:])
    np.testing.assert_allclose(second.reward, first.reward, atol=1e-6)


# --- single rules --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("z", "penalty"),
    [(0.0, 0), (0.89, 0), (0.95, 0.5), (1.0, 1.0), (1.5, np.e), (1 + np.log(10) / 2, 10), (3.0, 10), (1e6, 10)],
)
def test_penalty_of_leaving(z, penalty):
    np.testing.assert_allclose(rules.outside(jnp.float32(z)), penalty, rtol=1e-5, atol=1e-6)
    assert np.isfinite(jax.grad(rules.outside)(jnp.float32(z)))


def test_contact_force_of_a_pair():
    def force(gap):
        x = jnp.array([0.0, gap])
        return [float(v) for v in rules.contact((x, x * 0), None, jnp.float32(0.3), 100.0, 1e-3)[0]]

    np.testing.assert_allclose(force(0.1), [-20, 20], rtol=1e-5)  # K times the depth of 0.2
    np.testing.assert_allclose(force(0.3), [-0.1 * np.log(2), 0.1 * np.log(2)], rtol=1e-3)  # they just touch
    np.testing.assert_allclose(force(0.35), [0, 0], atol=1e-12)
    assert force(0.0) == [0, 0]


def test_nobody_pushes_itself_where_the_compiler_fuses():
    """x * s - x * s is not 0 when the product is fused into the difference; the force of a self-pair would be 30."""

    @jax.jit
    @jax.vmap
    def moved(x, scale):
        return rules.contact((x * scale, x * scale * 0.7), None, jnp.float32(0.3), 100.0, 1e-3)

    x = jax.random.uniform(jax.random.key(0), (500, 3)) + jnp.array([0.0, 20.0, 40.0])
    force = moved(x, jax.random.uniform(jax.random.key(1), (500,), minval=0.5))
    assert np.abs(force).max() < 1e-3


@pytest.mark.parametrize("actions", ["discrete", "continuous"])
def test_a_landmark_pays_at_most_the_cap(actions):
    env = Spread(rules="omar", actions=actions)
    place = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    idle = jnp.zeros(env.action_spec.shape, env.action_spec.dtype)
    _, timestep = env.step(state_of(place, place * 0, place), idle)
    np.testing.assert_allclose(timestep.reward, 30.0, rtol=1e-6)


# --- derivatives and batches ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "rules_name"), [(Spread, "omar"), (Tag, "mpe2")])
def test_derivatives_are_finite_also_for_coincident_bodies(cls, rules_name):
    env = cls(rules=rules_name, actions="continuous")
    state, _ = env.reset(jax.random.key(0))
    same = state.replace(position=state.position * 0, landmark=state.landmark * 0)
    far = state.replace(position=state.position + 40)

    def score(env, position, velocity, push, state):
        after, timestep = env.step(state.replace(position=position, velocity=velocity), push)
        return jnp.sum(timestep.reward) + jnp.sum(after.position**2) + jnp.sum(timestep.observation.agents_view**2)

    slope = jax.jit(jax.vmap(jax.grad(score, argnums=(0, 1, 2, 3)), (None, 0, 0, None, 0)))
    env = jax.tree.map(jnp.float32, env)
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), state, same, far)
    found = slope(env, states.position, states.velocity + 0.3, jnp.full((env.num_agents, 2), 0.3), states)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert np.abs(found[1]).max() > 0 and np.abs(found[0].damping).max() > 0


def test_many_parameters_run_in_one_program():
    fields = [{"damping": 0.1, "accel": 4.0, "agent_size": 0.2}, {"damping": 0.5, "local_ratio": 0.9, "dt": 0.2}, {}]
    envs = [jax.tree.map(jnp.float32, Spread(**chosen)) for chosen in fields]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *envs)
    rng = np.random.default_rng(0)
    position, velocity = (rng.uniform(-0.4, 0.4, (3, 5, 3, 2)).astype(np.float32) for _ in range(2))
    states = State(
        jnp.asarray(position),
        jnp.asarray(velocity),
        jnp.asarray(position[..., ::-1]),
        None,
        None,
        jnp.zeros((3, 5), jnp.int32),
        None,
    )
    actions = rng.integers(5, size=(3, 5, 3))
    step = jax.jit(jax.vmap(jax.vmap(Spread.step, (None, 0, 0))))
    together = step(stacked, states, actions)
    traced = step._cache_size()
    step(jax.tree.map(lambda leaf: leaf * 1.1, stacked), states, actions)
    assert step._cache_size() == traced == 1
    alone = jax.jit(Spread.step)
    for k, env in enumerate(envs):
        one = alone(env, jax.tree.map(lambda leaf, k=k: leaf[k, 3], states), actions[k, 3])
        for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(ours[k, 3], theirs, atol=3e-5)


def test_batch_last_is_vmap():
    def plain(scale, x, tables):
        return {"x": x * scale - jnp.mean(x, axis=0), "sum": tables["a"][0] + jnp.sum(x, axis=0)}, jnp.float32(2)

    def every_way(function, x, tables):
        lanes = jnp.arange(4.0)
        nested = jax.vmap(jax.vmap(function, (None, 0, None)), (0, 0, None))
        total = lambda scale: jnp.sum(jax.vmap(function, (None, 0, None))(scale, x[..., 0], tables)[0]["x"])  # noqa: E731
        return [
            function(3.0, x[0, 0], tables),
            jax.vmap(function, (None, 0, None))(3.0, x[..., 0], tables),
            jax.vmap(function, (0, 0, None))(lanes, x[..., 0], tables),
            jax.vmap(function, (None, 1, None))(3.0, x[..., 0], tables),
            jax.vmap(function, (0, None, 0))(lanes, x[0, 0], {"a": x[:, :, 1]}),
            nested(lanes, x, tables),
            jax.grad(total)(2.0),
            jax.jvp(total, (2.0,), (1.0,)),
        ]

    x, tables = jax.random.normal(jax.random.key(0), (4, 5, 3)), {"a": jnp.arange(2.0)}
    ours, theirs = jax.jit(lambda x, tables: [every_way(f, x, tables) for f in (batch_last(plain), plain)])(x, tables)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, two in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-6)
