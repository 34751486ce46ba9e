"""Maps of the games in the matrix, interior only: `#` wall, `S` spawn cell, `1`-`3` resource of that type, `?` resource
whose type is drawn for every episode.

The cells are those of the Melting Pot 2 configurations: `arena` of prisoner's dilemma and Bach-Stravinsky (two types),
of running with scissors and rationalizable coordination (three types); `repeated` of prisoner's dilemma (two types), of
running with scissors and pure coordination (three types). Games without a map of their own here share the one with
their number of types.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from marl_bench.envs.grid import geometry, sites

_ARENA_TWO = """
SSSS......#.#......SSSS
SSSS...............SSSS
SSSS...............SSSS
SSSS...............SSSS
.......................
........11.............
........11.............
........??.............
....##.....#..222......
#....1?....#..222......
##...1?..#########.....
.....1?....111.......##
...........111.........
.......??.#............
.......22.#...##.......
.......22.....#???.....
...............222.....
.......................
SSSS...............SSSS
SSSS...............SSSS
SSSS...............SSSS
SSSS.........#.....SSSS
"""

_ARENA_THREE = """
SSSS......#.#......SSSS
SSSS...............SSSS
SSSS...............SSSS
SSSS...............SSSS
.............??........
........11...??........
........11.............
........11.............
....##.....#..222......
#....33....#..222......
##...33..#########.....
.....33....111.......##
...........111.........
.......22.#............
.......22.#...##.......
.......22.....#333.....
...............333.....
..........??...........
SSSS......??.......SSSS
SSSS...............SSSS
SSSS...............SSSS
SSSS.........#.....SSSS
"""

_SPARSE = """
SSSS......#.#......SSSS
SSSS...............SSSS
SSSS...............SSSS
SSSS...............SSSS
.......................
.......................
.......................
.......................
....##.....#..222......
#..........#..111......
##.....................
...........111.......##
...........222.........
.......................
..............##.......
..............#........
.......................
.......................
SSSS...............SSSS
SSSS...............SSSS
SSSS...............SSSS
SSSS.........#.....SSSS
"""

_REPEATED_TWO = """
S.........S.........S
...###.#..#..#.##....
....#.11?.#.?22.#....
S..##.11?.#.?22.##..S
......11?...?22......
.....................
S.##..##..S.##..###.S
.....................
......22?.#.?11......
S...#.22?.#.?11.#...S
....#.22?.#.?11.##...
..####.#..#..#.###...
S.........S.........S
"""

_REPEATED_THREE = """
S.........S.........S
...###.#.....#.##....
....#.11?...?22.#....
S..##.11?...?22.##..S
......11?...?22......
.....................
S.##......S.........S
.............####....
......33?.#..........
S...#.33?.#.???.#...S
....#.33?.#.???.##...
..####.#..#..#.###...
S.........S.........S
"""

_MAPS = {
    ("arena", 2): _ARENA_TWO,
    ("arena", 3): _ARENA_THREE,
    ("sparse", 2): _SPARSE,
    ("repeated", 2): _REPEATED_TWO,
    ("repeated", 3): _REPEATED_THREE,
}

LAYOUTS = ("arena", "repeated", "sparse")
"""Values of the field `layout`. `sparse`: two types, the arena with 12 resources of SocialJax's PD arena."""


class Layout(NamedTuple):
    """A map of R by C cells.

    Attributes:
      wall: [R, C] bool.
      spawn: [P, 2] cells where avatars appear.
      site: [S, 2] cells of resources, row by row.
      kind: [S] int8 type of each site; -1 if it is drawn for every episode.
    """

    wall: np.ndarray
    spawn: np.ndarray
    site: np.ndarray
    kind: np.ndarray


def layout(name: str, types: int) -> Layout:
    """The map `name` for a number of resource types.

    Raises:
      ValueError: where there is none.
    """
    if (name, types) not in _MAPS:
        raise ValueError(f"layout={name!r}: has no map for {types} resource types; use 'arena' or 'repeated'")
    board = np.array([list(row) for row in _MAPS[name, types].split()])
    site = np.argwhere(np.isin(board, list("123?")))
    letters = board[site[:, 0], site[:, 1]]
    kind = np.array(["123".find(letter) for letter in letters], np.int8)
    return Layout(board == "#", np.argwhere(board == "S"), site, kind)


class Map:
    """A layout as the engine wants it.

    Attributes:
      terrain: walls and spawn cells. cells: [S] int32, flat cells of the sites. kind: [S] int8 (-1: drawn).
      site_of: [H W + 1] int32, site at each flat cell, S where there is none.
    """

    def __init__(self, name: str, types: int) -> None:
        found = layout(name, types)
        height, width = found.wall.shape
        walls = [(int(row), int(col)) for row, col in np.argwhere(found.wall)]
        spawns = [(int(row), int(col)) for row, col in found.spawn]
        self.terrain = geometry.terrain(height, width, walls, spawns)
        self.cells = (found.site[:, 0] * width + found.site[:, 1]).astype(np.int32)
        self.kind = found.kind
        self.site_of = sites.number_of(self.cells, height * width)


load_map = functools.lru_cache(Map)
"""`load_map(layout, types)` -> `Map`, made once."""
