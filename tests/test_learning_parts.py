"""What the online learners share: returns, permutations, initial weights, distributions, networks, slots, value units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from marl_bench import make
from marl_bench.algorithms import slots, value_units
from marl_bench.algorithms.distributions import Categorical, Normal
from marl_bench.algorithms.equations import gae, lambda_targets
from marl_bench.algorithms.networks import Network, orthogonal
from marl_bench.algorithms.shuffle import permutation

# --- returns -----------------------------------------------------------------------------------------------


def sequence(seed, length=40):
    """Random rewards and values in which an episode ends in either way, at the game's own end or not at all."""
    rng = np.random.default_rng(seed)
    kind = rng.permutation(np.arange(length) % 4)
    numbers = {name: rng.normal(size=length) for name in ("reward", "value", "next_value")}
    # 0: goes on; 1: terminated; 2: truncated; 3: discount 0 without an end (which a world may emit for one agent)
    return {**numbers, "discount": np.isin(kind, (0, 2)) * 1.0, "is_last": np.isin(kind, (1, 2))}


@pytest.mark.parametrize("lambda_", [0.0, 0.8, 1.0])
def test_advantages_are_discounted_sums_of_errors(lambda_):
    data, gamma = sequence(0), 0.97
    found = jax.jit(gae)(*data.values(), gamma, lambda_)
    delta = data["reward"] + gamma * data["discount"] * data["next_value"] - data["value"]
    expected = np.zeros(len(delta))
    for t in range(len(delta)):
        weight = 1.0
        for k in range(t, len(delta)):
            expected[t] += weight * delta[k]
            if data["is_last"][k]:
                break
            weight *= gamma * lambda_
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("lambda_", [0.0, 0.8, 1.0])
def test_lambda_targets_are_mixtures_of_n_step_returns(lambda_):
    data, gamma = sequence(1), 0.97
    del data["value"]
    found = jax.jit(lambda_targets)(*data.values(), gamma, lambda_)
    reward, value, discount, last = data.values()
    for t in range(len(reward)):
        ends = t + int(np.argmax(last[t:])) if last[t:].any() else len(reward) - 1
        returns, total, weight = [], 0.0, 1.0
        for k in range(t, ends + 1):
            total += weight * reward[k]
            weight *= gamma * discount[k]
            returns.append(total + weight * value[k])
        mixture = lambda_ ** (len(returns) - 1) * returns[-1]
        mixture += sum((1 - lambda_) * lambda_**n * one for n, one in enumerate(returns[:-1]))
        np.testing.assert_allclose(found[t], mixture, atol=1e-5)


# --- permutations ------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([1, 2, 7, 64, 1000]), st.integers(0, 2**31))
def test_a_shuffle_is_a_permutation(size, seed):
    assert sorted(np.asarray(permutation(jax.random.key(seed), size)).tolist()) == list(range(size))


def test_shuffles_are_uniform_in_places_and_in_pairs():
    """6,000 shuffles of 6: every thing is everywhere equally often, and so is every ordered pair of neighbours."""
    orders = np.asarray(jax.jit(jax.vmap(lambda key: permutation(key, 6)))(jax.random.split(jax.random.key(0), 6000)))
    places = np.array([np.bincount(column, minlength=6) for column in orders.T])
    assert stats.chisquare(places.ravel()).pvalue > 1e-4
    pairs = np.bincount((orders[:, :-1] * 6 + orders[:, 1:]).ravel(), minlength=36).reshape(6, 6)
    assert (np.diag(pairs) == 0).all() and stats.chisquare(pairs[~np.eye(6, dtype=bool)]).pvalue > 1e-4


# --- weights and networks ----------------------------------------------------------------------------------

SHAPES = [(5, 3), (3, 7), (16, 16), (1, 4)]


def test_orthogonal_matrices_are_orthonormal_and_uniform():
    draw = jax.jit(jax.vmap(lambda key: orthogonal(key, SHAPES)))
    for shape, found in zip(SHAPES, draw(jax.random.split(jax.random.key(0), 500)), strict=True):
        assert found.shape == (500, *shape)
        short = found if shape[0] <= shape[1] else jnp.swapaxes(found, 1, 2)
        product = np.asarray(short @ jnp.swapaxes(short, 1, 2))
        np.testing.assert_allclose(product, np.broadcast_to(np.eye(min(shape)), product.shape), atol=1e-5)
        # An entry of a uniform unit vector in d dimensions has variance 1 / d.
        assert np.var(found) == pytest.approx(1 / max(shape), rel=0.15) and abs(np.mean(found)) < 0.03


NETWORKS = [
    Network((6,), 3, hidden_sizes=(8,)),
    Network((6,), 3, hidden_sizes=(8, 4), recurrent_size=5, extra=2),
    Network((5, 4, 2), 3, hidden_sizes=(8,), channels=(3,), activation="relu", recurrent_size=4),
]


