"""Features of a mean field against direct sums; what swarms tell about it; moments of neighbours by products of matrices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_swarm_surfaces import image_by_hand

from marl_bench import make, make_learner
from marl_bench.envs.swarms import neighbours, sensing, surfaces
from marl_bench.envs.swarms.surfaces import Place
from marl_bench.mean_field import MOST, Axis, Features

AXES = (Axis("line", 3), Axis("circle", 4, 0.5), Axis("circle", 5, order=True))


of = jax.jit(lambda features, places, weights=None: features(AXES, places, weights))
"""`Features` along `AXES`, compiled."""


def angles(angle):
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def placed(images, agents, seed=0):
    """[C, N, 5] float32 places along `AXES`, at random."""
    rng = np.random.default_rng(seed)
    line = rng.uniform(-1, 1, (images, agents, 1))
    places = [line, *(angles(rng.uniform(-np.pi, np.pi, (images, agents))) for _ in range(2))]
    return np.concatenate(places, axis=-1).astype(np.float32)


def kernels(features, axis, count, columns):
    """[S, count] in float64, from the definition: Gaussian, or the nearest centre, along one axis."""
    middles = (np.arange(count) + 0.5) / count
    if axis.kind == "line":
        distance, spacing = np.abs(columns - (2 * middles - 1)), 2 / count
    else:
        apart = np.arctan2(columns[:, 1], columns[:, 0])[:, None] - 2 * np.pi * axis.share * middles
        distance, spacing = np.sqrt(2 * (1 - np.cos(apart))), 2 * np.pi * axis.share / count
    if features.kind == "hist":
        return np.eye(count)[np.argmin(distance, axis=1)]
    return np.exp(-(distance**2) / (2 * (features.bandwidth * spacing) ** 2))


def direct(features, axes, places):
    """[K'] by a loop over the centres, divided by the same for 4000 places evenly spread along each axis."""
    columns, total, start = [], np.ones((places.shape[0] * places.shape[1], 1)), 0
    reference = np.ones(1)
    for axis, count in zip(axes, features.counts(axes), strict=True):
        width = 1 if axis.kind == "line" else 2
        columns = places[..., start : start + width].reshape(-1, width).astype(np.float64)
        start += width
        even = (np.arange(4000) + 0.5) / 4000
        even = (2 * even - 1)[:, None] if axis.kind == "line" else angles(2 * np.pi * even)
        here = kernels(features, axis, count, columns) if count > 1 else np.ones((len(columns), 1))
        mean = kernels(features, axis, count, even).mean(0) if count > 1 else np.ones(1)
        total = (total[:, :, None] * here[:, None]).reshape(len(total), -1)
        reference = np.outer(reference, mean).reshape(-1)
    return np.minimum(total.mean(0) / reference, MOST)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize(
    "features",
    [Features(), Features(bandwidth=0.8), Features("hist"), Features(centres=(2, 1, 3)), Features("hist", (1, 1, 4))],
)
def test_features_are_kernel_means(features, images):
    places = placed(images, 40)
    found = np.asarray(of(features, places))
    assert found.shape == (features.size(AXES),)
    expected = direct(features, AXES, places)
    # A histogram's steps lie between the points of the quadrature that its reference is taken with.
    np.testing.assert_allclose(found[:-2], expected, rtol=2e-3 if features.kind == "rbf" else 0.015, atol=1e-4)
    assert np.ptp(found[:-2]) > 0.3
    np.testing.assert_allclose(found[-2:], places[0, :, -2:].mean(0), atol=1e-6)  # of the agents, not of their images


@pytest.mark.parametrize("features", [Features(), Features("hist")])
def test_neither_order_nor_number_of_agents_counts(features):
    places = placed(2, 30)
    found = of(features, places)
    shuffled = places[:, np.random.default_rng(1).permutation(30)]
    np.testing.assert_allclose(of(features, shuffled), found, atol=2e-6)
    np.testing.assert_allclose(of(features, np.concatenate([places] * 3, axis=1)), found, atol=2e-6)
    weights = np.zeros(30, np.float32)
    weights[:10] = 4
    some = of(features, np.concatenate([places[:, :10]] * 3, axis=1))
    np.testing.assert_allclose(of(features, places, weights), some, atol=2e-6)
    assert np.abs(found - some).max() > 0.1


def test_a_feature_is_as_smooth_as_its_kernel():
    """A swarm in one point, moved by d: no feature of a line changes by more than c_b e^(-1/2) d / sigma, and one nearly does."""
    features, axes, step = Features(centres=(6,)), (Axis("line"),), 1e-3
    middles = np.linspace(-1, 1, 201, dtype=np.float32)
    moved = jax.jit(jax.vmap(lambda x: features(axes, jnp.full((1, 5, 1), x))))
    slope = np.abs(np.asarray(moved(middles + step)) - np.asarray(moved(middles))) / step
    sigma = 0.5 * 2 / 6
    uniform = kernels(features, axes[0], 6, np.linspace(-1, 1, 20001)[:, None]).mean(0)
    bound = np.exp(-0.5) / sigma / uniform
    assert (slope <= bound * 1.005).all() and (slope.max(0) > 0.98 * bound).all()


def test_features_of_a_swarm_in_one_point_are_bounded():
    found = Features("hist", (40,))((Axis("line"),), jnp.zeros((1, 9, 1)))
    assert np.count_nonzero(found) == 1 and found.max() == MOST
    assert Features("none")(AXES, jnp.zeros((1, 9, 5))).tolist() == [1.0] and Features("none").size(AXES) == 1


def test_canonical_features_turn_with_the_swarm():
    places = placed(1, 25)
    headings = np.arctan2(places[..., 4], places[..., 3])
    plain, canonical = (Features(canonical=flag) for flag in (False, True))
    found = []
    for turn in (0.0, 0.7, 2.9):
        turned = np.concatenate([places[..., :3], angles(headings + turn)], axis=-1).astype(np.float32)
        found.append([np.asarray(of(features, turned)) for features in (plain, canonical)])
    for one in found[1:]:
        np.testing.assert_allclose(one[1], found[0][1], atol=1e-5)
        assert np.abs(one[0] - found[0][0]).max() > 0.1
    length = np.hypot(*places[0, :, 3:].mean(0))
    np.testing.assert_allclose(found[0][1][-2:], [length, 0], atol=1e-6)
    mean = np.arctan2(*places[0, :, 3:].mean(0)[::-1])
    turned = np.concatenate([places[..., :3], angles(headings - mean)], axis=-1).astype(np.float32)
    np.testing.assert_allclose(found[0][1], of(plain, turned), atol=1e-5)


# --- of swarms -----------------------------------------------------------------------------------------------


@functools.cache
def flight(surface):
    """A swarm on a surface, and its features [K] as a function of x, y and heading [N]."""
    env = make("vicsek", agents=12, surface=surface, side=2.0)
    start, _ = env.reset(jax.random.key(0))

    @jax.jit
    def features(x, y, heading):
        return Features()(env.mean_field_axes, env.mean_field(start.replace(x=x, y=y, heading=heading)))

    return env, features


def swarm(seed=0, agents=12, side=2.0):
    rng = np.random.default_rng(seed)
    return *rng.uniform(0, side, (2, agents)), rng.uniform(-np.pi, np.pi, agents)


@pytest.mark.parametrize("surface", surfaces.SURFACES)
def test_features_of_a_surface_are_sums_over_images(surface):
    """Every image of an agent in one covering torus counts, by the gluing applied by hand."""
    env, features = flight(surface)
    x, y, heading = swarm()
    covers = [
        (a, b)
        for a in ((0, 1) if surface in surfaces.FLIPPED else (0,))
        for b in ((0, 1) if surface == "rp2" else (0,))
    ]
    total = 0
    for a, b in covers:
        image = image_by_hand(surface, x, y, heading, a, b, 2.0)
        parts = [np.ones((12, 1))]
        for axis, along in zip(env.mean_field_axes, image, strict=True):
            if axis.order:
                columns = angles(along)
            elif axis.kind == "line":
                columns = along[:, None] - 1
            else:
                columns = angles(2 * np.pi * axis.share * along / 2)
            parts.append(kernels(Features(), axis, axis.centres, columns))
        total = total + functools.reduce(lambda one, two: (one[:, :, None] * two[:, None]).reshape(12, -1), parts).mean(
            0
        )
    # The kernels' own sum over a uniform swarm, by a grid of it.
    even = [
        np.linspace(-1, 1, 4001)[:, None] if axis.kind == "line" else angles(2 * np.pi * np.arange(4000) / 4000)
        for axis in env.mean_field_axes
    ]
    uniform = [
        kernels(Features(), axis, axis.centres, e).mean(0) for axis, e in zip(env.mean_field_axes, even, strict=True)
    ]
    expected = np.minimum(total / len(covers) / functools.reduce(np.outer, uniform).reshape(-1), MOST)
    np.testing.assert_allclose(features(x, y, heading)[:-2], expected, rtol=3e-3, atol=1e-4)


@pytest.mark.parametrize("surface", surfaces.GLUED)
def test_features_are_continuous_across_the_seams(surface):
    """An agent just before a seam and the same one just behind it, with what the seam does to its place and heading."""
    _, features = flight(surface)
    x, y, heading = swarm(1)
    for side, crossed in ((0, (-1, 0)), (1, (0, -1))):
        if side and surface not in surfaces.GLUED_TOP:
            continue
        before, behind = ([axis.copy() for axis in (x, y, heading)] for _ in range(2))
        before[side][0] = 2.0 - 1e-4
        behind[side][0] = 2.0 + 1e-4
        image = image_by_hand(surface, *(axis[0] for axis in behind), *crossed, 2.0)
        for axis, value in zip(behind, image, strict=True):
            axis[0] = value
        assert 0 < behind[side][0] < 1e-3
        here, there = (np.asarray(features(*one)) for one in (before, behind))
        np.testing.assert_allclose(here[:-2], there[:-2], atol=3e-3)
        before[side][0] = 1.0
        assert np.abs(np.asarray(features(*before)) - here)[:-2].max() > 0.1


@pytest.mark.parametrize("surface", ["torus", "rp2", "mobius"])
def test_features_of_a_uniform_swarm_are_one(surface):
    env = make("vicsek", agents=6144, cells=4, surface=surface, side=2.0)
    x, y, heading = np.meshgrid((np.arange(16) + 0.5) / 8, (np.arange(16) + 0.5) / 8, 2 * np.pi * np.arange(24) / 24)
    state = jax.eval_shape(env.reset, jax.random.key(0))[0].replace(
        **{name: jnp.asarray(value.ravel(), jnp.float32) for name, value in (("x", x), ("y", y), ("heading", heading))}
    )
    found = Features()(env.mean_field_axes, env.mean_field(state))
    assert found.shape == (98,)
    np.testing.assert_allclose(found[:-2], 1, atol=0.01)
    np.testing.assert_allclose(found[-2:], 0, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"centres": (4, 4)},
            r"centres \(4, 4\): Vicsek has 3 axes, give one number >= 1 for each, such as \(4, 4, 6\)",
        ),
        ({"centres": (4, 4, 0)}, "give one number >= 1 for each"),
        (
            {"canonical": True, "surface": "klein"},
            "canonical=True: needs one axis with a direction and no mirrored images",
        ),
        ({"kind": "rbt"}, "did you mean 'rbf'"),
        ({"bandwidth": 0.0}, "bandwidth=0.0: must be > 0"),
    ],
)
def test_bad_features(fields, message):
    env = make("vicsek", surface=fields.pop("surface", "torus"))
    with pytest.raises(ValueError, match=message):
        Features(**fields).validate(env)


