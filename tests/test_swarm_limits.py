"""Mean-field limits of the swarms: their own numerics, and that finite swarms approach them like 1 / sqrt(N)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import marl_bench
from marl_bench import make
from marl_bench.envs.swarms import limits


@functools.partial(jax.jit, static_argnums=2)
def _flow(env, rule, steps):
    def step(state, _):
        following, timestep = env.step(state, rule[None])
        return following, (following.mass, timestep.reward[0])

    start, _ = env.reset(jax.random.key(0))
    _, (mass, reward) = jax.lax.scan(step, start, None, length=steps)
    return jnp.concatenate([start.mass[None], mass]), reward


def flow(env, rule, steps):
    """Masses [steps + 1, kinds, cells] and rewards [steps] under one rule [points]."""
    # The world is an argument: folding what follows from its numbers at compile time takes longer than computing it.
    return jax.tree.map(np.asarray, _flow(env, rule, steps))


def scripted(env, name):
    return env.scripted_policies()[name](None, None, None)[0]


def test_mass_is_kept_and_moves_by_hand():
    """Without noise a mass moves by the push; at the wall it stops."""
    mass = jnp.zeros(8).at[jnp.array([2, 7])].set(0.5)
    moved = limits.aggregated(mass, jnp.ones(8), 2.0, 1.0, 0.0, 0.0)  # a cell is 0.5 wide
    np.testing.assert_allclose(moved, [0, 0, 0, 0, 0.5, 0, 0, 0.5], atol=1e-6)
    readings = limits.sensed(50, 2.0, 0.3)
    np.testing.assert_allclose(readings.sum(1), 1, atol=1e-5)
    place = limits.middles(50, 2.0)
    assert readings[25] @ (place - place[25]) ** 2 == pytest.approx(0.09 + (4 / 50) ** 2 / 12, rel=1e-2)


def test_circle_turns_and_blurs():
    mass = jnp.zeros((2, 64)).at[:, 5].set(0.5)
    turn = jnp.array([[0.0], [2 * np.pi / 64 * 3.25]])
    moved = limits.fanned(mass, jnp.broadcast_to(turn, (2, 64)), 0.0)
    np.testing.assert_allclose(moved[0, 5], 0.5, atol=1e-6)
    np.testing.assert_allclose(moved[1, 8:10], [0.375, 0.125], atol=1e-6)
    angle = 2 * np.pi * np.arange(64) / 64
    blurred = limits.fanned(mass, jnp.zeros((2, 64)), 0.7).sum(0)
    assert np.abs(blurred @ np.exp(1j * angle)) == pytest.approx(np.exp(-0.245), abs=1e-5)


def test_finer_cells_change_little():
    """200 against 400 and 800 cells: the error is of second order."""
    returns = [flow(make("aggregation_limit", cells=cells), scripted(make("aggregation_limit"), "gather"), 60)[1].sum()
               for cells in (100, 200, 400)]  # fmt: skip
    coarse, fine = abs(returns[0] - returns[1]), abs(returns[1] - returns[2])
    assert fine < coarse / 2.5 and fine < 0.01 * abs(returns[2])


def test_stationary_spread_of_linear_feedback():
    """Variance (k^2 sigma_y^2 + sigma_x^2) / (2 k - k^2), a normal distribution."""
    env = make("aggregation_limit")
    mass, reward = flow(env, scripted(env, "gather"), 100)
    variance = (0.14**2 * 0.2**2 + 0.03**2) / (2 * 0.14 - 0.14**2)
    assert mass[-1, 0] @ limits.middles(400, 2.0) ** 2 == pytest.approx(variance, rel=0.03)
    assert reward[-1] == pytest.approx(-((2 * variance / np.pi) ** 0.5), rel=0.02)
    assert reward[0] == pytest.approx(-1, abs=1e-4)


def test_order_of_coupled_oscillators():
    """The self-consistent order of Gaussian frequencies at twice the critical coupling."""
    env = make("phase_limit", coupling=2 * 0.03 * np.sqrt(8 / np.pi), frequency_spread=0.03, concentration=1.0)
    mass, _ = flow(env, scripted(env, "straight"), 400)
    assert env.worth(jnp.asarray(mass[-1])) == pytest.approx(0.9370, abs=0.02)


def slope(sizes, squares, resamples=400):
    """Fitted exponent of root-mean-square errors over sizes, and its 95% interval over resampled episodes.

    `squares`: one array of squared errors [E] for each size.
    """
    rng = np.random.default_rng(0)
    drawn = [rng.choice(values, (resamples, len(values))).mean(1) for values in squares]
    fit = lambda means: np.polyfit(np.log(sizes), 0.5 * np.log(means), 1)[0]  # noqa: E731
    slopes = [fit(means) for means in np.array(drawn).T]
    return fit([np.mean(values) for values in squares]), np.quantile(slopes, [0.025, 0.975])


def aggregation_errors(agents, episodes, steps):
    """Squared Cramer distances [E] of the positions of a swarm from the limit, and its returns [E]."""
    env, limit = make("aggregation", agents=agents, dimensions=1), make("aggregation_limit")
    mass, _ = flow(limit, scripted(limit, "gather"), steps)
    cumulative = np.cumsum(mass[-1, 0])
    policy = env.scripted_policies()["gather"]

    def play(key):
        state, timestep = env.reset(key)

        def step(carry, _):
            state, timestep = env.step(carry[0], policy(carry[0], carry[1], key))
            return (state, timestep.observation), timestep.reward[0]

        (state, _), reward = jax.lax.scan(step, (state, timestep.observation), None, length=steps)
        return jnp.sort(state.position[0]), jnp.sum(reward)

    positions, returns = jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(agents), episodes))
    edges = np.linspace(-2, 2, 401)[1:]
    shares = np.stack([np.searchsorted(place, edges, side="right") for place in np.asarray(positions)]) / agents
    return np.mean((shares - cumulative) ** 2, axis=1), np.asarray(returns)


def test_aggregation_approaches_its_limit():
    """Distance of the distributions like N^(-1/2); the return of a fixed rule goes to that of the limit."""
    sizes, steps = (30, 300, 3000), 10
    found = [aggregation_errors(agents, 100, steps) for agents in sizes]
    exponent, (low, high) = slope(sizes, [errors for errors, _ in found])
    assert low <= -0.5 <= high and exponent == pytest.approx(-0.5, abs=0.06), (exponent, low, high)
    env = make("aggregation_limit")
    limit = flow(env, scripted(env, "gather"), steps)[1].sum()
    gaps = [abs(returns.mean() - limit) for _, returns in found]
    noise = found[-1][1].std() / 10
    assert gaps[0] > gaps[-1] and gaps[-1] < 4 * noise + 0.01


def headings_errors(agents, episodes, steps):
    """Squared distances [E] of the mean heading vector of a swarm on the torus from the limit's."""
    env = make("vicsek_biased", agents=agents, radius=0.5)
    limit = make("vicsek_limit")
    mass, _ = flow(limit, scripted(limit, "steer"), steps)
    expected = mass[-1].sum(0) @ np.exp(1j * limit.phases)
    policy = env.scripted_policies()["steer"]

    def play(key):
        state, timestep = env.reset(key)

        def step(carry, _):
            state, timestep = env.step(carry[0], policy(carry[0], carry[1], key))
            return (state, timestep.observation), None

        (state, _), _ = jax.lax.scan(step, (state, timestep.observation), None, length=steps)
        return jnp.mean(jnp.cos(state.heading)), jnp.mean(jnp.sin(state.heading))

    cos, sin = jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(agents), episodes))
    return np.abs(np.asarray(cos) + 1j * np.asarray(sin) - expected) ** 2


def test_a_swarm_that_interacts_approaches_its_limit():
    """Headings on the torus from a biased start, two steps: the error of the mean vector like N^(-1/2)."""
    sizes = (50, 150, 450)
    exponent, (low, high) = slope(sizes, [headings_errors(agents, 100, 2) for agents in sizes])
    assert low - 0.02 <= -0.5 <= high + 0.02 and exponent == pytest.approx(-0.5, abs=0.12), (exponent, low, high)


@pytest.mark.parametrize("name", ["aggregation_limit", "phase_limit"])
def test_conformance(name):
    assert marl_bench.check_environment(make(name, cells=16, horizon=4)) == []


@pytest.mark.parametrize(
    ("name", "fields", "fault"),
    [
        ("aggregation_limit", {"cells": 4}, "cells=4: must be >= 8"),
        ("aggregation_limit", {"sensor_noise": -1.0}, "sensor_noise=-1.0: must be >= 0"),
        ("phase_limit", {"points": 2}, "points=2: must be >= 4"),
        ("phase_limit", {"noise": -0.1}, "noise=-0.1: must be >= 0"),
    ],
)
def test_bad_fields(name, fields, fault):
    with pytest.raises(ValueError, match=fault):
        make(name, **fields)
