"""Decision rules of swarms: weights, smoothness, laws of actions, layouts, and a scripted rule that they can express."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from marl_bench import make, make_learner
from marl_bench.algorithms.mean_field.decision_rules import DecisionRule, grid, k_means, polar

BELOW_ONE = np.float32(1 - 2.0**-24)


def rule(centres, bandwidth=0.2, bound=1.0, actions=1, **fields):
    centres = np.asarray(centres, np.float32)
    return DecisionRule(jnp.asarray(centres), jnp.full(actions, -bound), jnp.full(actions, bound), bandwidth, **fields)


def parameters(decided, seed=0, scale=1.0):
    return scale * jax.random.normal(jax.random.key(seed), (decided.size,))


# --- weights -------------------------------------------------------------------------------------------------


def test_weights_against_float64():
    centres, view = grid(5, 2), np.random.default_rng(0).uniform(-1.5, 1.5, (500, 2)).astype(np.float32)
    squared = ((view.astype(np.float64)[:, None] - centres) ** 2).sum(-1)
    kernels = np.exp(-squared / (2 * 0.3**2))
    np.testing.assert_allclose(
        rule(centres, 0.3).weights(view), kernels / kernels.sum(1, keepdims=True), rtol=2e-4, atol=1e-6
    )
    nearest = rule(centres, kind="hist").weights(view)
    np.testing.assert_array_equal(np.argmax(nearest, axis=1), np.argmin(squared, axis=1))
    np.testing.assert_array_equal(np.sort(nearest)[:, -2:], np.tile([0.0, 1.0], (500, 1)))


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=2), st.sampled_from([1e-3, 1e-2, 0.1, 1.0, 10.0]))
@settings(max_examples=60, deadline=None)
def test_weights_far_away_and_of_narrow_kernels(view, bandwidth):
    weights = np.asarray(rule(grid(5, 2), bandwidth).weights(jnp.array(view, jnp.float32)))
    assert np.isfinite(weights).all() and weights.sum() == pytest.approx(1, abs=1e-5) and (weights >= 0).all()


def test_narrow_kernels_are_a_histogram():
    view = jnp.asarray(np.random.default_rng(1).uniform(-1.3, 1.3, (500, 2)), jnp.float32)
    centres = grid(5, 2)
    narrow, nearest = rule(centres, 1e-3).weights(view), rule(centres, kind="hist").weights(view)
    squared = np.sort(((np.asarray(view)[:, None] - centres) ** 2).sum(-1))
    clear = squared[:, 1] - squared[:, 0] > 1e-4
    assert clear.sum() > 490
    np.testing.assert_allclose(narrow[clear], nearest[clear], atol=1e-6)


# --- smoothness (the bounds that make the limit of many agents meaningful) -------------------------------------


@pytest.mark.parametrize("bandwidth", [0.25, 0.5, 1.0])
def test_lipschitz_bounds_hold_and_are_not_idle(bandwidth):
    """Total variation of the weights, the mean action, and the Wasserstein distance of the laws, by finite differences."""
    decided = rule(grid(5, 2), bandwidth, min_std=0.05, max_std=0.2, mix="components")
    rng = np.random.default_rng(0)
    here = rng.uniform(-1.2, 1.2, (4000, 2))
    angle = rng.uniform(0, 2 * np.pi, 4000)
    step = 1e-2
    there = here + step * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    xi = 3 * jnp.sign(parameters(decided))
    weights, other = (np.asarray(decided.weights(jnp.asarray(y, jnp.float32)), np.float64) for y in (here, there))
    means, spreads = (np.asarray(part, np.float64)[:, 0] for part in decided.squashed(xi))
    # D_C / (4 sigma^2), where D_C is the diagonal of the centres' square.
    bound = 1.6 * 2**0.5 / (4 * bandwidth**2)
    variation = 0.5 * np.abs(weights - other).sum(1) / step
    shift = np.abs((weights - other) @ means) / step
    assert 0.1 * bound < variation.max() <= bound
    assert 0.1 * bound < shift.max() / np.ptp(means) <= bound
    actions = np.linspace(-1, 1, 401)
    below = stats.norm.cdf((actions[:, None] - means) / spreads)  # [401, M], of laws that are cut off at the box
    distance = np.abs(below @ (weights - other).T).mean(0) * 2 / step
    assert 0.05 * bound * 2 < distance.max() <= 2 * bound
    # And the derivative itself: w_b (y_b - sum_c w_c y_c) / sigma^2.
    view = jnp.array([0.3, -0.2])
    slope = np.asarray(jax.jacobian(decided.weights)(view))
    weight, centres = np.asarray(decided.weights(view)), np.asarray(decided.centres)
    np.testing.assert_allclose(slope, weight[:, None] * (centres - weight @ centres) / bandwidth**2, atol=1e-4)


# --- laws of actions -----------------------------------------------------------------------------------------


def test_squashed_parameters_fill_their_ranges():
    decided = DecisionRule(jnp.zeros((1, 1)), jnp.array([-2.0, 0.0]), jnp.array([4.0, 1.0]), 1.0, 0.1, 0.6)
    means, spreads = decided.squashed(jnp.array([[-20.0, -20.0, 20.0, 20.0], [0.0, 0.0, 0.5, -0.5]]))
    half = (np.tanh(0.5) + 1) / 2
    np.testing.assert_allclose(means[:, 0], [[-2, 1], [1, half]], atol=1e-6)
    np.testing.assert_allclose(spreads[:, 0], [[0.1, 0.7], [0.4, 0.1 + 0.6 * (1 - half)]], atol=1e-6)


@pytest.mark.parametrize("equal", [True, False])
def test_mixing_laws_keeps_the_mean_and_adds_the_variance_of_the_centres(equal):
    """Against sums over all choices of a centre and quantiles of the noise; with equal spreads the rest is Var_w of the means."""
    view = jnp.array([0.1, -0.3])
    params, laws = (
        rule(grid(3, 2), 0.5, bound=50.0, min_std=0.2, max_std=0.4, mix=mix) for mix in ("params", "components")
    )
    xi = 0.02 * parameters(params).reshape(9, 1, 2)
    xi = (xi.at[..., 1].set(0.3 if equal else jnp.linspace(-2, 2, 9)[:, None])).reshape(-1)
    noise = stats.norm.ppf((np.arange(40) + 0.5) / 40)
    noise = jnp.asarray(noise / noise.std(), jnp.float32)
    uniform = jnp.asarray((np.arange(4000) + 0.5) / 4000, jnp.float32)
    blended = np.asarray(params.sample(xi, view, noise[:, None]), np.float64)
    mixed = np.asarray(laws.sample(xi, view, noise[:, None, None], uniform), np.float64)
    weight = np.asarray(params.weights(view), np.float64)
    means, spreads = (np.asarray(part, np.float64)[:, 0] for part in params.squashed(xi))
    assert mixed.mean() == pytest.approx(blended.mean(), abs=1e-3)
    assert blended.mean() == pytest.approx(float(params.mean(xi, view)[0]), abs=1e-5)
    assert blended.mean() == pytest.approx(weight @ means, abs=1e-4)
    extra = [weight @ part**2 - (weight @ part) ** 2 for part in (means, spreads)]
    assert mixed.var() - blended.var() == pytest.approx(sum(extra), rel=0.01)
    assert extra[0] > 0.1 and (extra[1] < 1e-9) == equal


def test_the_largest_random_number_chooses_a_centre():
    """Rounding of the weights' sum must not choose beyond the last one."""
    decided = rule(grid(5, 2), 0.4, min_std=0.0, max_std=0.0, mix="components")
    view = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2000, 2)), jnp.float32)
    xi = jnp.full(decided.size, 1.0)
    for uniform in (np.float32(0), BELOW_ONE):
        actions = jax.jit(decided.sample)(xi, view, jnp.zeros((2000, 1)), jnp.full(2000, uniform))
        np.testing.assert_allclose(actions, np.tanh(1.0), atol=1e-6)


