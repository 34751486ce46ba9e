"""Options of the swarms: a soft radius, friction of the swing equation, the three-zone script, milling and connected groups."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from marl_bench import make
from marl_bench.envs.swarms import diagnostics, neighbours
from marl_bench.envs.swarms.surfaces import Place


def at(env, x, y, heading):
    """A state of `env` (vicsek) with agents placed by hand."""
    state, _ = env.reset(jax.random.key(0))
    return state.replace(x=jnp.float32(x), y=jnp.float32(y), heading=jnp.float32(heading))


# --- a soft radius -------------------------------------------------------------------------------------------


def test_a_soft_radius_counts_fully_inside_not_outside_and_half_on_the_radius():
    distance = np.array([0.0, 0.19, 0.25, 0.31, 0.5], np.float32)
    found = neighbours.reach(jnp.square(distance), 0.25, 0.05)
    np.testing.assert_allclose(found, [1, 1, 0.5, 0, 0], atol=1e-6)
    fine = np.linspace(0, 0.5, 2001, dtype=np.float32)
    slope = np.diff(neighbours.reach(jnp.square(fine), 0.25, 0.05)) / np.diff(fine)
    assert slope.max() <= 1e-3 and slope.min() == pytest.approx(-1.5 / 0.1, rel=1e-2)  # 3 t (1 - t) / tau at t = 1/2
    np.testing.assert_array_equal(neighbours.reach(jnp.square(distance), 0.25, None), [1, 1, 0, 0, 0])


@pytest.mark.parametrize("surface", ["torus", "rp2"])
def test_views_change_by_little_when_a_neighbour_crosses_a_soft_radius_and_jump_at_a_sharp_one(surface):
    heading, changes = np.array([0.0, 0.3, 2.5]), {}
    for softness in (None, 0.05):
        env = make("vicsek", agents=3, surface=surface, softness=softness)
        views = [np.asarray(env.view(at(env, [0.3, 0.4, 0.3 + gap], [0.5] * 3, heading))) for gap in (0.2499, 0.2501)]
        changes[softness] = np.abs(views[1] - views[0])[0].max()
    assert changes[None] > 0.2 and changes[0.05] < 0.01


def test_a_soft_view_is_the_weighted_mean_of_the_neighbours():
    env = make("vicsek", agents=30, softness=0.05, sensor="moment2")
    state, _ = env.reset(jax.random.key(1))
    x, y, heading = (np.asarray(part, np.float64) for part in (state.x, state.y, state.heading))
    gap = [(part[None] - part[:, None] + 0.5) % 1 - 0.5 for part in (x, y)]
    t = np.clip((0.25 + 0.05 - np.hypot(*gap)) / 0.1, 0, 1)
    weight = t * t * (3 - 2 * t) * (1 - np.eye(30))
    angle = heading[None] - heading[:, None]
    waves = np.stack([np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(2 * angle)], -1)
    expected = (weight[..., None] * waves).sum(1) / np.maximum(weight.sum(1), 0.01 * 30)[:, None]
    np.testing.assert_allclose(env.view(state), expected, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "fields", "culprit"),
    [
        ("vicsek", {"softness": 0.3}, "softness=0.3: must be below the radius"),
        ("vicsek", {"softness": 0.0}, "softness=0.0: must be > 0"),
        ("vicsek", {"softness": 0.1, "cells": 4}, "with cells=4"),
        ("vicsek", {"softness": 0.1, "sensor": "sectors"}, "with sensor='sectors'"),
        ("vicsek", {"softness": 0.1, "dynamics": "classic"}, "sharp radius"),
        ("kuramoto", {"softness": 0.1, "graph": "all"}, "there is no radius"),
        ("kuramoto", {"damping": 0.5}, "only with inertial=True"),
        ("kuramoto", {"damping": -1.0, "inertial": True}, "damping=-1.0: must be >= 0"),
    ],
)
def test_options_that_exclude_each_other_are_refused(name, fields, culprit):
    with pytest.raises(ValueError) as caught:
        make(name, **fields)
    assert culprit in str(caught.value)


# --- the swing equation --------------------------------------------------------------------------------------


def energies(damping, step_time, steps):
    """[T] energy an oscillator, of 20 identical ones with inertia: m/2 nu^2 - K/2 r^2."""
    mass, coupling = 2.0, 1.0
    env = make(
        "kuramoto",
        **{"agents": 20, "graph": "all", "inertial": True, "damping": damping, "mass": mass, "coupling": coupling},
        **{"frequency_spread": 0.0, "step_time": step_time, "horizon": steps},
    )
    state, _ = env.reset(jax.random.key(2))

    @jax.jit
    def run(env, state):
        def step(state, _):
            state, _ = env.step(state, jnp.zeros((20, 1)))
            return state, 0.5 * mass * jnp.mean(state.velocity**2) - 0.5 * coupling * env.order(state) ** 2

        return jax.lax.scan(step, state, None, steps)[1]

    return np.asarray(run(env, state), np.float64)


def test_friction_takes_energy_away_and_without_it_the_error_is_bounded_and_falls_with_the_step():
    """Specification, section 6.3, checks (b) and (c): semi-implicit Euler."""
    damped = energies(0.5, 0.05, 400)
    assert np.diff(damped).max() < 1e-5 and damped[-1] < damped[0] - 0.1
    spreads = [np.ptp(energies(0.0, step, round(20 / step))) for step in (0.1, 0.05, 0.025)]
    assert spreads[0] < 0.1
    assert all(1.6 < coarse / fine < 2.5 for coarse, fine in itertools.pairwise(spreads))


def test_the_mean_velocity_follows_its_own_equation():
    """Check (a): symmetric coupling cancels, so nu' = nu + dt / m (omega + u - D nu) for the means."""
    env = make("kuramoto_swing", agents=50, graph="all", coupling=0.3)
    state, _ = env.reset(jax.random.key(3))
    mean = float(jnp.mean(state.velocity))
    for step in range(5):
        push = jnp.full((50, 1), 0.1 * step)
        state, _ = env.step(state, push)
        mean += (float(jnp.mean(state.frequency)) + 0.2 * 0.1 * step - 0.2 * mean) / 2.0
        assert float(jnp.mean(state.velocity)) == pytest.approx(mean, abs=1e-6)


