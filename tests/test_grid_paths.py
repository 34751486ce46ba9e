"""Ways for scripted policies: distances on a drawn map, and next actions that lead to the goal from every heading."""

import jax.numpy as jnp
import numpy as np
import pytest

from marl_bench.envs.grid import paths

MAP = """
. . . # .
. # . # .
. # . . .
. # # # .
. . . . #
"""
WALL = np.array([[cell == "#" for cell in row.split()] for row in MAP.strip().splitlines()])
NORTH, EAST, SOUTH, WEST = range(4)


def cell(row, col):
    return row * 5 + col


def act(places, goals, noise=0.0, avoid=None):
    row, col, heading = (jnp.asarray(part, jnp.int8) for part in zip(*places, strict=True))
    goal = jnp.asarray([cell(*g) for g in goals])
    quiet = jnp.full((len(places), 4), noise, jnp.float32)
    return paths.towards(row, col, heading, goal, paths.distances(WALL), WALL, quiet, avoid).tolist()


def test_distances_go_round_walls():
    table = paths.distances(WALL)
    assert table[cell(0, 0), cell(0, 0)] == 0 and table[cell(0, 0), cell(0, 2)] == 2
    assert table[cell(2, 2), cell(4, 3)] == 2 + 2 + 4 + 3  # up, left, down, right
    assert table[cell(0, 4), cell(3, 4)] == 3 and table[cell(0, 0), cell(0, 4)] == 2 + 2 + 2 + 2
    assert (table == table.T).all()
    assert (table[cell(0, 3)] == paths.FAR).all() and table[cell(0, 0), cell(1, 1)] == paths.FAR


@pytest.mark.parametrize(
    ("heading", "action"),
    [(NORTH, paths.STEP_RIGHT), (EAST, paths.FORWARD), (SOUTH, paths.STEP_LEFT), (WEST, paths.BACKWARD)],
)
def test_the_next_move_is_relative_to_the_heading(heading, action):
    assert act([(0, 0, heading)], [(2, 2)]) == [action]
    assert act([(0, 0, heading)], [(0, 0)]) == [paths.NOOP]


def test_following_the_moves_leads_to_the_goal():
    row, col = 4, 3
    for _ in range(8 + 3 + 2):
        move = act([(row, col, NORTH)], [(0, 4)])[0]
        down = {paths.BACKWARD: 1, paths.FORWARD: -1}.get(move, 0)
        right = {paths.STEP_RIGHT: 1, paths.STEP_LEFT: -1}.get(move, 0)
        row, col = row + down, col + right
        assert not WALL[row, col]
    for _ in range(4):
        move = act([(row, col, NORTH)], [(0, 4)])[0]
        row += {paths.BACKWARD: 1, paths.FORWARD: -1}.get(move, 0)
        col += {paths.STEP_RIGHT: 1, paths.STEP_LEFT: -1}.get(move, 0)
    assert (row, col) == (0, 4)


def test_others_and_cells_to_avoid_are_gone_round():
    # From (1, 2) the way to (0, 0) leads over (0, 2); that cell taken or to be avoided, an agent steps back instead.
    free = act([(1, 2, NORTH), (4, 0, NORTH)], [(0, 0), (4, 0)])
    assert free == [paths.FORWARD, paths.NOOP]
    blocked = act([(1, 2, NORTH), (0, 2, NORTH)], [(0, 0), (0, 2)])
    assert blocked[0] == paths.BACKWARD
    avoid = np.zeros(25, bool)
    avoid[cell(0, 2)] = True
    assert act([(1, 2, NORTH)], [(0, 0)], avoid=jnp.asarray(avoid)) == [paths.BACKWARD]
    assert act([(1, 2, NORTH)], [(0, 2)], avoid=jnp.asarray(avoid)) == [paths.FORWARD]  # the goal itself is entered


@pytest.mark.parametrize(("heading", "seen"), [(NORTH, (2, 3)), (EAST, (3, -2)), (SOUTH, (-2, -3)), (WEST, (-3, 2))])
def test_positions_in_the_frame_of_an_agent(heading, seen):
    # The goal is two rows up and three columns to the right.
    place = (jnp.int8(5), jnp.int8(5), jnp.int8(heading))
    assert tuple(int(x) for x in paths.relative(*place, jnp.int8(3), jnp.int8(8))) == seen
    assert paths.turn(jnp.int32(seen[1])) == (paths.TURN_RIGHT if seen[1] > 0 else paths.TURN_LEFT)