@pytest.mark.parametrize("mix", ["params", "components"])
@pytest.mark.parametrize("kind", ["rbf", "hist"])
def test_parameters_of_ones_own(mix, kind):
    """One row of parameters for each agent is what each of them would do with that row."""
    decided = rule(grid(3, 2), 0.3, actions=2, mix=mix, kind=kind)
    keys = jax.random.split(jax.random.key(0), 4)
    xi, view = jax.random.normal(keys[0], (6, decided.size)), jax.random.uniform(keys[1], (6, 2), minval=-1.0)
    noise, uniform = jax.random.normal(keys[2], (6, 2)), jax.random.uniform(keys[3], (6,))
    together = decided.sample(xi, view, noise, uniform)
    alone = jnp.stack([decided.sample(*row) for row in zip(xi, view, noise, uniform, strict=True)])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert np.abs(together - decided.sample(xi[0], view, noise, uniform))[1:].max() > 0.1
    assert np.abs(decided.sample(5 * xi, view, 10 * noise, uniform)).max() == 1  # the box


# --- layouts -------------------------------------------------------------------------------------------------


def test_layouts():
    np.testing.assert_allclose(grid(5, 1)[:, 0], [-0.8, -0.4, 0, 0.4, 0.8], atol=1e-7)
    square = grid(4, 2)
    assert square.shape == (16, 2) and len({tuple(row) for row in square.tolist()}) == 16
    np.testing.assert_allclose(np.unique(square), [-0.75, -0.25, 0.25, 0.75])
    disc = polar()
    assert disc.shape == (17, 2)
    np.testing.assert_allclose(np.sort(np.linalg.norm(disc, axis=1)), [0] + [0.25] * 8 + [0.75] * 8, atol=1e-6)