# --- the three zones -----------------------------------------------------------------------------------------


def turn(x, y, heading, **fields):
    """What `couzin` does for the first of two agents."""
    env = make("vicsek", agents=2, radius=0.3, max_turn=3.2, **fields)
    state = at(env, x, y, heading)
    return float(env.scripted_policies()["couzin"](state, None, None)[0, 0]) * 3.2


def test_an_agent_turns_away_aligns_or_closes_up_by_distance():
    left = np.pi / 2
    assert turn([0.5, 0.5], [0.5, 0.55], [0.0, 1.0]) == pytest.approx(-left, abs=1e-4)  # too near, to the left
    assert turn([0.5, 0.62], [0.5, 0.5], [0.0, 1.0]) == pytest.approx(1.0, abs=1e-4)  # aligns
    assert turn([0.5, 0.5], [0.5, 0.75], [0.0, 1.0]) == pytest.approx(left, abs=1e-4)  # closes up
    assert turn([0.5, 0.25], [0.5, 0.5], [0.0, 1.0]) == pytest.approx(0.0, abs=1e-6)  # behind: not seen
    assert turn([0.95, 0.07], [0.5, 0.5], [0.0, 1.0]) == pytest.approx(1.0, abs=1e-4)  # through the seam


def test_three_zones_align_a_swarm():
    env = make("vicsek", agents=40)
    rule = env.scripted_policies()["couzin"]

    @jax.jit
    def final(env, key):
        start, _ = env.reset(key)

        def step(carry, _):
            state, _ = env.step(carry, rule(carry, None, None))
            return state, None

        return env.order(jax.lax.scan(step, start, None, 100)[0], None)

    found = [float(final(env, jax.random.key(seed))) for seed in range(4)]
    assert np.mean(found) > 0.7  # random headings: 0.14


# --- diagnostics ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("surface", "centre"), [("torus", 0.5), ("torus", 0.98), ("box_clip", 0.5)])
def test_circling_agents_mill_and_those_that_fly_apart_do_not(surface, centre):
    angle = 2 * np.pi * (np.arange(12) + 0.5) / 12
    x, y = ((centre + 0.2 * part).astype(np.float32) % 1 for part in (np.cos(angle), np.sin(angle)))
    tangent, outwards = Place(x, y, -np.sin(angle), np.cos(angle)), Place(x, y, np.cos(angle), np.sin(angle))
    assert float(diagnostics.milling(surface, tangent, 1.0)) == pytest.approx(1, abs=1e-4)
    assert float(diagnostics.milling(surface, outwards, 1.0)) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("radius", [0.05, 0.12, 0.3])
def test_components_are_those_of_scipy(radius):
    for name, surface in (("vicsek", "torus"), ("vicsek", "klein"), ("kuramoto", None)):
        fields = {"surface": surface} if surface else {}
        env = make(name, agents=80, radius=radius, **fields)
        seen = env.neighbours(env.reset(jax.random.key(5))[0])
        expected, _ = connected_components(np.asarray(seen), directed=False)
        assert int(diagnostics.components(seen)) == expected
