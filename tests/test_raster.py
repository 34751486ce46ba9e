"""The raster helper: shapes cover what they say, are cut off at the edge, and letters can be told apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from marl_bench.envs import raster


def covered(picture):
    return (picture != 255).any(axis=-1)


@pytest.fixture
def picture():
    return raster.canvas(40, 60)


def test_rectangle_covers_its_pixels_and_no_others(picture):
    raster.rectangle(picture, 3, 5, 7, 11, raster.RED)
    expected = np.zeros((40, 60), bool)
    expected[3:10, 5:16] = True
    assert (covered(picture) == expected).all() and (picture[3, 5] == raster.RED).all()


def test_frame_leaves_its_inside(picture):
    raster.frame(picture, 2, 4, 10, 12, raster.BLUE, thickness=3)
    assert covered(picture).sum() == 10 * 12 - 4 * 6 and not covered(picture)[5:9, 7:13].any()


@pytest.mark.parametrize("radius", [3.0, 7.5, 12.0])
def test_disc_has_the_area_of_a_disc(picture, radius):
    raster.disc(picture, 20, 30, radius, raster.GREEN)
    assert covered(picture).sum() == pytest.approx(np.pi * radius**2, abs=3 * radius)
    assert (picture == picture[::-1]).all() and (picture == picture[:, ::-1]).all()


def test_ring_is_the_difference_of_two_discs(picture):
    inner = raster.canvas(40, 60)
    outer = raster.canvas(40, 60)
    raster.disc(inner, 20, 30, 7, raster.RED)
    raster.disc(outer, 20, 30, 10, raster.RED)
    raster.ring(picture, 20, 30, 10, raster.RED, thickness=3)
    assert (covered(picture) == (covered(outer) & ~covered(inner))).all()


@pytest.mark.parametrize("turn", [False, True])
def test_polygon_fills_either_way_round(picture, turn):
    corners = [(5, 5), (5, 25), (25, 25), (25, 5)]
    raster.polygon(picture, corners[::-1] if turn else corners, raster.RED)
    assert covered(picture)[5:25, 5:25].all() and covered(picture).sum() == 400


@pytest.mark.parametrize(("direction", "tip"), [(0, (9, 30)), (1, (19, 41)), (2, (31, 30)), (3, (19, 19))])
def test_triangle_points_where_it_says(picture, direction, tip):
    raster.triangle(picture, 20, 30, 12, direction, raster.RED)
    rows, columns = np.nonzero(covered(picture))
    along = {0: -rows, 1: columns, 2: rows, 3: -columns}[direction]
    far = along.argmax()
    assert abs(rows[far] - tip[0]) <= 2 and abs(columns[far] - tip[1]) <= 2


def test_line_joins_its_ends_without_holes(picture):
    raster.line(picture, (2.5, 2.5), (35.5, 50.5), raster.BLACK)
    found = covered(picture)
    assert found[2, 2] and found[35, 50] and found[2:36].any(axis=1).all() and found[:, 2:51].any(axis=0).all()
    assert found.sum() < 150


@pytest.mark.parametrize("place", [*itertools.product([-30, -3, 38, 90], [-30, -3, 58, 90])])
def test_what_lies_outside_is_cut_off(picture, place):
    raster.rectangle(picture, *place, 8, 8, raster.RED)
    raster.disc(picture, *place, 6, raster.RED)
    raster.triangle(picture, *place, 6, 0, raster.RED)
    raster.line(picture, place, (place[0] + 5, place[1] + 5), raster.RED)
    raster.text(picture, "42", *place)
    raster.frame(picture, *place, 8, 8, raster.RED)
    inside = -10 < place[0] < 40 and -10 < place[1] < 60
    assert covered(picture).any() == inside and picture.shape == (40, 60, 3)


def test_alpha_mixes_colours(picture):
    raster.rectangle(picture, 0, 0, 10, 10, raster.BLACK, alpha=0.25)
    raster.disc(picture, 30, 30, 5, raster.BLACK, alpha=0.5)
    assert (picture[5, 5] == 191).all() and (picture[30, 30] == 128).all()


def test_letters_differ_and_fill_the_stated_box(picture):
    shapes = {sign: raster._GLYPHS[sign].tobytes() for sign in raster._FONT}
    # The figure 0 and the letter O, 5 and S ... are told apart too.
    assert len(set(shapes.values())) == len(shapes)
    assert all(glyph.shape == (5, 3) for glyph in raster._GLYPHS.values())
    raster.text(picture, "8b", 4, 6, raster.BLACK, scale=3)
    rows, columns = np.nonzero(covered(picture))
    assert raster.text_size("8b", 3) == (15, 21)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 18, 6, 26)


def test_text_can_be_centred_and_unknown_signs_show(picture):
    raster.text(picture, "é", 20, 30, centred=True)
    other = raster.canvas(40, 60)
    raster.text(other, "?", 15, 27)
    assert (picture == other).all() and covered(picture).any()


def test_tiles_and_scale():
    board = np.array([[0, 1], [1, 2]])
    colours = [raster.FLOOR, raster.WALL, raster.RED]
    picture = raster.tiles(board, colours, 10)
    assert picture.shape == (20, 20, 3) and picture.dtype == np.uint8
    assert (picture[5, 15] == raster.WALL).all() and (picture[10, 3] == raster.LINE).all()
    small = raster.tiles(board, colours, 1, line=None)
    assert (raster.scale_up(small, 4)[7, 7] == raster.RED).all()


def test_diverging_scale():
    low, middle, high = raster.diverging(np.array([-2.0, 0.0, 2.0]))
    assert low[2] > low[0] and high[0] > high[2] and middle.min() == middle.max() == 247
    assert (raster.diverging(np.ones((2, 3))) == 247).all()


def test_agent_colours_repeat():
    assert raster.agent_colour(3) == raster.agent_colour(13) and len(set(raster.AGENTS)) == len(raster.AGENTS)
