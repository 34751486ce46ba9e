"""Cooperative mining as a world: drawn situations, windows and cooldowns to the exact step, growth, conservation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import marl_bench
from marl_bench.envs.coop_mining import maps
from marl_bench.envs.coop_mining.coop_mining import CoopMining
from marl_bench.envs.coop_mining.rules import GOLD, IRON
from marl_bench.envs.coop_mining.viewer import BEGUN_COLOUR, GOLD_COLOUR, IRON_COLOUR
from marl_bench.envs.grid.viewer import CELL

NOOP, FORWARD, BACKWARD, STEP_LEFT, STEP_RIGHT, TURN_LEFT, TURN_RIGHT, MINE = range(8)
NORTH, EAST, SOUTH, WEST = range(4)

ENV = CoopMining(players=3)
STILL = dataclasses.replace(ENV, iron_rate=0.0, gold_rate=0.0)
"""No ore appears by itself."""


@pytest.fixture(scope="module")
def step():
    return jax.jit(lambda env, state, actions: env.step(state, actions))


@pytest.fixture(scope="module")
def start():
    return jax.jit(lambda env, key: env.reset(key)[0])(STILL, jax.random.key(0))


def put(state, places, ore):
    """Agents at (row, column, heading), ore as {(row, column): kind}."""
    row, col, heading = (jnp.asarray(part, jnp.int8) for part in zip(*places, strict=True))
    kind = np.zeros((25, 25), np.int8)
    for cell, value in ore.items():
        kind[cell] = value
    resources = state.resources.replace(kind=jnp.asarray(kind.reshape(-1)))
    return state.replace(avatars=state.avatars.replace(row=row, col=col, heading=heading), resources=resources)


def play(step, env, state, *joint):
    timesteps = []
    for actions in joint:
        state, timestep = step(env, state, jnp.asarray(actions))
        timesteps.append(timestep)
    return state, timesteps


FAR, FARTHER = (24, 0, NORTH), (24, 2, NORTH)


def test_the_map_has_the_stated_cells():
    assert (~maps.barren()).sum() == 538 and len(maps.SPAWNS) == 18 and maps.mine().wall.sum() == 625 - 538 - 18
    assert not any(maps.mine().wall[cell] for cell in maps.SPAWNS)


@pytest.mark.parametrize(("distance", "reward"), [(1, 1), (2, 1), (3, 1), (4, 0)])
@pytest.mark.parametrize("heading", range(4))
def test_iron_within_three_cells_ahead_is_mined(step, start, distance, reward, heading):
    row_step, col_step = ((-1, 0), (0, 1), (1, 0), (0, -1))[heading]
    ore = {(8 + distance * row_step, 21 + distance * col_step): IRON}
    ore = {cell: kind for cell, kind in ore.items() if max(cell) < 25}
    state = put(start, [(8, 21, heading), FAR, FARTHER], ore)
    expected = reward if ore else 0
    state, (timestep,) = play(step, STILL, state, [MINE, NOOP, NOOP])
    assert timestep.reward.tolist() == [expected, 0, 0] and timestep.extras["iron"].tolist() == [expected, 0, 0]
    assert int((state.resources.kind == IRON).sum()) == len(ore) - expected


def test_the_first_ore_and_walls_stop_the_beam(step, start):
    # (5, 9) ... (5, 14) is a wall: from (4, 10) looking south nothing behind it is reached.
    state = put(start, [(4, 10, SOUTH), (0, 4, EAST), FAR], {(6, 10): IRON, (0, 5): IRON, (0, 6): IRON})
    state, (timestep,) = play(step, STILL, state, [MINE, MINE, NOOP])
    assert timestep.reward.tolist() == [0, 1, 0]
    left = np.argwhere(np.asarray(state.resources.kind).reshape(25, 25)).tolist()
    assert left == [[0, 6], [6, 10]]


def test_ore_can_be_walked_on_and_avatars_do_not_stop_the_beam(step, start):
    state = put(start, [(0, 4, EAST), (0, 5, EAST), FAR], {(0, 6): IRON})
    state, _ = play(step, STILL, state, [NOOP, FORWARD, NOOP])
    assert state.avatars.col.tolist()[:2] == [4, 6] and state.resources.kind[6] == IRON
    _, (timestep,) = play(step, STILL, state, [MINE, NOOP, NOOP])
    assert timestep.reward.tolist() == [1, 0, 0] and not timestep.extras["hits"][2]


def test_a_shot_is_possible_again_after_three_steps(step, start):
    state = put(start, [(0, 4, EAST), FAR, FARTHER], {})
    _, timesteps = play(step, STILL, state, *[[MINE, NOOP, NOOP]] * 7)
    assert [int(t.extras["shots"][0]) for t in timesteps] == [1, 0, 0, 1, 0, 0, 1]


@pytest.mark.parametrize(("later", "paid"), [(0, True), (1, True), (2, True), (3, False)])
def test_gold_needs_two_within_the_window(step, start, later, paid):
    state = put(start, [(0, 4, EAST), (0, 8, WEST), FAR], {(0, 6): GOLD})
    joint = [[NOOP, NOOP, NOOP] for _ in range(later + 1)]
    joint[0][0], joint[later][1] = MINE, MINE
    state, timesteps = play(step, STILL, state, *joint)
    assert timesteps[-1].reward.tolist() == ([8, 8, 0] if paid else [0, 0, 0])
    assert all(not t.reward.any() for t in timesteps[:-1])
    assert (state.resources.kind[6] == GOLD) == (not paid) and state.resources.miner[6] == (-1 if paid else 1)


def test_of_three_at_gold_two_are_paid(step, start):
    state = put(start, [(0, 4, EAST), (0, 8, WEST), (2, 6, NORTH)], {(0, 6): GOLD})
    totals = np.zeros(3)
    for key in range(12):
        _, (timestep,) = play(step, STILL, state.replace(key=jax.random.key(key)), [MINE, MINE, MINE])
        assert sorted(timestep.reward.tolist()) == [0, 8, 8]
        totals += np.asarray(timestep.reward)
    assert (totals > 0).all()  # which two is left to chance


def test_views_show_ore(step, start):
    state = put(start, [(4, 21, NORTH), FAR, FARTHER], {(1, 21): IRON, (2, 21): GOLD, (4, 20): GOLD, (5, 22): IRON})
    _, (before, after) = play(step, STILL, state, [NOOP] * 3, [MINE, NOOP, NOOP])
    at = {name: STILL.channels.index(name) for name in STILL.resource_channels}
    for timestep, begun in ((before, 0), (after, 1)):
        view = np.asarray(timestep.observation.agents_view[0])
        assert view[6, 5, at["iron"]] == 1 and view[10, 6, at["iron"]] == 1 and view[..., at["iron"]].sum() == 2
        assert view[7, 5, at["gold"]] == 1 - begun and view[7, 5, at["gold_begun"]] == begun
        assert view[9, 4, at["gold"]] == 1


@pytest.fixture(scope="module")
def rich():
    """Random play where ore is plentiful: kinds before and after, rewards and counts [B, T, ...]."""
    env = CoopMining(players=8, iron_rate=0.01, gold_rate=0.05, wait=0)

    def one(key):
        key_start, key_actions = jax.random.split(key)
        state, _ = env.reset(key_start)
        actions = jax.random.choice(key_actions, jnp.asarray([1, 5, 6, 7, 7, 7]), (60, 8))

        def body(state, action):
            following, timestep = env.step(state, action)
            kinds = state.resources.kind, following.resources.kind
            occupied = following.avatars.row.astype(jnp.int32) * 25 + following.avatars.col
            here = jnp.any(jnp.arange(625)[:, None] == occupied, axis=1)
            return following, (*kinds, here, timestep.reward, timestep.extras["iron"], timestep.extras["gold"])

        return jax.lax.scan(body, state, actions)[1]

    return jax.device_get(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(6), 40)))


def test_pay_and_ore_balance(rich):
    before, after, _, reward, iron, gold = rich
    np.testing.assert_allclose(reward, iron + 8.0 * gold)
    assert iron.sum() > 50 and gold.sum() > 20 and (gold.sum(-1) % 2 == 0).all()
    for kind, taken in ((IRON, iron.sum(-1)), (GOLD, gold.sum(-1) // 2)):
        assert (((before == kind) & (after != kind)).sum(-1) <= taken).all()
        # What grows and is mined in the same step is never seen; most of what is mined is older.
        assert ((before == kind) & (after != kind)).sum() >= 0.5 * taken.sum()


def test_ore_appears_at_its_rates_on_sites_only(rich):
    before, after, here, *_ = rich
    assert not after[..., maps.barren()].any()
    empty = (before == 0) & ~maps.barren() & ~here
    sites, grown = empty.sum(), after[empty]
    for kind, rate in ((IRON, 0.01), (GOLD, 0.99 * 0.05)):
        share = (grown == kind).sum() / sites
        # Cells that agents left in the step, and ore mined as it appears, are few: allow 1 % beside chance.
        assert abs(share - rate) < 4 * np.sqrt(rate / sites) + 0.01 * rate


def test_games_with_other_numbers_share_one_program(start):
    stack = dataclasses.replace(
        STILL, iron_reward=jnp.float32([1, 5]), gold_reward=jnp.float32([8, 2]), window_steps=jnp.int32([3, 1]),
        end_chance=jnp.float32([0.2, 0.2]), iron_rate=jnp.zeros(2), gold_rate=jnp.zeros(2), wait=jnp.int32([2, 2]),
    )  # fmt: skip
    state = put(start, [(0, 4, EAST), (0, 8, WEST), (2, 21, NORTH)], {(0, 6): GOLD, (1, 21): IRON})

    @jax.jit
    @jax.vmap
    def rewards(env):
        following, first = env.step(state, jnp.asarray([MINE, NOOP, MINE]))
        return first.reward, env.step(following, jnp.asarray([NOOP, MINE, NOOP]))[1].reward

    first, second = rewards(stack)
    assert first.tolist() == [[0, 0, 1], [0, 0, 5]] and second.tolist() == [[8, 8, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"players": 1}, "players=1: must be at least 2"),
        ({"players": 19}, "players=19: there are 18 spawn cells"),
        ({"iron_rate": -0.1}, "iron_rate=-0.1"),
        ({"window_steps": 0}, "window_steps=0"),
        ({"gold_reward": float("inf")}, "gold_reward=inf"),
    ],
)
def test_impossible_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        CoopMining(**fields)


def test_it_conforms():
    env = marl_bench.make("coop_mining_mp", players=3, horizon=20, iron_rate=0.05)
    assert marl_bench.check_environment(env, num_steps=25) == []


def test_picture_shows_ore(start):
    state = put(start, [(0, 4, EAST), FAR, FARTHER], {(1, 20): IRON, (1, 21): GOLD, (1, 22): GOLD})
    state = state.replace(resources=state.resources.replace(miner=state.resources.miner.at[25 + 22].set(0)))
    picture = STILL.render(state)
    assert picture.shape == (27 * CELL, 27 * CELL, 3)
    for col, colour in ((20, IRON_COLOUR), (21, GOLD_COLOUR), (22, BEGUN_COLOUR)):
        assert tuple(picture[int(2.5 * CELL), int((col + 1.5) * CELL)]) == colour
