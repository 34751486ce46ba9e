"""vicsek: rules by hand, anchors and bounds of its specification, symmetries, surfaces and conformance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import marl_bench
from marl_bench import make
from marl_bench.envs.swarms import sensing, surfaces


def played(env, policy, episodes, key=0):
    """Polarisation [E, T] after each step and mean |turn| of a scripted policy, and of the start [E]."""

    def play(key):
        state, timestep = env.reset(key)

        def step(carry, index):
            state, observation = carry
            state, timestep = env.step(state, policy(state, observation, jax.random.fold_in(key, index)))
            metrics = timestep.extras["metrics"]
            return (state, timestep.observation), (metrics["polarisation"], metrics["turn"])

        _, (order, turn) = jax.lax.scan(step, (state, timestep.observation), jnp.arange(env.horizon))
        return order, turn

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(key), episodes)))


def placed(env, heading, x=None, y=None):
    """A state with given headings, places drawn."""
    state, _ = env.reset(jax.random.key(0))
    heading = jnp.asarray(heading, jnp.float32)
    return state.replace(heading=heading, x=state.x if x is None else x, y=state.y if y is None else y)


# --- order and views -----------------------------------------------------------------------------------------


def test_order_parameter():
    angles = 2 * np.pi * np.arange(7) / 7
    assert sensing.order(np.cos(angles), np.sin(angles)) == pytest.approx(0, abs=1e-6)
    assert sensing.order(np.full(5, 0.6), np.full(5, 0.8)) == pytest.approx(1, abs=1e-6)
    draws = np.random.default_rng(0).uniform(-np.pi, np.pi, (2000, 25))
    squared = np.asarray(jax.vmap(sensing.order)(jnp.cos(draws), jnp.sin(draws))) ** 2
    assert squared.mean() == pytest.approx(1 / 25, abs=4 * float(squared.std()) / 2000**0.5)
    assert np.isfinite(jax.grad(lambda x: sensing.order(x, x))(jnp.zeros(4))).all()


def test_views_by_hand():
    """Agent 1 is seen across the seam, turned by 90 degrees; agent 2 is out of sight."""
    x, y = jnp.array([0.05, 0.95, 0.5]), jnp.array([0.5, 0.5, 0.5])
    heading = [0.0, np.pi / 2, 0.3]
    expected = {
        "moment": [[0, 1], [0, -1], [0, 0]],
        "moment_count": [[0, 1, 3], [0, -1, 3], [0, 0, 0]],
        "moment2": [[0, 1, -1, 0], [0, -1, -1, 0], [0, 0, 0, 0]],
        "sectors": [[0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1]],
    }
    for sensor, views in expected.items():
        env = make("vicsek", agents=3, sensor=sensor, sectors=4, radius=0.15)
        state = placed(env, heading, x, y)
        if sensor == "sectors":  # not on the border between two
            state = state.replace(heading=state.heading + jnp.array([0.0, 0.1, 0.0]))
        np.testing.assert_allclose(env.view(state), views, atol=1e-5)


def test_two_agents_see_a_unit_vector_and_a_compass():
    env = make("vicsek", agents=2, radius=0.5, side=1.0, compass=True)
    state = placed(env, [0.3, 1.0], jnp.array([0.1, 0.2]), jnp.array([0.1, 0.2]))
    view = np.asarray(env.view(state))
    np.testing.assert_allclose(np.linalg.norm(view[:, :2], axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(view[:, 2:], [[np.cos(0.3), np.sin(0.3)], [np.cos(1), np.sin(1)]], atol=1e-6)


# --- dynamics ------------------------------------------------------------------------------------------------


def test_turn_and_flight():
    for update, flown in (("backward", 0.0), ("forward", 0.1)):
        env = make("vicsek", agents=2, turn_noise=0.0, update=update, speed_control=True)
        state = placed(env, [0.0, 0.0], jnp.array([0.5, 0.5]), jnp.array([0.5, 0.2]))
        following, timestep = env.step(state, jnp.array([[0.5, 1.0], [3.0, 0.0]]))
        np.testing.assert_allclose(following.heading, [0.1, 0.2], atol=1e-6)
        angle = np.array([flown, 2 * flown])
        np.testing.assert_allclose(following.x - state.x, [0.075, 0.0375] * np.cos(angle), atol=1e-6)
        np.testing.assert_allclose(following.y - state.y, [0.075, 0.0375] * np.sin(angle), atol=1e-6)
        np.testing.assert_allclose(timestep.reward, 1 - 0.05 * 0.75, atol=1e-6)


@pytest.mark.parametrize(
    ("surface", "degrees", "lowest"),
    [
        *((surface, 0, (1, 1)) for surface in surfaces.GLUED),
        ("torus", 45, (1, 1)), ("torus", 90, (1, 1)), ("klein", 90, (1, 1)), ("rp2", 90, (1, 1)),
        ("klein", 45, (0.70, 0.75)), ("mobius", 45, (0.70, 0.75)), ("rp2", 45, (0, 0.2)), ("mobius", 90, (0, 0.5)),
    ],
)  # fmt: skip
def test_free_flight_of_an_aligned_swarm(surface, degrees, lowest):
    """Which directions survive the gluing (no turns, no noise, 100 steps)."""
    env = make("vicsek", agents=200, surface=surface, turn_noise=0.0)
    order, final = flight(env)(jnp.full(200, np.deg2rad(degrees)))
    low, high = lowest
    assert low - 1e-5 <= float(order.min()) <= high + 1e-5
    if surface == "torus":
        start, _ = env.reset(jax.random.key(0))
        expected = (np.asarray(start.x) + 100 * 0.075 * np.cos(np.deg2rad(degrees))) % 1
        gap = np.abs(np.asarray(final.x) - expected)
        assert np.minimum(gap, 1 - gap).max() < 1e-4


@functools.cache
def flight(env):
    def run(heading):
        state, _ = env.reset(jax.random.key(0))
        words = jnp.zeros(env.agents, jnp.uint32)

        def step(state, _):
            state = env.moved(state, jnp.zeros((env.agents, 1)), words)
            return state, sensing.order(jnp.cos(state.heading), jnp.sin(state.heading))

        final, order = jax.lax.scan(step, state.replace(heading=heading), None, length=100)
        return order, final

    return jax.jit(run)


def test_a_carried_hand_makes_a_constant_turn_the_same_everywhere():
    """An agent that keeps turning left crosses a mirroring seam: its turn changes sign in the chart, and its view with it."""
    env = make("vicsek", agents=2, surface="klein", handedness="carried", turn_noise=0.0, radius=0.5)
    state = placed(env, [0.0, 0.0], jnp.array([0.98, 0.5]), jnp.array([0.3, 0.3]))
    state, _ = env.step(state, jnp.zeros((2, 1)))
    np.testing.assert_array_equal(state.hand, [-1, 1])
    following, _ = env.step(state, jnp.ones((2, 1)))
    np.testing.assert_allclose(following.heading, [-0.2, 0.2], atol=1e-6)
    chart = make("vicsek", agents=2, surface="klein", turn_noise=0.0, radius=0.5)
    seen, plain = env.view(following), chart.view(following.replace(hand=None))
    np.testing.assert_allclose(seen, plain * np.array([[1, -1], [1, 1]]), atol=1e-6)


def test_classic_rule():
    """One step of full sight without noise aligns everybody; noise of the whole circle leaves chance."""
    env = make("vicsek", agents=30, dynamics="classic", side=1.0, radius=0.5, classic_noise=0.0)
    state = placed(env, np.random.default_rng(0).uniform(-1, 1, 30), jnp.full(30, 0.5), jnp.full(30, 0.5))
    state, timestep = env.step(state, jnp.zeros((30, 1)))
    assert timestep.extras["metrics"]["polarisation"] == pytest.approx(1, abs=1e-6)
    assert timestep.reward[0] < 1  # of the state before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noise", "expected"), [(0, 1), (1, 0.952), (2, 0.82), (3, 0.617), (4, 0.344), (5, 0.13), (2 * np.pi, 0.089)]
)
def test_classic_order_against_noise(noise, expected):
    """Mean of steps 500 ... 1500 at density 4, 100 agents, several seeds."""
    env = make("vicsek_1995", classic_noise=noise)
    order, _ = played(env, env.scripted_policies()["straight"], 6)
    assert order[:, 500:].mean() == pytest.approx(expected, abs=0.03)


# --- references ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "mean", "last", "turn"), [("steer", 0.928, 1.0, 0.214), ("gentle", 0.922, 1.0, 0.158)]
)
def test_scripted_anchors(policy, mean, last, turn):
    env = make("vicsek", agents=25)
    order, turns = played(env, env.scripted_policies()[policy], 24)
    by_episode = order.mean(1)
    assert by_episode.mean() == pytest.approx(mean, abs=0.03 + 3 * float(by_episode.std()) / 24**0.5)
    assert order[:, -1].mean() == pytest.approx(last, abs=0.01)
    assert turns.mean() == pytest.approx(turn, abs=0.04)


def test_nobody_beats_the_bound_on_what_turns_can_reach():
    """psi_t <= max_c mean_i cos(max(0, |wrap(phi_i - c)| - omega t)) without noise on the torus."""
    env = make("vicsek", agents=25, turn_noise=0.0)
    starts = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 8))[0].heading
    order, _ = played(env, env.scripted_policies()["steer"], 8)
    targets = np.linspace(-np.pi, np.pi, 721)
    gap = np.abs((np.asarray(starts)[:, None] - targets[None, :, None] + np.pi) % (2 * np.pi) - np.pi)
    for step in (0, 4, 9, 20):
        reach = np.cos(np.maximum(0, gap - 0.2 * (step + 1))).mean(-1).max(-1)
        assert (order[:, step] <= reach + 1e-3).all()


def test_cells_change_nothing():
    """Two steps of a swarm with cell lists and with all pairs."""
    pairs, cells = (make("vicsek", agents=200, radius=0.125, turn_noise=0.0, cells=count) for count in (None, 8))
    start, _ = pairs.reset(jax.random.key(3))
    turns = jax.random.uniform(jax.random.key(1), (2, 200, 1), minval=-1)
    results = []
    for env in (pairs, cells):
        state = start
        for turn in turns:
            state, timestep = jax.jit(env.step)(state, turn)
        results.append((state.heading, timestep.observation.agents_view, timestep.reward))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_permuted_agents_are_permuted_outcomes():
    env = make("vicsek", agents=12, turn_noise=0.0)
    state, _ = env.reset(jax.random.key(0))
    order = np.random.default_rng(0).permutation(12)
    turns = jax.random.uniform(jax.random.key(1), (12, 1), minval=-1)
    moved = state.replace(x=state.x[order], y=state.y[order], heading=state.heading[order])
    (plain, seen), (other, also) = env.step(state, turns), env.step(moved, turns[order])
    np.testing.assert_array_equal(plain.heading[order], other.heading)
    np.testing.assert_allclose(seen.observation.agents_view[order], also.observation.agents_view, atol=1e-6)
    np.testing.assert_allclose(seen.reward, also.reward, atol=1e-6)


def test_starts():
    key = jax.random.key(0)
    half = make("vicsek", agents=2000, start="half").reset(key)[0].heading
    assert np.abs(half).max() <= np.pi / 2 and np.ptp(half) > 3
    strong = make("vicsek", agents=2000, start="von_mises", concentration=4.0).reset(key)[0].heading
    assert np.cos(strong).mean() == pytest.approx(0.8635, abs=0.02)  # I1(4) / I0(4)
    none = make("vicsek", agents=2000, start="von_mises", concentration=0.0).reset(key)[0].heading
    assert np.cos(none).mean() == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"surface": "rp2", "sensor": "sectors", "handedness": "carried", "reward": "local", "speed_control": True},
        {"dynamics": "classic", "cells": 4, "sensor": "moment_count", "reward": "nematic"},
    ],
)
def test_conformance(fields):
    assert marl_bench.check_environment(make("vicsek", agents=5, horizon=4, **fields)) == []


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"agents": 1}, "agents=1: must be >= 2"),
        ({"surface": "tourus"}, "did you mean 'torus'"),
        ({"radius": 0.6}, "radius=0.6: must be at most half the side, 0.5"),
        ({"turn_noise": -1.0}, "turn_noise=-1.0: must be >= 0"),
        ({"cells": 5}, "cells=5: a cell must be at least a radius wide, so at most 4 fit"),
        ({"cells": 2}, "cells=2: must be between 3 and 16384"),
        ({"agents": 100_000, "radius": 0.01}, "use cells=100"),
        ({"speed": 1.5}, "speed=1.5: must be at most the side"),
        ({"dynamics": "classic", "speed_control": True}, "speed_control=True: the classic rule ignores"),
        ({"dynamics": "classic", "update": "forward"}, "the classic rule ignores"),
    ],
)
def test_bad_fields(fields, fault):
    with pytest.raises(ValueError, match=fault):
        make("vicsek", **fields)
