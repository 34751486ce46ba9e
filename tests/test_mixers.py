"""The monotonic mixer: its formula, its monotonicity, and that it learns with all its parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marl_bench.algorithms.mixers import MonotonicMixer

MIXERS = {"paper": MonotonicMixer(4, 3, embedding=5), "deep": MonotonicMixer(4, 3, embedding=5, hypernet_sizes=(7,))}


def perceptron(layers, x):
    """ReLU layers, the last one linear."""
    for number, layer in enumerate(layers):
        x = x @ np.asarray(layer["w"], np.float64) + np.asarray(layer["b"], np.float64)
        x = x if number == len(layers) - 1 else np.maximum(x, 0)
    return x


def mixed(mixer, params, values, state):
    """The mixer for one state in float64."""
    inner = np.abs(perceptron(params["w1"], state)).reshape(mixer.num_agents, mixer.embedding)
    hidden = values @ inner + perceptron(params["b1"], state)
    hidden = np.where(hidden > 0, hidden, np.expm1(np.minimum(hidden, 0)))
    return hidden @ np.abs(perceptron(params["w2"], state)) + perceptron(params["b2"], state)[0]


@pytest.fixture(scope="module", params=MIXERS)
def mixer(request):
    """A mixer, its parameters, and its jitted value with gradients by parameters and values."""
    mixer = MIXERS[request.param]

    def total(params, values, state):
        return jnp.sum(mixer.apply(params, values, state)), mixer.apply(params, values, state)

    gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    return mixer, jax.jit(mixer.init)(jax.random.key(0)), gradients


def inputs(seed, rows=64):
    rng = np.random.default_rng(seed)
    return [rng.normal(scale=3, size=(rows, size)).astype(np.float32) for size in (3, 4)]


def test_value_equals_the_formula(mixer):
    mixer, params, gradients = mixer
    values, state = inputs(0)
    (_, found), _ = gradients(params, values, state)
    pairs = zip(values.astype(np.float64), state.astype(np.float64), strict=True)
    expected = [mixed(mixer, params, *pair) for pair in pairs]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.1, 1.0, 10.0]))
def test_the_team_never_loses_by_a_larger_value(mixer, seed, scale):
    """For parameters of any sign and size, too, because weights are absolute values."""
    _, params, gradients = mixer
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: rng.normal(scale=scale, size=leaf.shape).astype(np.float32), params)
    _, (_, slope) = gradients(params, *inputs(seed))
    assert (np.asarray(slope) >= 0).all() and np.asarray(slope).max() > 0


def test_every_parameter_learns(mixer):
    _, params, gradients = mixer
    _, (slope, _) = gradients(params, *inputs(1))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(slope))


def test_weights_depend_on_the_state(mixer):
    _, params, gradients = mixer
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda leaf: leaf + rng.normal(size=leaf.shape).astype(np.float32), params)
    values, state = inputs(2)
    _, (_, slope) = gradients(params, np.broadcast_to(values[:1], values.shape), state)
    assert np.std(slope, axis=0).min() > 0.1


@pytest.mark.parametrize("sizes", [(), (64,)])
def test_it_starts_as_a_sum(sizes):
    """Whatever the state: entries of the size of a board's coordinates must not drown the agents' values."""
    mixer, rng = MonotonicMixer(10, 3, hypernet_sizes=sizes), np.random.default_rng(0)
    params = jax.jit(mixer.init)(jax.random.key(0))
    values = rng.uniform(1, 3, (256, 3)).astype(np.float32)
    state = rng.integers(0, 10, (256, 10)).astype(np.float32)
    found = np.asarray(jax.jit(mixer.apply)(params, values, state))
    np.testing.assert_allclose(found, values.sum(axis=1), rtol=0.4)
