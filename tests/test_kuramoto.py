"""kuramoto: closed forms of the classic model, anchors of the controlled one, inertia, symmetries and conformance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

import marl_bench
from marl_bench import make

GAUSSIAN = {1.25: 0.7123, 1.5: 0.8497, 2.0: 0.9370, 3.0: 0.9762}
LORENTZIAN = {1.5: 0.5774, 2.0: 0.7071, 3.0: 0.8165}


@functools.cache
def uncontrolled(env, steps, kept):
    """(env with swept leaves, keys [E]) -> mean order over the last `kept` of `steps` steps, and final states."""

    def run(env, key):
        state, _ = env.reset(key)
        still = jnp.zeros(env.agents)

        def step(state, index):
            drawn = jax.random.bits(jax.random.fold_in(key, index), (env.agents,))
            state, velocity = env.moved(state, still, drawn)
            return state, (env.order(state), velocity)

        final, (order, velocity) = jax.lax.scan(step, state, jnp.arange(steps))
        return order, velocity, final

    def averaged(envs, keys):
        order, velocity, final = jax.vmap(run)(envs, keys)
        return jnp.mean(order[:, -kept:], axis=1), order, velocity, final

    return jax.jit(averaged)


def stacked(name, count, **leaves):
    """Environments that differ in leaves [count], and keys."""
    static = {key: value for key, value in leaves.items() if not isinstance(value, np.ndarray)}
    swept = {key: value for key, value in leaves.items() if isinstance(value, np.ndarray)}
    envs = [make(name, **static, **{key: float(value[i]) for key, value in swept.items()}) for i in range(count)]
    return envs[0], jax.tree.map(lambda *x: jnp.stack(x), *envs), jax.random.split(jax.random.key(0), count)


# --- the classic model ---------------------------------------------------------------------------------------


def test_onset_and_order_of_gaussian_frequencies():
    """K_c = 2 / (pi g(0)) = 1.596 s: chance below, the self-consistent order above."""
    critical = np.sqrt(8 / np.pi)
    ratios = np.array([0.5, 0.8, *GAUSSIAN])
    env, envs, keys = stacked("kuramoto_classic", len(ratios), agents=1000, coupling=critical * ratios)
    order, *_ = uncontrolled(env, 2400, 1200)(envs, keys)
    assert (order[:2] < 0.12).all() and order[0] < 0.06
    np.testing.assert_allclose(order[2:], list(GAUSSIAN.values()), atol=0.02)


def test_order_of_lorentzian_frequencies():
    """r = sqrt(1 - K_c / K) with K_c = 2 gamma."""
    ratios = np.array(list(LORENTZIAN))
    env, envs, keys = stacked("kuramoto_classic", 3, agents=1000, law="lorentzian", coupling=2 * ratios, step_time=0.02)
    order, *_ = uncontrolled(env, 2400, 1200)(envs, keys)
    np.testing.assert_allclose(order, np.sqrt(1 - 1 / ratios), atol=0.02)
    np.testing.assert_allclose(np.sqrt(1 - 1 / ratios), list(LORENTZIAN.values()), atol=1e-4)


def test_order_of_identical_noisy_oscillators():
    """r = I1(K r / D) / I0(K r / D), with noise^2 = 2 D."""
    couplings = np.array([3.0, 4.0, 6.0])
    env, envs, keys = stacked(
        "kuramoto_classic",
        3,
        agents=1000,
        frequency_spread=0.0,
        coupling=couplings,
        noise=2**0.5,
        heun=False,
        step_time=0.02,
    )
    order, *_ = uncontrolled(env, 2400, 1600)(envs, keys)
    ratio = lambda r, k: r - scipy.special.i1e(k * r) / scipy.special.i0e(k * r)  # noqa: E731
    expected = [scipy.optimize.brentq(ratio, 0.1, 1, args=(k,)) for k in couplings]
    np.testing.assert_allclose(order, expected, atol=0.025)


def test_two_oscillators_lock_or_drift():
    """With a frequency difference D below K they lock at asin(D / K); above it they drift at sqrt(D^2 - K^2)."""
    env, envs, keys = stacked(
        "kuramoto_classic", 2, agents=2, law="uniform", coupling=1.0, frequency_spread=np.array([0.5, 2.0])
    )
    _, order, _, final = uncontrolled(env, 4000, 10)(envs, keys)
    assert float(jnp.abs(final.frequency[0, 1] - final.frequency[0, 0])) == pytest.approx(0.5)
    locked = np.angle(np.exp(1j * (final.phase[0, 1] - final.phase[0, 0])))
    assert locked == pytest.approx(np.arcsin(0.5), abs=1e-3)
    order = np.asarray(order[1])  # |cos of half the difference|: one dip in every turn
    dips = np.flatnonzero((order[1:-1] < order[:-2]) & (order[1:-1] < order[2:]))
    rate = 2 * np.pi / (np.diff(dips).mean() * 0.05)
    assert rate == pytest.approx(np.sqrt(2.0**2 - 1.0), rel=0.01)


def test_mean_frequency_is_kept():
    """Symmetric forces cancel: the mean velocity is the mean frequency, whatever the coupling."""
    env, envs, keys = stacked(
        "kuramoto", 2, agents=50, graph="all", coupling=np.array([0.0, 0.3]), frequency_spread=0.1
    )
    _, _, velocity, final = uncontrolled(env, 50, 10)(envs, keys)
    np.testing.assert_allclose(velocity, np.broadcast_to(final.frequency.mean(1)[:, None], (2, 50)), atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "decay"),
    [
        ({}, lambda t: np.exp(-(0.05**2) * t**2 / 2)),
        ({"white": True}, lambda t: np.exp(-(0.05**2) * t / 2)),
        ({"law": "lorentzian"}, lambda t: np.exp(-0.05 * t)),
    ],
)
def test_uncoupled_phases_fan_out(fields, decay):
    env, envs, keys = stacked("kuramoto", 1, agents=20_000, graph="all", synchronous=True, **fields)
    _, order, *_ = uncontrolled(env, 40, 10)(envs, keys)
    np.testing.assert_allclose(order[0], decay(np.arange(1, 41)), atol=0.02)


# --- inertia -------------------------------------------------------------------------------------------------


def test_inertia_of_the_mean_velocity():
    """nu' = nu + dt / m (mean frequency - nu), exactly, since the coupling is symmetric."""
    env, envs, keys = stacked(
        "kuramoto",
        1,
        agents=40,
        graph="all",
        inertial=True,
        mass=3.0,
        coupling=0.5,
        step_time=0.5,
        frequency_spread=0.3,
    )
    _, _, velocity, final = uncontrolled(env, 60, 10)(envs, keys)
    mean = float(final.frequency.mean())
    np.testing.assert_allclose(velocity[0], mean, atol=1e-5)
    env = env.replace(coupling=0.5)
    state, _ = env.reset(keys[0])
    state = state.replace(velocity=jnp.zeros(40))
    _, velocity = env.moved(state, jnp.zeros(40), jnp.zeros(40, jnp.uint32))
    assert velocity == pytest.approx(0.5 / 3 * float(state.frequency.mean()), abs=1e-6)


