"""Rules of cooperative mining on plain arrays: growth, miner sets, windows, simultaneous shots."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marl_bench.envs.coop_mining import rules
from marl_bench.envs.coop_mining.rules import GOLD, IRON, NOBODY, NONE

CELLS = 6


def shoot(kind, target, miner=None, countdown=None, priority=None):
    """Settle shots at cells: (kind, miner, countdown, `Mined`)."""
    kind = jnp.asarray(kind, jnp.int8)
    miner = jnp.full(kind.shape, NOBODY) if miner is None else jnp.asarray(miner, jnp.int8)
    countdown = jnp.zeros(kind.shape, jnp.int8) if countdown is None else jnp.asarray(countdown, jnp.int8)
    target = jnp.asarray(target)
    if priority is None:
        priority = np.arange(len(target), 0, -1)
    return settle(kind, miner, countdown, target, jnp.asarray(priority, jnp.uint32))


@jax.jit
def settle(kind, miner, countdown, target, priority):
    safe = jnp.maximum(target, 0)
    at_kind = jnp.where(target >= 0, kind[safe], NONE)
    at_miner = jnp.where(target >= 0, miner[safe], NOBODY)
    mined = rules.mine(target, at_kind, at_miner, priority)
    return *rules.apply(kind, miner, countdown, target, mined, 3), mined


def test_iron_goes_to_one_miner():
    kind, _, _, mined = shoot([IRON, GOLD, NONE], [0, -1, -1])
    assert kind.tolist() == [NONE, GOLD, NONE] and mined.iron.tolist() == [1, 0, 0] and mined.gold.tolist() == [0, 0, 0]
    for priority, winner in (([5, 9, 1], 1), ([9, 5, 1], 0), ([1, 2, 7], 2)):
        kind, _, _, mined = shoot([IRON], [0, 0, 0], priority=priority)
        assert kind.tolist() == [NONE] and mined.iron.tolist() == [i == winner for i in range(3)]


def test_a_single_shot_at_gold_starts_the_window():
    kind, miner, countdown, mined = shoot([NONE, GOLD], [-1, 1])
    assert (kind.tolist(), miner.tolist(), countdown.tolist()) == ([NONE, GOLD], [-1, 1], [0, 3])
    assert mined.gold.tolist() == [0, 0] and mined.iron.tolist() == [0, 0]


@pytest.mark.parametrize(("wait", "paid"), [(0, True), (1, True), (2, True), (3, False)])
def test_a_partner_may_come_until_two_steps_later(wait, paid):
    if wait == 0:
        kind, _, _, mined = shoot([GOLD], [0, 0])
    else:
        kind, miner, countdown, _ = shoot([GOLD], [0, -1])
        for _ in range(wait):
            miner, countdown = rules.forget(miner, countdown)
        kind, _, _, mined = shoot(kind, [-1, 0], miner, countdown)
    assert mined.gold.tolist() == [int(paid)] * 2 and kind.tolist() == [NONE if paid else GOLD]


def test_a_repeated_shot_refreshes_the_window_and_adds_no_miner():
    kind, miner, countdown, _ = shoot([GOLD], [0, -1])
    miner, countdown = rules.forget(*rules.forget(miner, countdown))
    assert countdown.tolist() == [1]
    kind, miner, countdown, mined = shoot(kind, [0, -1], miner, countdown)
    assert kind.tolist() == [GOLD] and countdown.tolist() == [3] and mined.gold.tolist() == [0, 0]
    miner, countdown = rules.forget(*rules.forget(miner, countdown))
    kind, _, _, mined = shoot(kind, [-1, 0], miner, countdown)
    assert kind.tolist() == [NONE] and mined.gold.tolist() == [1, 1]


def test_of_three_miners_two_share():
    for priority, winners in (([3, 2, 1], [1, 1, 0]), ([1, 2, 3], [0, 1, 1]), ([2, 1, 3], [1, 0, 1])):
        kind, _, _, mined = shoot([GOLD], [0, 0, 0], priority=priority)
        assert kind.tolist() == [NONE] and mined.gold.tolist() == winners


def test_who_began_keeps_a_share():
    # Agent 2 began; agents 0 and 1 hit now, or all three do.
    for target in ([0, 0, -1], [0, 0, 0]):
        for priority, other in (([9, 5, 1], 0), ([5, 9, 1], 1)):
            _, _, _, mined = shoot([GOLD], target, miner=[2], countdown=[2], priority=priority)
            assert mined.gold.tolist() == [other == 0, other == 1, 1]


def test_one_agent_may_share_two_ores_in_a_step():
    # Agent 0 began at cell 0, which agent 1 completes, while 0 and 2 hit cell 1.
    kind, miner, countdown, mined = shoot([GOLD, GOLD], [1, 0, 1], miner=[0, -1], countdown=[2, 0])
    assert mined.gold.tolist() == [2, 1, 1] and kind.tolist() == [NONE, NONE]
    assert miner.tolist() == [-1, -1] and countdown.tolist() == [0, 0]


def test_ore_that_is_not_hit_stays_as_it_is():
    kind, miner, countdown, _ = shoot([GOLD, IRON, GOLD], [-1, 1, -1], miner=[0, -1, 2], countdown=[1, 0, 3])
    assert (kind.tolist(), miner.tolist(), countdown.tolist()) == ([GOLD, NONE, GOLD], [0, -1, 2], [1, 0, 3])


def one_after_the_other(kind, miner, target, priority):
    """The same rules as a loop over shots: kinds, miners, iron and gold by agent."""
    kind, miner = list(kind), list(miner)
    iron, gold = [0] * len(target), [0] * len(target)
    for agent in sorted(range(len(target)), key=lambda i: -priority[i]):
        cell = target[agent]
        if cell < 0 or kind[cell] == NONE:
            continue
        if kind[cell] == IRON:
            kind[cell], iron[agent] = NONE, 1
        elif miner[cell] in (-1, agent):
            miner[cell] = agent
        else:
            gold[agent] += 1
            gold[miner[cell]] += 1
            kind[cell], miner[cell] = NONE, -1
    return kind, miner, iron, gold


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_shots_settle_as_if_one_after_the_other(data):
    agents = data.draw(st.sampled_from([2, 3, 6]))
    draw = lambda values, size: data.draw(st.lists(values, min_size=size, max_size=size))  # noqa: E731
    kind = draw(st.sampled_from([0, 1, 2]), CELLS)
    began = draw(st.integers(-1, agents - 1), CELLS)
    miner = [m if k == GOLD else -1 for m, k in zip(began, kind, strict=True)]
    target = draw(st.integers(-1, CELLS - 1), agents)
    target = [t if t >= 0 and kind[t] != NONE else -1 for t in target]
    priority = data.draw(st.permutations(range(1, agents + 1)))
    new_kind, new_miner, _, mined = shoot(kind, target, miner, [2] * CELLS, priority)
    expected = one_after_the_other(kind, miner, target, priority)
    got = (new_kind.tolist(), new_miner.tolist(), [int(x) for x in mined.iron], mined.gold.tolist())
    assert got == expected
    # Every gold that goes is shared by exactly two, every iron by one.
    gone = [k for k, new in zip(kind, got[0], strict=True) if k != new]
    assert sum(got[3]) == 2 * gone.count(GOLD) and sum(got[2]) == gone.count(IRON)


def test_ore_grows_at_its_rates_on_free_cells_only():
    cells = 2_000_000
    chance = jax.random.uniform(jax.random.key(3), (cells,))
    empty, free = jnp.zeros(cells, jnp.int8), jnp.zeros(cells, bool)
    iron, gold = 0.02, 0.008
    grown = np.asarray(rules.grow(empty, free, chance, iron, gold))
    for kind, rate in ((IRON, iron), (GOLD, (1 - iron) * gold)):
        assert abs((grown == kind).mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / cells)
    assert (np.asarray(rules.grow(empty, ~free, chance, 0.5, 0.5)) == NONE).all()
    full = jnp.full(4, GOLD)
    assert rules.grow(full, jnp.zeros(4, bool), jnp.zeros(4), 1.0, 1.0).tolist() == [GOLD] * 4