# --- broadcast -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size"), [("aggregation", 49), ("vicsek", 98), ("kuramoto", 98)])
def test_the_mean_field_is_broadcast(name, size):
    env = make(name, agents=7, broadcast="views")

    @jax.jit
    def seen(key):
        state, timestep = env.reset(key)
        state, timestep = env.step(state, jnp.zeros(env.action_spec.shape))
        told = [side.global_state(state) for side in (env, make(name, agents=7, broadcast="state"))]
        return timestep.observation.agents_view, told, Features()(env.mean_field_axes, env.mean_field(state))

    view, told, features = seen(jax.random.key(0))
    assert features.shape == (size,) and view.shape == (7, 2 + size) and env.observation_shape == (2 + size,)
    assert make(name, agents=7, broadcast="state").observation_shape == (2,)
    for found in (*told, *view[:, 2:]):
        np.testing.assert_allclose(found, features, atol=1e-6)


@pytest.mark.parametrize(("learner", "broadcast"), [("ippo", "views"), ("mappo", "state")])
def test_peers_learn_from_the_mean_field(learner, broadcast):
    """One update; what the critic reads does not grow with the number of agents."""
    env = make("aggregation", agents=5, horizon=4, broadcast=broadcast)
    learner = make_learner(learner, num_envs=2, num_steps=4, minibatches=1, epochs=1, hidden_sizes=(4,))
    learner.validate(env)
    state, metrics = jax.jit(lambda key: learner.update(learner.init(key, env), env))(jax.random.key(0))
    inputs = state.params["critic"]["dense"][0]["w"].shape[1]
    assert inputs == (2 + 49 if broadcast == "views" else 49 + 5)
    before = jax.eval_shape(learner.init, jax.random.key(0), env)
    assert jax.tree.map(jnp.shape, state.params) == jax.tree.map(lambda leaf: leaf.shape, before.params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, metrics)))
    assert metrics["gradient_norm"] > 0