def test_damped_energy_never_grows():
    """H = m / 2 sum nu^2 - K N / 2 r^2 without frequencies."""
    env = make(
        "kuramoto", agents=30, graph="all", inertial=True, mass=1.0, coupling=1.0, step_time=0.02, frequency_spread=0.0
    )
    state, _ = env.reset(jax.random.key(0))

    def step(state, _):
        state, _ = env.moved(state, jnp.zeros(30), jnp.zeros(30, jnp.uint32))
        return state, 0.5 * jnp.sum(state.velocity**2) - 15 * env.order(state) ** 2

    _, energy = jax.jit(lambda s: jax.lax.scan(step, s, None, length=400))(state)
    assert np.diff(energy).max() < 1e-4 and energy[0] - energy[-1] > 5


# --- the controlled task -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spread", "policy", "mean", "last"),
    [(0.05, "steer", 0.929, 0.998), (0.05, "gentle", 0.905, 0.994), (0.15, "steer", 0.758, 0.782)],
)
def test_scripted_anchors(spread, policy, mean, last):
    order = steered(policy)(jnp.float32(spread), jax.random.split(jax.random.key(0), 16))
    by_episode = np.asarray(order).mean(1)
    assert by_episode.mean() == pytest.approx(mean, abs=0.03 + 3 * float(by_episode.std()) / 4)
    assert np.asarray(order)[:, -20:].mean() == pytest.approx(last, abs=0.04)