def test_clusters_are_found():
    rng = np.random.default_rng(0)
    middles = np.array([[-0.7, 0.1], [0.6, 0.6], [0.2, -0.8]])
    points = np.concatenate([middle + 0.05 * rng.normal(size=(100, 2)) for middle in middles])
    found = np.asarray(k_means(jnp.asarray(points, jnp.float32), 3))
    expected = points.reshape(3, 100, 2).mean(1)
    np.testing.assert_allclose(found[np.argsort(found[:, 0])], expected[np.argsort(expected[:, 0])], atol=1e-5)
    alike = np.asarray(k_means(jnp.ones((10, 2)), 4))  # three clusters have no point: nothing is divided by 0
    np.testing.assert_array_equal(alike, np.ones((4, 2)))


# --- a scripted rule without any learning --------------------------------------------------------------------


def test_a_fitted_rule_steers():
    """The 25 means that come closest to `steer` in least squares have 0.9 of its lead over flying straight on."""
    env = make("vicsek", agents=25)
    learner = make_learner("dec_pomfc")
    params = {"rule": {"centres": jnp.asarray(grid(5, 2)), "low": -jnp.ones(1), "high": jnp.ones(1)}}
    scripted = env.scripted_policies()

    def play(policy):
        def one(key):
            state, timestep = env.reset(key)

            def step(carry, index):
                state, observation = carry
                actions = policy(state, observation, jax.random.fold_in(key, index))
                state, timestep = env.step(state, actions)
                return (state, timestep.observation), (timestep.reward[0], observation.agents_view)

            rewards, views = jax.lax.scan(step, (state, timestep.observation), jnp.arange(env.horizon))[1]
            return jnp.sum(rewards), views

        return jax.vmap(one)(jax.random.split(jax.random.key(0), 24))

    (best, views), (null, _) = jax.jit(lambda: [play(scripted[name]) for name in ("steer", "straight")])()
    views = np.asarray(views, np.float64).reshape(-1, 2)[::20]
    weights = np.asarray(learner.decision_rule(params["rule"]).weights(views), np.float64)
    wanted = np.clip(np.arctan2(views[:, 1], views[:, 0]) / env.max_turn, -1, 1)
    means = np.clip(np.linalg.lstsq(weights, wanted, rcond=1e-6)[0], -0.999, 0.999)
    xi = jnp.asarray(np.stack([np.arctanh(means), np.full(25, -8.0)], axis=1).reshape(-1), jnp.float32)

    def fitted(state, observation, key):
        return learner.apply_rule(params, xi, observation.agents_view, key)

    found = jax.jit(lambda: play(fitted)[0])().mean()
    best, null = best.mean(), null.mean()
    assert best > null + 50
    assert found > null + 0.9 * (best - null)