@pytest.mark.parametrize("network", NETWORKS, ids=["perceptron", "gru", "convolution"])
def test_a_sequence_at_once_equals_its_steps(network):
    """Memories are cleared where an episode starts, before the step, and nowhere else."""
    key_params, key_views, key_memory = jax.random.split(jax.random.key(1), 3)
    params, length = network.init(key_params), 7
    views = jax.random.normal(key_views, (length, *network.input_shape))
    first = jnp.array([False, False, True, True, False, False, False])
    extra = jax.random.normal(key_views, (length, network.extra)) if network.extra else None
    start = jax.random.normal(key_memory, (network.recurrent_size,))
    memories, outputs = jax.jit(network.unroll)(params, start, views, first, extra)
    memory, apply = start, jax.jit(network.apply)
    for t in range(length):
        given = jnp.zeros_like(memory) if first[t] else memory
        memory, output = apply(params, given, views[t], jnp.bool_(False), None if extra is None else extra[t])
        np.testing.assert_allclose(outputs[t], output, atol=1e-5)
        np.testing.assert_allclose(memories[t], memory, atol=1e-5)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(network.unroll(p, start, views, first, extra)[1]))))(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_a_convolution_is_a_convolution():
    network = Network((5, 4, 2), 3, hidden_sizes=(), channels=(3,), activation="relu")
    params, view = network.init(jax.random.key(0)), np.random.default_rng(0).normal(size=(5, 4, 2)).astype(np.float32)
    kernel = np.asarray(params["convolution"][0]["w"]).reshape(3, 3, 2, 3)
    maps = np.zeros((3, 2, 3))
    for i in range(3):
        for j in range(2):
            maps[i, j] = np.einsum("xyc,xyck->k", view[i : i + 3, j : j + 3], kernel)
    expected = np.maximum(maps, 0).reshape(-1) @ np.asarray(params["output"]["w"])
    _, output = network.apply(params, jnp.zeros(0), jnp.asarray(view), jnp.bool_(True))
    np.testing.assert_allclose(output, expected, atol=1e-5)


# --- distributions -----------------------------------------------------------------------------------------


def test_categorical_equals_scipy_and_respects_the_mask():
    logits, mask = np.array([0.3, -1.0, 2.0, 0.5]), np.array([True, False, True, True])
    policy = Categorical.masked(jnp.asarray(logits, jnp.float32), jnp.asarray(mask))
    probability = np.where(mask, np.exp(logits), 0)
    probability /= probability.sum()
    assert policy.entropy() == pytest.approx(stats.entropy(probability), abs=1e-6)
    for action in np.flatnonzero(mask):
        assert policy.log_prob(jnp.int32(action)) == pytest.approx(np.log(probability[action]), abs=1e-6)
    assert policy.mode() == 2
    many = Categorical(jnp.broadcast_to(policy.logits, (20_000, 4)))
    counts = np.bincount(np.asarray(many.sample(many.draw(jax.random.key(0), (20_000,), 4))), minlength=4)
    assert counts[1] == 0 and stats.chisquare(counts[mask], 20_000 * probability[mask]).pvalue > 1e-4
    edges = many.sample(jnp.full(20_000, np.nextafter(np.float32(1), np.float32(0))))
    assert (np.asarray(edges) == 3).all() and (np.asarray(many.sample(jnp.zeros(20_000))) == 0).all()


def test_normal_equals_scipy():
    mean, log_std = np.array([0.3, -1.0]), np.array([0.2, -0.7])
    policy = Normal(jnp.asarray(mean, jnp.float32), jnp.asarray(log_std, jnp.float32))
    exact = stats.norm(mean, np.exp(log_std))
    assert policy.log_prob(jnp.array([0.5, -2.0])) == pytest.approx(exact.logpdf([0.5, -2.0]).sum(), abs=1e-5)
    assert policy.entropy() == pytest.approx(exact.entropy().sum(), abs=1e-5)
    drawn = Normal(policy.mean[None], policy.log_std[None]).sample(policy.draw(jax.random.key(0), (20_000,), 2))
    np.testing.assert_allclose(np.std(drawn, axis=0), exact.std(), rtol=0.03)


# --- slots and units ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [(0, 0, 0), (0, 1, 2), (1, 0, 1)])
def test_agents_use_the_parameters_of_their_slot(groups):
    params = {"w": jnp.arange(1.0, 2.0 + max(groups))}
    scaled = slots.over_agents(lambda params, x: params["w"] * x, groups)(params, jnp.array([1.0, 10.0, 100.0]))
    np.testing.assert_allclose(scaled, [(groups[i] + 1) * 10.0**i for i in range(3)])
    np.testing.assert_allclose(
        slots.over_agents(lambda params, x: params["w"] * x, jnp.asarray(groups))(
            params, jnp.array([1.0, 10.0, 100.0])
        ),
        scaled,
    )
    weights = np.asarray(slots.weights(groups))
    assert [weights[np.asarray(groups) == slot].sum() for slot in set(groups)] == pytest.approx(
        [1.0] * len(set(groups))
    )


def test_slots_follow_the_setting():
    env = make("spread")
    assert slots.slot_of_agent("shared", None, env) == slots.slot_of_agent("types", None, env) == (0, 0, 0)
    assert slots.slot_of_agent("independent", None, env) == (0, 1, 2)
    assert slots.slot_of_agent("shared", (1, 0, 1), env) == (1, 0, 1)
    assert slots.slot_of_agent("types", None, make("speaker_listener")) == (0, 1)
    assert slots.slot_of_agent("types", None, make("adversary")) == (0, 1, 1)
    for groups, message in [((0, 1), "3 entries"), ((0, 2, 2), "without a gap")]:
        with pytest.raises(ValueError, match=message):
            slots.slot_of_agent("shared", groups, env)


def test_value_units_are_the_mean_and_scale_of_the_targets():
    unknown = jnp.zeros(3)
    np.testing.assert_allclose(value_units.denormalized(jnp.array([1.0, 2.0]), unknown), [1, 2])
    targets = jnp.asarray(np.random.default_rng(0).normal(5, 3, 1000), jnp.float32)
    units = value_units.updated(unknown, targets)
    scaled = value_units.normalized(targets, units)
    assert abs(float(jnp.mean(scaled))) < 1e-2 and float(jnp.std(scaled)) == pytest.approx(1, abs=1e-2)
    np.testing.assert_allclose(value_units.denormalized(scaled, units), targets, atol=1e-3)
