"""Rules of the games in the matrix on plain arrays: payoffs, who meets whom, gathering, damage, regrowth, maps."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marl_bench.envs.in_the_matrix import layouts, rules
from marl_bench.envs.in_the_matrix.payoffs import GAMES

# --- maps ----------------------------------------------------------------------------------------

COUNTS = {
    # layout, types: shape, walls, spawn cells, sites drawn per episode, sites of each type
    ("arena", 2): ((22, 23), 26, 64, 10, (13, 13)),
    ("arena", 3): ((22, 23), 26, 64, 8, (12, 12, 12)),
    ("repeated", 2): ((13, 21), 43, 13, 12, (12, 12)),
    ("repeated", 3): ((13, 21), 37, 13, 15, (6, 6, 6)),
    ("sparse", 2): ((22, 23), 15, 64, 0, (6, 6)),
}


def cells(*blocks: tuple[range | int, range | int]) -> set[tuple[int, int]]:
    """Cells of rectangles, each (rows, columns)."""
    spans = [[(x,) if isinstance(x, int) else x for x in block] for block in blocks]
    return {cell for rows, columns in spans for cell in itertools.product(rows, columns)}


def span(first: int, last: int) -> range:
    return range(first, last + 1)


@pytest.mark.parametrize(("name", "types"), COUNTS)
def test_maps_have_the_stated_counts(name, types):
    shape, walls, spawns, drawn, fixed = COUNTS[name, types]
    found = layouts.layout(name, types)
    assert found.wall.shape == shape and found.wall.sum() == walls and len(found.spawn) == spawns
    assert (found.kind == -1).sum() == drawn
    assert tuple((found.kind == k).sum() for k in range(types)) == fixed
    occupied = np.zeros(shape, int)
    for part in (found.spawn, found.site, np.argwhere(found.wall)):
        occupied[part[:, 0], part[:, 1]] += 1
    assert occupied.max() == 1


def of_kind(found: layouts.Layout, kind: int) -> set[tuple[int, int]]:
    return {(int(r), int(c)) for (r, c), k in zip(found.site, found.kind, strict=True) if k == kind}


def test_arena_cells_are_those_of_the_spec():
    found = layouts.layout("arena", 2)
    assert of_kind(found, 0) == cells((span(5, 6), span(8, 9)), (span(9, 11), 5), (span(11, 12), span(11, 13)))
    assert of_kind(found, 1) == cells((span(8, 9), span(14, 16)), (span(14, 15), span(7, 8)), (16, span(15, 17)))
    assert of_kind(found, -1) == cells((7, span(8, 9)), (span(9, 11), 6), (13, span(7, 8)), (15, span(15, 17)))
    assert {tuple(map(int, cell)) for cell in np.argwhere(found.wall)} == cells(
        (0, 10), (0, 12), (8, span(4, 5)), (span(8, 10), 11), (span(9, 10), 0), (10, 1), (10, span(9, 10)),
        (10, span(12, 17)), (11, span(21, 22)), (span(13, 14), 10), (14, span(14, 15)), (15, 14), (21, 13),
    )  # fmt: skip
    corners = cells(*itertools.product((span(0, 3), span(18, 21)), (span(0, 3), span(19, 22))))
    assert {tuple(map(int, cell)) for cell in found.spawn} == corners


def test_repeated_cells_are_those_of_the_spec():
    found = layouts.layout("repeated", 2)
    upper, lower = span(2, 4), span(8, 10)
    assert of_kind(found, 0) == cells((upper, span(6, 7)), (lower, span(13, 14)))
    assert of_kind(found, 1) == cells((upper, span(13, 14)), (lower, span(6, 7)))
    assert of_kind(found, -1) == cells((upper, 8), (upper, 12), (lower, 8), (lower, 12))
    rows = {0: (0, 10, 20), 3: (0, 20), 6: (0, 10, 20), 9: (0, 20), 12: (0, 10, 20)}
    assert {tuple(map(int, c)) for c in found.spawn} == {(r, c) for r, columns in rows.items() for c in columns}


def test_a_map_for_other_games_is_refused():
    with pytest.raises(ValueError, match="layout='sparse': has no map for 3 resource types"):
        layouts.layout("sparse", 3)


# --- payoffs -------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="roles")
def paid(inventories, meets, row, column, roles):
    row_player = rules.as_row_players(meets, roles)
    return rules.payoffs(rules.mixed(inventories), row_player, row, column)


def play(game, inventories, meets, roles=None):
    payoff = GAMES[game]
    aims = np.zeros((len(inventories),) * 2, bool)
    for shooter, target in meets:
        aims[shooter, target] = True
    return paid(np.array(inventories), aims, payoff.row, payoff.column, payoff.roles if roles is None else roles)


def test_pure_strategies_give_the_entries_of_the_matrix():
    # A huge inventory of one type is that pure strategy, up to 1e-4.
    for name, game in GAMES.items():
        types = len(game.row)
        for i, j in itertools.product(range(types), repeat=2):
            inventories = np.ones((2, types), int)
            inventories[0, i] = inventories[1, j] = 10**6
            np.testing.assert_allclose(
                play(name, inventories, [(0, 1)]), [game.row[i, j], game.column[i, j]], atol=1e-3
            )


@pytest.mark.parametrize(
    ("game", "inventories", "expected"),
    [
        # x = (3/4, 1/4), y = (1/4, 3/4): x'Ay = 9/16*0 + 3/16*3 + 1/16*5 + 3/16*1
        ("prisoners_dilemma", [[3, 1], [1, 3]], [17 / 16, 57 / 16]),
        ("prisoners_dilemma", [[1, 1], [1, 1]], [9 / 4, 9 / 4]),
        ("stag_hunt", [[2, 1], [2, 1]], [4 * 4 / 9 + 2 / 3, 4 * 4 / 9 + 2 / 3]),
        ("chicken", [[1, 2], [2, 1]], [3 * 2 / 9 + 2 * 1 / 9 + 5 * 4 / 9, 3 * 2 / 9 + 5 * 1 / 9 + 2 * 4 / 9]),
        ("pure_coordination", [[2, 1, 1], [1, 2, 1]], [5 / 16, 5 / 16]),
        ("running_with_scissors", [[2, 1, 1], [1, 2, 1]], [-10 / 16, 10 / 16]),
    ],
)
def test_mixed_strategies_pay_the_bilinear_form(game, inventories, expected):
    np.testing.assert_allclose(play(game, inventories, [(0, 1)]), expected, rtol=1e-5)


def test_only_who_meets_is_paid():
    inventories = [[3, 1], [1, 3], [1, 1], [2, 2]]
    np.testing.assert_allclose(play("prisoners_dilemma", inventories, [(1, 0)]), [17 / 16, 57 / 16, 0, 0], rtol=1e-5)
    np.testing.assert_array_equal(play("prisoners_dilemma", inventories, []), 0)


def test_roles_decide_who_plays_the_rows():
    inventories = [[10**6, 1], [10**6, 1]]
    for shot in ((0, 1), (1, 0)):  # whoever fires, agent 0 is the row player
        np.testing.assert_allclose(play("bach_stravinsky", inventories, [shot]), [3, 2], atol=1e-3)
    np.testing.assert_allclose(play("bach_stravinsky", inventories, [(1, 0)], roles=False), [2, 3], atol=1e-3)


@given(st.lists(st.lists(st.integers(1, 9), min_size=3, max_size=3), min_size=4, max_size=4), st.permutations(range(4)))
@settings(max_examples=30, deadline=None)
def test_payoffs_are_antisymmetric_and_equivariant(inventories, order):
    found = np.asarray(play("running_with_scissors", inventories, [(0, 1), (3, 2)]))
    np.testing.assert_allclose(found[[0, 2]], -found[[1, 3]], atol=1e-4)
    where = {agent: position for position, agent in enumerate(order)}
    moved = play(
        "running_with_scissors", np.array(inventories)[list(order)], [(where[0], where[1]), (where[3], where[2])]
    )
    np.testing.assert_allclose(moved, found[list(order)], atol=1e-4)


# --- who meets whom ------------------------------------------------------------------------------


settle = jax.jit(rules.meetings)


def in_order(aims, priority):
    """The same, one shot after the other."""
    busy, met = set(), set()
    for shooter in np.argsort(-priority.astype(np.int64)):
        for target in np.flatnonzero(aims[shooter]):
            if shooter not in busy and target not in busy:
                busy |= {shooter, target}
                met.add((shooter, target))
    return met


def shots(count):
    targets = st.lists(st.integers(-1, count - 1), min_size=count, max_size=count)
    return st.tuples(targets, st.permutations(range(1, count + 1)))


@given(st.sampled_from([2, 5, 9]).flatmap(shots))
@settings(max_examples=150, deadline=None)
def test_meetings_are_settled_in_order_of_priority(drawn):
    targets, order = drawn
    count = len(targets)
    aims = np.zeros((count, count), bool)
    for shooter, target in enumerate(targets):
        if target not in (-1, shooter):
            aims[shooter, target] = True
    priority = np.array(order, np.uint32)
    found = np.asarray(settle(aims, priority))
    assert {(i, j) for i, j in np.argwhere(found)} == in_order(aims, priority)
    assert (found.sum(0) + found.sum(1)).max() <= 1


def test_two_who_hit_each_other_meet_once():
    aims = jnp.asarray([[False, True], [True, False]])
    np.testing.assert_array_equal(rules.meetings(aims, jnp.uint32([9, 3])), [[0, 1], [0, 0]])
    np.testing.assert_array_equal(rules.meetings(aims, jnp.uint32([3, 9])), [[0, 0], [1, 0]])


def test_priorities_are_distinct_positive_and_fair():
    drawn = jax.vmap(rules.distinct)(jax.random.bits(jax.random.key(0), (6000, 4), jnp.uint32))
    assert (np.asarray(drawn) > 0).all() and all(len(set(row.tolist())) == 4 for row in np.asarray(drawn)[:50])
    same = rules.distinct(jnp.full(128, 7, jnp.uint32))
    assert len(set(np.asarray(same).tolist())) == 128
    first = np.bincount(np.argmax(drawn, axis=1), minlength=4)
    assert ((first - 1500) ** 2 / 1500).sum() < 16.3  # chi-square, 3 degrees of freedom, p = 0.001


def test_partners_see_each_others_inventories():
    inventory = jnp.asarray([[1, 4], [2, 5], [3, 6]], jnp.int16)
    meets = jnp.zeros((3, 3), bool).at[2, 0].set(True)
    np.testing.assert_array_equal(rules.partner_inventory(inventory, meets), [[3, 6], [0, 0], [1, 4]])


# --- resources -----------------------------------------------------------------------------------


def test_gathering_takes_what_is_there():
    on_site = jnp.asarray([[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], bool)
    gained, taken = rules.gather(on_site, jnp.int8([3, 3, 1, 0]), jnp.int8([1, 0, 0, 1]), 2)
    np.testing.assert_array_equal(gained, [[0, 1], [1, 0], [0, 0]])
    np.testing.assert_array_equal(taken, [1, 0, 1, 0])


def test_damage_removes_at_zero_and_starts_the_delay():
    health, delay = rules.remove(jnp.int8([3, 2, 1, 1, 0]), jnp.int8([0, 0, 0, 0, 4]), jnp.int8([1, 2, 1, 0, 1]), 10)
    np.testing.assert_array_equal(health, [2, 0, 0, 1, 0])
    np.testing.assert_array_equal(delay, [0, 10, 10, 0, 4])


def test_a_taken_resource_grows_after_its_delay_and_not_under_an_avatar():
    health, delay = jnp.int8([0, 0, 2]), jnp.int8([10, 10, 0])
    occupied, chance = jnp.asarray([False, True, False]), jnp.zeros(3)
    for waited in range(1, 11):
        health, delay = rules.regrow(health, delay, occupied, chance, 0.04, 3)
        np.testing.assert_array_equal(health, [3 if waited == 10 else 0, 0, 2])
    health, _ = rules.regrow(health, delay, jnp.zeros(3, bool), jnp.float32([0, 0.0399, 0]), 0.04, 3)
    np.testing.assert_array_equal(health, [3, 3, 2])


def test_growth_happens_at_its_rate():
    chance = jax.random.uniform(jax.random.key(1), (1_000_000,))
    health = jnp.zeros(chance.shape, jnp.int8)
    for rate in (0.04, 0.02):
        grown = rules.regrow(health, health, jnp.zeros(chance.shape, bool), chance, rate, 3)[0]
        share = float((grown == 3).mean())
        assert abs(share - rate) < 4 * np.sqrt(rate * (1 - rate) / 1e6)