@functools.cache
def steered(name):
    env = make("kuramoto")
    policy = env.scripted_policies()[name]

    def play(spread, key):
        world = env.replace(frequency_spread=spread)
        state, timestep = world.reset(key)

        def step(carry, _):
            state, timestep = world.step(carry[0], policy(*carry, key))
            return (state, timestep.observation), timestep.extras["metrics"]["order"]

        return jax.lax.scan(step, (state, timestep.observation), None, length=100)[1]

    return jax.jit(jax.vmap(play, (None, 0)))


def test_step_by_hand():
    env = make("kuramoto", agents=3, graph="all", coupling=0.3)
    state, _ = env.reset(jax.random.key(0))
    state = state.replace(phase=jnp.array([0.0, 0.5, -0.2]), frequency=jnp.array([0.1, 0.0, -0.1]))
    following, timestep = env.step(state, jnp.array([[0.5], [-4.0], [0.0]]))
    phase = np.array([0.0, 0.5, -0.2])
    pull = np.sin(phase[None] - phase[:, None]).mean(1)
    np.testing.assert_allclose(
        following.phase, phase + [0.1, 0, -0.1] + 0.2 * np.array([0.5, -1, 0]) + 0.3 * pull, atol=1e-6
    )
    np.testing.assert_allclose(timestep.reward, np.abs(np.exp(1j * phase).mean()) - 0.05 * 0.5, atol=1e-6)
    seen = np.exp(1j * (np.asarray(following.phase)[None] - np.asarray(following.phase)[:, None]))
    others = (seen.sum(1) - 1) / 2
    np.testing.assert_allclose(timestep.observation.agents_view, np.stack([others.real, others.imag], 1), atol=1e-6)


def test_a_common_shift_of_all_phases_changes_nothing():
    env = make("kuramoto", agents=20, sensor="moment2")
    state, _ = env.reset(jax.random.key(0))
    push = jax.random.uniform(jax.random.key(1), (20, 1), minval=-1)
    (plain, one), (shifted, other) = (env.step(state.replace(phase=state.phase + shift), push) for shift in (0.0, 1.0))
    np.testing.assert_allclose(one.observation.agents_view, other.observation.agents_view, atol=1e-5)
    np.testing.assert_allclose(np.exp(1j * (shifted.phase - plain.phase)), np.exp(1j), atol=1e-5)
    np.testing.assert_allclose(one.reward, other.reward, atol=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"graph": "all", "inertial": True, "see_velocity": True, "coupling": 0.1, "noise": 0.1},
        {"sensor": "sectors", "heun": True},
    ],
)
def test_conformance(fields):
    assert marl_bench.check_environment(make("kuramoto", agents=5, horizon=4, **fields)) == []


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"agents": 1}, "agents=1: must be >= 2"),
        ({"radius": 0.7}, "radius=0.7: must be at most half the side, 0.5"),
        ({"graph": "all", "sensor": "sectors"}, "use moment or moment2"),
        ({"heun": True, "inertial": True}, "heun=True: with inertial=True"),
        ({"see_velocity": True}, "only with inertial=True"),
        ({"inertial": True, "mass": 1.0}, "mass=1.0: must be > step_time"),
        ({"quantiles": True, "white": True}, "quantiles=True: with white=True"),
        ({"graph": "all", "cells": 4}, "cells=4: with graph=all"),
        ({"noise": -0.1}, "noise=-0.1: must be >= 0"),
    ],
)
def test_bad_fields(fields, fault):
    with pytest.raises(ValueError, match=fault):
        make("kuramoto", **fields)
