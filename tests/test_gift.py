"""Gift refinements: boards, inventories, simultaneous gifts, conservation, conformance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import marl_bench
from marl_bench.envs.coop_mining import maps
from marl_bench.envs.gift import rules
from marl_bench.envs.gift.gift import Gift
from marl_bench.envs.grid.viewer import CELL

NOOP, FORWARD, BACKWARD, LEFT, RIGHT, TURN_LEFT, TURN_RIGHT, GIVE, CONSUME = range(9)
NORTH, EAST, SOUTH, WEST = range(4)
KEY = jax.random.key(0)
ENV = Gift(players=3, rate=0.0, horizon=50)


@pytest.fixture(scope="module")
def start():
    return jax.jit(ENV.reset)(KEY)[0]


@pytest.fixture(scope="module")
def step():
    return jax.jit(lambda env, state, actions: env.step(state, jnp.asarray(actions)))


def scene(start, places, headings, inventory=((0, 0, 0),) * 3, tokens=()):
    """State with three agents at places and headings; tokens at (row, column)."""
    token = np.zeros((25, 25), bool)
    for cell in tokens:
        token[cell] = True
    avatars = start.avatars.replace(
        row=jnp.int8([p[0] for p in places]), col=jnp.int8([p[1] for p in places]), heading=jnp.int8(headings)
    )
    resources = start.resources.replace(token=jnp.asarray(token.reshape(-1)), inventory=jnp.int8(inventory))
    return start.replace(avatars=avatars, resources=resources)


def held(state):
    return state.resources.inventory.tolist()


# A row without walls: row 9, columns 10 ... 24; agent 2 stands out of the way at (24, 12).
ROW = [(9, 12), (9, 15), (24, 12)]


# --- map -------------------------------------------------------------------------------------------


def test_map_counts():
    terrain = ENV.terrain
    assert terrain.wall.shape == (25, 25) and len(terrain.spawns) == 18
    assert (~maps.barren()).sum() == 538


# --- picking up and consuming ------------------------------------------------------------------------


def test_entering_a_token_cell_takes_it_without_reward(start, step):
    state = scene(start, ROW, [EAST, WEST, NORTH], tokens=[(9, 13), (9, 20)])
    state, timestep = step(ENV, state, [FORWARD, NOOP, NOOP])
    assert held(state) == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert timestep.reward.tolist() == [0, 0, 0] and timestep.extras["picked"].tolist() == [1, 0, 0]
    assert np.argwhere(state.resources.token.reshape(25, 25)).tolist() == [[9, 20]]


def test_a_full_inventory_loses_the_token(start, step):
    state = scene(start, ROW, [EAST, WEST, NORTH], [(15, 2, 0), (0, 0, 0), (0, 0, 0)], tokens=[(9, 13)])
    state, timestep = step(ENV, state, [FORWARD, NOOP, NOOP])
    assert held(state)[0] == [15, 2, 0] and timestep.extras["metrics"]["tokens"] == 0


def test_consuming_pays_one_for_each_token_of_any_type(start, step):
    state = scene(start, ROW, [EAST, WEST, NORTH], [(2, 3, 4), (15, 15, 15), (0, 0, 0)])
    state, timestep = step(ENV, state, [CONSUME, CONSUME, CONSUME])
    assert timestep.reward.tolist() == [9, 45, 0] and not np.any(held(state))
    assert timestep.extras["metrics"]["consumed"] == 54 and timestep.extras["defections"].tolist() == [2, 15, 0]


# --- giving ------------------------------------------------------------------------------------------

GIFTS = {
    "raw": ((1, 0, 0), [0, 0, 0], [0, 3, 0]),
    "refined": ((0, 1, 0), [0, 0, 0], [0, 0, 3]),
    "refined twice": ((0, 0, 1), [0, 0, 0], [0, 0, 1]),
    "the best goes first": ((4, 2, 0), [4, 1, 0], [0, 0, 3]),
    "the very best goes first": ((4, 2, 5), [4, 2, 4], [0, 0, 1]),
    "nothing": ((0, 0, 0), [0, 0, 0], [0, 0, 0]),
}


@pytest.mark.parametrize(("before", "giver", "receiver"), GIFTS.values(), ids=GIFTS)
def test_a_gift_moves_the_most_refined_token(start, step, before, giver, receiver):
    state = scene(start, ROW, [EAST, NORTH, NORTH], [before, (0, 0, 0), (0, 0, 0)])
    state, timestep = step(ENV, state, [GIVE, NOOP, NOOP])
    assert held(state)[:2] == [giver, receiver]
    assert timestep.reward.tolist() == [0, 0, 0]
    assert timestep.extras["gifts"].tolist() == [int(any(before)), 0, 0]
    assert timestep.extras["cooperations"].tolist() == [int(any(before) and before[2] == 0), 0, 0]


@pytest.mark.parametrize("heading", range(4))
@pytest.mark.parametrize("away", [1, 5, 6])
def test_the_beam_reaches_five_cells_in_every_direction(start, step, heading, away):
    down, right = ((-1, 0), (0, 1), (1, 0), (0, -1))[heading]
    origin = (9, 17) if heading in (EAST, WEST) else (12, 1)
    target = (origin[0] + away * down, origin[1] + away * right)
    if not (0 <= target[0] < 25 and 0 <= target[1] < 25) or ENV.terrain.wall[target]:
        pytest.fail(f"the test's own map reading is wrong: {target}")
    state = scene(start, [origin, target, (0, 0)], [heading, NORTH, NORTH], [(1, 0, 0), (0, 0, 0), (0, 0, 0)])
    state, _ = step(ENV, state, [GIVE, NOOP, NOOP])
    assert held(state)[1] == ([0, 3, 0] if away <= 5 else [0, 0, 0])


def test_walls_stop_a_gift_and_the_first_avatar_gets_it(start, step):
    walled = scene(start, [(5, 10), (7, 10), (0, 0)], [NORTH] * 3, [(1, 0, 0)] + [(0, 0, 0)] * 2)
    # Wall at (5, 9 ... 14): agent 1 stands below the wall, agent 0 is moved above it.
    walled = walled.replace(avatars=walled.avatars.replace(row=jnp.int8([4, 6, 0]), heading=jnp.int8([SOUTH, 0, 0])))
    state, _ = step(ENV, walled, [GIVE, NOOP, NOOP])
    assert held(state)[:2] == [[1, 0, 0], [0, 0, 0]]
    lined_up = scene(start, [(9, 12), (9, 14), (9, 16)], [EAST] * 3, [(1, 0, 0)] + [(0, 0, 0)] * 2)
    state, _ = step(ENV, lined_up, [GIVE, NOOP, NOOP])
    assert held(state) == [[0, 0, 0], [0, 3, 0], [0, 0, 0]]


def test_gifts_of_one_step_come_from_the_inventories_before(start, step):
    facing = scene(start, ROW, [EAST, WEST, NORTH], [(1, 0, 0), (0, 1, 0), (0, 0, 0)])
    state, _ = step(ENV, facing, [GIVE, GIVE, NOOP])
    assert held(state)[:2] == [[0, 0, 3], [0, 3, 0]]
    # Two give to one: 14 + 3 + 3 refined tokens are cut to 15.
    both = scene(start, [(9, 12), (9, 15), (9, 18)], [EAST, NORTH, WEST], [(1, 0, 0), (0, 14, 0), (1, 0, 0)])
    state, _ = step(ENV, both, [GIVE, NOOP, GIVE])
    assert held(state) == [[0, 0, 0], [0, 15, 0], [0, 0, 0]]
    # Who consumes while it is given something keeps the gift.
    state, timestep = step(ENV, facing, [GIVE, CONSUME, NOOP])
    assert held(state)[:2] == [[0, 0, 0], [0, 3, 0]] and timestep.reward.tolist() == [0, 1, 0]


def test_one_raw_token_refined_twice_is_worth_nine(start, step):
    state = scene(start, ROW, [EAST, WEST, NORTH], [(1, 0, 0), (0, 0, 0), (0, 0, 0)])
    total = np.zeros(3)
    for actions in ([GIVE, NOOP, NOOP], *([NOOP, GIVE, NOOP], [NOOP] * 3, [NOOP] * 3) * 3, [CONSUME, NOOP, NOOP]):
        state, timestep = step(ENV, state, actions)
        total += np.asarray(timestep.reward)
    assert total.tolist() == [9, 0, 0]


def test_a_gift_can_be_made_every_third_step(start, step):
    state = scene(start, ROW, [EAST, WEST, NORTH], [(9, 0, 0), (0, 0, 0), (0, 0, 0)])
    given_at = []
    for count in range(8):
        state, timestep = step(ENV, state, [GIVE, NOOP, NOOP])
        given_at += [count] * int(timestep.extras["gifts"][0])
    assert given_at == [0, 3, 6] and held(state)[0] == [6, 0, 0]


def test_the_multiplier_is_a_leaf(start, step):
    state = scene(start, ROW, [EAST, WEST, NORTH], [(1, 0, 0), (0, 0, 0), (0, 0, 0)])
    after, _ = jax.vmap(lambda m: step(ENV.replace(multiplier=m), state, [GIVE, NOOP, NOOP]))(jnp.asarray([1, 3, 5]))
    assert after.resources.inventory[:, 1, 1].tolist() == [1, 3, 5]


# --- growth ------------------------------------------------------------------------------------------


def test_tokens_appear_at_the_stated_rate_where_nobody_stands(start):
    env, state = ENV.replace(rate=0.01), scene(start, ROW, [EAST, WEST, NORTH])
    keys = jax.random.split(jax.random.key(3), 400)
    after, _ = jax.jit(jax.vmap(lambda key: env.step(state.replace(key=key), jnp.zeros(3, jnp.int32))))(keys)
    token = np.asarray(after.resources.token)
    closed = maps.barren().copy()
    closed[[row * 25 + col for row, col in ROW]] = True
    assert not token[:, closed].any()
    trials = (~closed).sum() * 400
    assert abs(token.sum() - 0.01 * trials) < 4 * np.sqrt(trials * 0.0099)


# --- views -------------------------------------------------------------------------------------------


def test_views_show_tokens_and_the_own_inventory(start):
    state = scene(start, ROW, [EAST, WEST, NORTH], [(1, 2, 3), (0, 0, 15), (0, 0, 0)], tokens=[(9, 14), (8, 12)])
    views, names = np.asarray(ENV.views(state)), ENV.channels
    assert views.shape == (3, 11, 11, len(names)) and views.dtype == np.uint8
    # Agent 0 looks east: (9, 14) is two cells ahead, (8, 12) one to the left; agent 1 looks west from three cells away.
    assert np.argwhere(views[0, ..., names.index("token")]).tolist() == [[7, 5], [9, 4]]
    assert np.argwhere(views[0, ..., names.index("others")]).tolist() == [[6, 5]]
    own = views[..., names.index("own_raw") : names.index("own_refined_twice") + 1]
    assert own[:, 9, 5].tolist() == [[1, 2, 3], [0, 0, 15], [0, 0, 0]] and own.sum() == 21
    assert ENV.global_state(state)[-9:].tolist() == [1, 2, 3, 0, 0, 15, 0, 0, 0]


def test_picture_shows_tokens(start):
    state = scene(start, ROW, [EAST, WEST, NORTH], tokens=[(9, 20)])
    picture = ENV.render(state)
    assert picture.shape == (27 * CELL, 27 * CELL, 3)
    centre = picture[CELL * 10 + CELL // 2, CELL * 21 + CELL // 2]
    assert (centre != picture[CELL * 10 + CELL // 2, CELL * 22 + CELL // 2]).any()


# --- conservation --------------------------------------------------------------------------------------

inventories = st.lists(st.lists(st.integers(0, 15), min_size=3, max_size=3), min_size=4, max_size=4)


@given(inventories, st.lists(st.integers(-1, 3), min_size=4, max_size=4), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_gifts_conserve_tokens(inventory, targets, multiplier):
    """Without a cap, each gift adds m - 1 tokens if it refines; worth at full refinement never falls."""
    before = jnp.int8(inventory)
    hits = np.zeros((4, 4), bool)
    for giver, target in enumerate(targets):
        if 0 <= target != giver:
            hits[giver, target] = True
    after, gone = rules.give(before, jnp.asarray(hits), multiplier, 127)
    refining = int(gone[:, :2].sum())
    assert int(after.sum()) == np.sum(inventory) + refining * (multiplier - 1)
    worth = np.array([multiplier**2, multiplier, 1])
    assert (np.asarray(after).sum(0) * worth).sum() == (np.sum(inventory, axis=0) * worth).sum()
    capped, _ = rules.give(before, jnp.asarray(hits), multiplier, 15)
    np.testing.assert_array_equal(capped, np.minimum(after, 15))
    eaten_from, eaten = rules.consume(before, jnp.asarray([True, False, True, False]))
    np.testing.assert_array_equal(np.asarray(eaten_from) + np.asarray(eaten), inventory)


# --- policies and contract -----------------------------------------------------------------------------


def test_defectors_collect_and_consume(start):
    defect = ENV.scripted_policies()["defect"]
    state = scene(start, ROW, [EAST, WEST, NORTH], [(0, 0, 0), (0, 1, 0), (0, 0, 0)], tokens=[(9, 13)])
    actions = defect(state, None, KEY)
    assert actions[0] == FORWARD and actions[1] == CONSUME


def test_cooperators_give_when_they_can_and_wait_for_givers(start):
    cooperate = ENV.scripted_policies()["cooperate"]
    state = scene(start, ROW, [EAST, WEST, NORTH], [(1, 0, 0), (0, 0, 0), (0, 0, 2)], tokens=[(9, 16)])
    assert cooperate(state, None, KEY).tolist() == [GIVE, NOOP, CONSUME]
    turned = scene(start, ROW, [NORTH, WEST, NORTH], [(1, 0, 0), (0, 0, 0), (0, 0, 0)])
    assert cooperate(turned, None, KEY)[0] == TURN_RIGHT
    alone = scene(start, ROW, [EAST, WEST, NORTH], tokens=[(9, 16)])
    assert cooperate(alone, None, KEY)[1] == BACKWARD


def test_two_cooperators_turn_one_token_into_nine(start, step):
    cooperate = jax.jit(ENV.scripted_policies()["cooperate"])
    # Agent 2 is far away and full of what it consumes at once.
    state = scene(start, [(9, 12), (9, 20), (24, 0)], [WEST, EAST, NORTH], [(1, 0, 0), (0, 0, 0), (0, 0, 0)])
    total = 0.0
    for count in range(45):
        state, timestep = step(ENV, state, cooperate(state, None, jax.random.fold_in(KEY, count)))
        total += float(timestep.reward.sum())
    assert total == 9


def test_the_world_conforms():
    assert marl_bench.check_environment(marl_bench.make("gift", horizon=20), num_steps=20) == []


def test_melting_pots_numbers():
    env = marl_bench.make("gift_mp")
    assert env.multiplier == 5 and env.end == "mp" and env.horizon == 1000 and env.fixed_horizon is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"players": 1}, "players=1"),
        ({"players": 19}, "players=19: there are 18 spawn cells"),
        ({"multiplier": 0}, "multiplier=0"),
        ({"capacity": 200}, "capacity=200"),
        ({"length": 10}, "length=10"),
        ({"rate": -0.1}, "rate=-0.1"),
    ],
)
def test_impossible_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Gift(**fields)
