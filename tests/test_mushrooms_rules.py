"""Rules of the externality mushrooms on plain arrays: rewards, spores, ageing, vanishing, zapping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marl_bench.envs.mushrooms import rules
from marl_bench.envs.mushrooms.rules import BLUE, GREEN, NOTHING, ORANGE, RED

VALUES = (1.0, 2.0, 3.0, -1.0)


@pytest.mark.parametrize(
    ("eaten", "reward"),
    [
        ([RED, 0, 0, 0, 0], [1, 0, 0, 0, 0]),
        ([0, GREEN, 0, 0, 0], [0.4] * 5),
        ([0, 0, BLUE, 0, 0], [0.75, 0.75, 0, 0.75, 0.75]),
        ([0, 0, 0, ORANGE, 0], [-0.2] * 5),
        ([RED, GREEN, BLUE, ORANGE, BLUE], [1 + 0.4 + 1.5 - 0.2, 1.7, 0.95, 1.7, 0.95]),
        ([0] * 5, [0] * 5),
    ],
)
def test_every_kind_pays_as_stated(eaten, reward):
    np.testing.assert_allclose(rules.eat(jnp.int8(eaten), *VALUES), reward, rtol=1e-6)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=7))
@settings(max_examples=60, deadline=None)
def test_the_total_paid_is_the_value_of_what_was_eaten(eaten):
    total = sum((0.0, *VALUES)[kind] for kind in eaten)
    np.testing.assert_allclose(rules.eat(jnp.int8(eaten), *VALUES).sum(), total, atol=1e-5)


def test_values_by_kind():
    kinds = jnp.int8([NOTHING, RED, GREEN, BLUE, ORANGE])
    assert rules.by_kind(kinds, (0, 10, 15, 15), jnp.int8).tolist() == [0, 0, 10, 15, 15]


def test_mushrooms_perish_after_their_life():
    kind, life = jnp.int8([RED, BLUE, ORANGE, NOTHING]), jnp.int16([3, 1, 0, 0])
    seen = []
    for _ in range(3):
        kind, life = rules.age(kind, life)
        seen.append(kind.tolist())
    assert seen == [[RED, 0, ORANGE, 0], [RED, 0, ORANGE, 0], [0, 0, ORANGE, 0]] and life.tolist() == [0, 0, 0, 0]


def test_reds_vanish_only_where_orange_was_eaten():
    kind = jnp.int8([RED, RED, GREEN, RED])
    chance = jnp.float32([0.74, 0.76, 0.99, 0.57])
    assert rules.vanish(kind, jnp.int8([0, RED]), chance, 0.25).tolist() == kind.tolist()
    assert rules.vanish(kind, jnp.int8([0, ORANGE]), chance, 0.25).tolist() == [RED, 0, GREEN, RED]
    # Two oranges: a red survives with probability 0.5625.
    assert rules.vanish(kind, jnp.int8([ORANGE, ORANGE]), chance, 0.25).tolist() == [0, 0, GREEN, 0]


@pytest.fixture(scope="module")
def spores():
    """Mushrooms of each kind after one of each kind was eaten, by kind eaten; 60,000 draws on 40 free of 60 cells."""
    draws, free = 60_000, jnp.arange(60) % 3 > 0
    words = jax.random.bits(jax.random.key(2), (draws, 1, 10), jnp.uint32)
    grow = jax.jit(jax.vmap(rules.release, (None, None, 0)))
    return {kind: np.asarray(grow(jnp.int8([kind]), free, words)) for kind in (NOTHING, RED, GREEN, BLUE, ORANGE)}, free


EXPECTED = {
    NOTHING: {},
    RED: {RED: 0.75},
    GREEN: {RED: 0.75, GREEN: 1.2},
    BLUE: {RED: 0.75, GREEN: 1.2, BLUE: 1.8},
    ORANGE: {ORANGE: 1.0},
}


@pytest.mark.parametrize("eaten", EXPECTED)
def test_spores_grow_at_their_rates(spores, eaten):
    grown, free = spores[0][eaten], np.asarray(spores[1])
    assert (grown[:, ~free] == 0).all()
    for kind in (RED, GREEN, BLUE, ORANGE):
        mean = EXPECTED[eaten].get(kind, 0.0)
        found = (grown == kind).sum(1)
        # Spores that pick a cell twice are lost: fewer than (their number)^2 / 2 / 40.
        lost = sum(EXPECTED[eaten].values()) ** 2 / 2 / 40
        assert mean - lost - 4 * np.sqrt(3 / 60_000) <= found.mean() <= mean + 4 * np.sqrt(3 / 60_000)
        assert found.max(initial=0) <= (0 if mean == 0 else 3)


def test_spores_pick_free_cells_uniformly(spores):
    counts = (spores[0][ORANGE] == ORANGE).sum(0)[np.asarray(spores[1])]
    expected = counts.sum() / 40
    assert counts.sum() == 60_000 and ((counts - expected) ** 2 / expected).sum() < 72.1  # 39 degrees, p = 0.001


def test_spores_need_free_cells():
    words = jax.random.bits(jax.random.key(2), (5, 10), jnp.uint32)
    assert not rules.release(jnp.int8([BLUE] * 5), jnp.zeros(20, bool), words).any()
    single = jnp.zeros(20, bool).at[13].set(True)
    grown = rules.release(jnp.int8([ORANGE] * 5), single, words)
    assert np.flatnonzero(grown).tolist() == [13] and grown[13] == ORANGE


@pytest.mark.parametrize(
    ("hits", "marked", "frozen", "expected"),
    [
        (0, 0, 0, (False, 0, 0)),
        (0, 7, 3, (False, 7, 3)),
        (1, 0, 0, (False, 50, 25)),
        (1, 0, 30, (False, 50, 30)),  # a longer digestion goes on
        (1, 1, 0, (True, 0, 0)),
        (1, 50, 25, (True, 0, 0)),
        (2, 0, 0, (True, 0, 0)),
        (3, 9, 0, (True, 0, 0)),
    ],
)
def test_zaps_freeze_then_remove(hits, marked, frozen, expected):
    found = rules.zapped(jnp.int32([hits]), jnp.int8([marked]), jnp.int8([frozen]), 25, 50)
    assert tuple(x[0].item() for x in found) == expected