# --- moments of neighbours -----------------------------------------------------------------------------------


@functools.cache
def searches(surface):
    """Sums of two harmonics by all three ways, of 40 agents."""

    def term(sight):
        return (sight.cos, sight.sin, sight.cos**2 - sight.sin**2, 2 * sight.cos * sight.sin)

    def all_ways(place):
        pairs = neighbours.all_pairs(surface, place, 0.125, 1.0, term)
        moments = neighbours.all_pairs_moments(surface, place, 0.125, 1.0, 2)
        view, number = sensing.view("moment2", 8, surface, place, 0.125, 1.0, 5)
        return pairs, moments, (number, *(view * jnp.maximum(number, 1)[:, None]).T)

    return jax.jit(all_ways)


@pytest.mark.parametrize("surface", ["torus", "box_reflect", "box_clip"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_moments_are_sums_over_pairs(surface, data):
    """On a dyadic grid, where it is exact who is near: scattered, in few points, in one, on the edges."""
    most = 1023 if surface == "torus" else 1024
    spots = data.draw(st.lists(st.tuples(*[st.integers(0, most)] * 2), min_size=1, max_size=40))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    chosen = np.array(spots)[rng.integers(0, len(spots), 40)].T.astype(np.float32) / 1024
    heading = rng.uniform(-np.pi, np.pi, 40) * data.draw(st.sampled_from([0.0, 1.0]))
    place = Place(*(jnp.asarray(leaf, jnp.float32) for leaf in (*chosen, np.cos(heading), np.sin(heading))))
    pairs, moments, lists = searches(surface)(place)
    for one in (moments, lists):
        np.testing.assert_array_equal(one[0], pairs[0])
        np.testing.assert_allclose(np.stack(one[1:]), np.stack(pairs[1:]), atol=5e-5)
    if len(set(spots)) == 1:
        assert (np.asarray(moments[0]) == 39).all()


def test_moments_in_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    angle = rng.uniform(-np.pi, np.pi, 100)
    place = Place(*(jnp.asarray(leaf, jnp.float32) for leaf in (*rng.random((2, 100)), np.cos(angle), np.sin(angle))))
    whole = neighbours.all_pairs_moments("torus", place, 0.3, 1.0, 1)
    monkeypatch.setattr(neighbours, "BLOCK", 32)
    parts = neighbours.all_pairs_moments("torus", place, 0.3, 1.0, 1)
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_allclose(np.stack(whole), np.stack(parts), atol=1e-5)
