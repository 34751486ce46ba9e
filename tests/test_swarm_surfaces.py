"""Surfaces and neighbour searches of the swarms: gluings, distances, and cell lists against all pairs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marl_bench.envs.swarms import cell_lists, neighbours, surfaces
from marl_bench.envs.swarms.surfaces import Place

CLOSED = surfaces.GLUED


def places(count, key=0, grid=None):
    """Random points of the unit chart with headings; with `grid`, on multiples of 1 / grid."""
    rng = np.random.default_rng(key)
    x, y = rng.random((2, count)) if grid is None else rng.integers(0, grid, (2, count)) / grid
    angle = rng.uniform(-np.pi, np.pi, count)
    return Place(*(jnp.asarray(leaf, jnp.float32) for leaf in (x, y, np.cos(angle), np.sin(angle))))


def image_by_hand(surface, x, y, phi, a, b, side):
    """The generators applied one at a time, in float64: b, then a."""
    for _ in range(abs(b)):
        if surface == "rp2":
            x, phi = side - x, np.pi - phi
        y = y + np.sign(b) * side
    for _ in range(abs(a)):
        if surface in ("klein", "rp2", "mobius"):
            # A crossing mirrors y about the middle of the chart in which the point lies.
            row = b * side
            y, phi = 2 * row + side - y, -phi
        x = x + np.sign(a) * side
    return x, y, phi


# --- gluings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("surface", CLOSED)
def test_images_follow_the_gluing_and_wrap_back(surface):
    start = places(200)
    angle = np.arctan2(start.sin, start.cos)
    for a, b in surfaces.tiles(surface):
        image = surfaces.image(surface, start, a, b, 1.0)
        x, y, phi = image_by_hand(surface, np.asarray(start.x), np.asarray(start.y), angle, a, b, 1.0)
        for found, expected in zip(image, (x, y, np.cos(phi), np.sin(phi)), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)
        back, mirrored = surfaces.wrapped(surface, image, 1.0)
        for found, expected in zip(back, start, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)
        odd = (surface in surfaces.FLIPPED) * (a % 2) + (surface == "rp2") * (b % 2)
        assert (np.asarray(mirrored) == bool(odd % 2)).all()


@pytest.mark.parametrize("surface", surfaces.SURFACES)
def test_wrapped_points_lie_in_the_chart(surface):
    edges = np.array([0.0, -1e-9, 1.0, 1 - 2.0**-24, 1 + 1e-7, 0.5, -0.3, 1.7], np.float32)
    x, y = (jnp.asarray(leaf.ravel()) for leaf in np.meshgrid(edges, edges))
    place, _ = surfaces.wrapped(surface, Place(x, y, jnp.ones_like(x), jnp.zeros_like(x)), 1.0)
    for axis, glued in ((place.x, surface in surfaces.GLUED), (place.y, surface in surfaces.GLUED_TOP)):
        assert (np.asarray(axis) >= 0).all() and (np.asarray(axis) < 1 if glued else np.asarray(axis) <= 1).all()


def test_walls_mirror_or_stop():
    out = Place(*(jnp.array([value], jnp.float32) for value in (1.1, -0.2, 0.6, -0.8)))
    reflected, _ = surfaces.wrapped("box_reflect", out, 1.0)
    np.testing.assert_allclose(np.ravel(reflected), [0.9, 0.2, -0.6, 0.8], atol=1e-6)
    clipped, _ = surfaces.wrapped("box_clip", out, 1.0)
    np.testing.assert_allclose(np.ravel(clipped), [1.0, 0.0, 0.6, -0.8], atol=1e-6)
    mobius, mirrored = surfaces.wrapped("mobius", out, 1.0)  # mirrored by the seam to y = 1.2, then by the wall
    np.testing.assert_allclose(np.ravel(mobius), [0.1, 0.8, 0.6, -0.8], atol=1e-6)
    assert mirrored[0]


# --- distances -----------------------------------------------------------------------------------------------


@functools.cache
def sights(surface):
    place = places(60)
    return jax.jit(
        lambda place: surfaces.sight(
            surface, jax.tree.map(lambda x: x[:, None], place), jax.tree.map(lambda x: x[None], place), 1.0
        )
    )(place)


@pytest.mark.parametrize("surface", surfaces.SURFACES)
def test_distance_is_a_metric(surface):
    distance = np.sqrt(np.asarray(sights(surface).squared, np.float64))
    np.testing.assert_allclose(distance, distance.T, atol=1e-5)
    assert (np.diag(distance) < 1e-6).all()
    detour = (distance[:, :, None] + distance[None]).min(axis=1)
    assert (distance <= detour + 1e-5).all()


@pytest.mark.parametrize("surface", surfaces.SURFACES)
def test_relative_headings_are_reciprocal(surface):
    """rel_ij = -rel_ji, or the same where the nearest image is mirrored."""
    sight = sights(surface)
    cos, sin = np.asarray(sight.cos), np.asarray(sight.sin)
    np.testing.assert_allclose(cos, cos.T, atol=1e-5)
    against, alike = np.abs(sin + sin.T) < 1e-5, np.abs(sin - sin.T) < 1e-5
    assert (against | alike).all()
    if surface not in surfaces.FLIPPED:
        assert against.all()
    else:
        assert not against.all() and not alike.all()


# --- neighbour searches --------------------------------------------------------------------------------------


def searched(surface, place, radius, cells):
    """Numbers of neighbours and sums of relative headings by both searches."""
    term = lambda sight: (sight.cos, sight.sin, sight.dx)  # noqa: E731
    pairs = jax.jit(lambda p, r: neighbours.all_pairs(surface, p, r, 1.0, term))(place, radius)
    lists = jax.jit(lambda p, r: cell_lists.cell_lists(surface, p, r, 1.0, cells, term))(place, radius)
    return [np.asarray(x) for x in pairs], [np.asarray(x) for x in lists]


@pytest.mark.parametrize("surface", surfaces.SURFACES)
@pytest.mark.parametrize(("count", "cells", "radius"), [(300, 4, 0.25), (300, 16, 0.0625), (1, 3, 0.25)])
def test_cell_lists_find_the_same_neighbours(surface, count, cells, radius):
    """On a dyadic grid every squared distance is exact, so the sets must be equal, points on seams included."""
    pairs, lists = searched(surface, places(count, key=cells, grid=64 if cells == 16 else 1024), radius, cells)
    np.testing.assert_array_equal(pairs[0], lists[0])
    for one, other in zip(pairs[1:3], lists[1:3], strict=True):
        assert (np.abs(one - other) <= 4e-7 * (pairs[0] + 1) * 4).all()
    if surface != "rp2":  # where two images are as near, its displacement may be either
        np.testing.assert_allclose(pairs[3], lists[3], atol=1e-4)


@pytest.mark.parametrize("surface", surfaces.SURFACES)
def test_cell_lists_find_the_same_neighbours_anywhere(surface):
    """At places that float32 cannot hold exactly; agents with somebody at the radius to within rounding are left out."""
    place = places(200, key=7)
    pairs, lists = searched(surface, place, 0.33, 3)
    eye, other = (jax.tree.map(lambda x: x[index], place) for index in ((slice(None), None), None))  # noqa: B023
    distance = np.sqrt(np.asarray(surfaces.sight(surface, eye, other, 1.0).squared, np.float64))
    clear = (np.abs(distance - 0.33) > 1e-6).all(axis=1)
    assert clear.sum() > 190
    np.testing.assert_array_equal(pairs[0][clear], lists[0][clear])


@pytest.mark.parametrize("surface", surfaces.SURFACES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_clustered_and_degenerate_swarms(surface, data):
    """All in one point, in few points, in clusters that overlap, on the edges: the searches still agree, and nobody is dropped."""
    spots = data.draw(st.lists(st.tuples(st.integers(0, 32), st.integers(0, 32)), min_size=1, max_size=4))
    width = data.draw(st.sampled_from([0, 0, 5, 60]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    spread = rng.integers(-width, width + 1, (2, 64))
    x, y = ((np.array(spots).T[:, rng.integers(0, len(spots), 64)] * 32 + spread) % 1024).astype(np.float32) / 1024
    pairs, lists = _both(surface)(places(64)._replace(x=jnp.asarray(x), y=jnp.asarray(y)))
    np.testing.assert_array_equal(pairs[0], lists[0])
    np.testing.assert_allclose(pairs[1], lists[1], atol=5e-5)
    if len(spots) == 1 and width == 0:
        assert (np.asarray(lists[0]) == 63).all()


@functools.cache
def _both(surface):
    term = lambda sight: (sight.cos,)  # noqa: E731

    def both(place):
        return (
            neighbours.all_pairs(surface, place, 0.125, 1.0, term),
            cell_lists.cell_lists(surface, place, 0.125, 1.0, 5, term),
        )

    return jax.jit(both)


def test_groups_in_blocks(monkeypatch):
    """More groups of agents than fit into one block."""
    monkeypatch.setattr(cell_lists, "BLOCK", 7)
    pairs, lists = searched("klein", places(300, key=3, grid=1024), 0.125, 8)
    np.testing.assert_array_equal(pairs[0], lists[0])


@given(st.sampled_from([1, 40]), st.sampled_from([1, 7, 2**31]), st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_sorting_order(count, bound, seed):
    """The stable order, also of keys and indices that do not fit into one word."""
    key = np.random.default_rng(seed).integers(0, bound, count)
    key[count // 2 :] = key[0]
    np.testing.assert_array_equal(
        cell_lists.sorting_order(jnp.asarray(key, jnp.int32), bound), np.argsort(key, kind="stable")
    )


def test_cells_too_small_for_the_radius_are_reported():
    sums = jax.jit(lambda radius: cell_lists.cell_lists("torus", places(10), radius, 1.0, 5, lambda s: ()))(0.21)
    assert np.isnan(sums[0]).all()


def test_pairs_in_blocks(monkeypatch):
    place = places(100)
    whole = neighbours.all_pairs("klein", place, 0.3, 1.0, lambda sight: (sight.sin,))
    monkeypatch.setattr(neighbours, "BLOCK", 32)
    parts = neighbours.all_pairs("klein", place, 0.3, 1.0, lambda sight: (sight.sin,))
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_allclose(whole[1], parts[1], atol=1e-5)
