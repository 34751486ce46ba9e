"""Games in the matrix as a world: drawn situations, timers to the exact step, views, conservation, conformance."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import marl_bench
from marl_bench.envs.grid.viewer import CELL
from marl_bench.envs.in_the_matrix.in_the_matrix import InTheMatrix
from marl_bench.envs.in_the_matrix.viewer import COLOURS

NOOP, FORWARD, BACKWARD, STEP_LEFT, STEP_RIGHT, TURN_LEFT, TURN_RIGHT, INTERACT = range(8)
NORTH, EAST, SOUTH, WEST = range(4)

ENV = InTheMatrix(layout="repeated", players=3)
"""Three agents on the small map; absence 5, window 5 x 5. Nothing regrows unless a test says so."""
QUIET = dataclasses.replace(ENV, regrowth=0.0)


@pytest.fixture(scope="module")
def step():
    return jax.jit(lambda env, state, actions: env.step(state, actions))


@pytest.fixture(scope="module")
def start():
    return jax.jit(lambda env, key: env.reset(key)[0])(QUIET, jax.random.key(0))


def put(state, places, inventory=None, ready=True):
    """Agents at (row, column, heading), carrying `inventory` [N, K], all ready or none."""
    row, col, heading = (jnp.asarray(part, jnp.int8) for part in zip(*places, strict=True))
    avatars = state.avatars.replace(row=row, col=col, heading=heading)
    old = state.resources
    if inventory is not None:
        old = old.replace(inventory=jnp.asarray(inventory, jnp.int16))
    return state.replace(avatars=avatars, resources=old.replace(ready=jnp.full(len(places), ready)))


def site(env, row, col):
    return int(np.flatnonzero(env.map.cells == row * env.terrain.width + col)[0])


def play(step, env, state, *joint):
    """Timesteps of joint actions, and the last state."""
    timesteps = []
    for actions in joint:
        state, timestep = step(env, state, jnp.asarray(actions))
        timesteps.append(timestep)
    return state, timesteps


FAR = (12, 0, NORTH)
"""Where the third agent waits, away from the others."""


# --- gathering -----------------------------------------------------------------------------------


def test_walking_onto_a_resource_gathers_it(step, start):
    state = put(start, [(2, 5, EAST), (0, 0, EAST), FAR], ready=False)
    state, (first, second) = play(step, QUIET, state, [FORWARD, NOOP, NOOP], [FORWARD, NOOP, NOOP])
    old = state.resources
    assert old.inventory.tolist() == [[3, 1], [1, 1], [1, 1]] and old.ready.tolist() == [True, False, False]
    assert first.extras["collected"].tolist() == [1, 0, 0] and second.extras["collected"].tolist() == [1, 0, 0]
    # Taken one step ago and two steps ago; the delay counts from 10.
    assert old.health[site(ENV, 2, 6)] == 0 and old.delay[site(ENV, 2, 6)] == 9
    assert old.health[site(ENV, 2, 7)] == 0 and old.delay[site(ENV, 2, 7)] == 10
    assert not first.reward.any() and not second.reward.any()


def test_resources_regrow_after_the_delay_but_not_under_an_agent(step, start):
    sure = dataclasses.replace(ENV, regrowth=1.0)
    state = put(start, [(2, 5, EAST), (0, 0, EAST), FAR])
    state, _ = step(sure, state, jnp.asarray([FORWARD, NOOP, NOOP]))
    here = site(ENV, 2, 6)
    stayed = state
    for waited in range(1, 12):
        stayed, _ = step(sure, stayed, jnp.asarray([NOOP, NOOP, NOOP]))
        assert stayed.resources.health[here] == 0, waited
    back, _ = step(sure, state, jnp.asarray([BACKWARD, NOOP, NOOP]))
    for waited in range(2, 12):
        back, _ = step(sure, back, jnp.asarray([NOOP, NOOP, NOOP]))
        assert back.resources.health[here] == (3 if waited >= 10 else 0), waited


def test_open_types_are_drawn_uniformly_for_every_episode():
    state = jax.jit(jax.vmap(lambda key: ENV.reset(key)[0]))(jax.random.split(jax.random.key(1), 500))
    drawn = np.asarray(state.resources.kind)[:, ENV.map.kind < 0]
    assert abs(drawn.mean() - 0.5) < 4 * 0.5 / np.sqrt(drawn.size)
    fixed = ENV.map.kind >= 0
    assert (np.asarray(state.resources.kind)[:, fixed] == ENV.map.kind[fixed]).all()
    cell = np.asarray(state.avatars.row).astype(int) * 21 + np.asarray(state.avatars.col)
    assert np.isin(cell, ENV.terrain.spawns).all() and (np.diff(np.sort(cell), axis=1) > 0).all()


# --- shots ---------------------------------------------------------------------------------------


def test_shots_wear_resources_down_and_then_pass(step, start):
    # Row 2 is `...###.#` to the left of the beam: the upper column is stopped by the wall beside (2, 5).
    state = put(start, [(2, 5, EAST), (0, 0, EAST), FAR], ready=False)
    health = []
    for shot in range(3):
        state, timesteps = play(step, QUIET, state, [INTERACT, NOOP, NOOP], [NOOP] * 3, [NOOP] * 3)
        health.append([int(state.resources.health[site(ENV, *cell)]) for cell in ((2, 6), (3, 6), (2, 7), (3, 7))])
        assert timesteps[0].extras["destroyed"].tolist() == [2 if shot == 2 else 0, 0, 0]
    assert health == [[2, 2, 3, 3], [1, 1, 3, 3], [0, 0, 2, 2]]


def test_a_shot_is_possible_again_three_steps_later(step, start):
    state = put(start, [(2, 5, EAST), (0, 0, EAST), FAR], ready=False)
    _, timesteps = play(step, QUIET, state, *[[INTERACT, NOOP, NOOP]] * 7)
    assert [int(t.extras["shots"][0]) for t in timesteps] == [1, 0, 0, 1, 0, 0, 1]
    ready = QUIET.channels.index("ready_interact")
    seen = [int(t.observation.agents_view[0, 3, 2, ready]) for t in timesteps]
    assert seen == [0, 0, 1, 0, 0, 1, 0]


# --- interactions --------------------------------------------------------------------------------

PAIR = [(5, 2, EAST), (5, 4, WEST), FAR]
MIXED = [[3, 1], [1, 3], [1, 1]]


def test_an_interaction_from_the_shot_to_the_return(step, start):
    state = put(start, PAIR, MIXED)
    push = [FORWARD, TURN_LEFT, NOOP]
    state, timesteps = play(step, QUIET, state, [INTERACT, NOOP, NOOP], *[push] * 21)
    assert timesteps[0].extras["interactions"].tolist() == [1, 1, 0]
    assert timesteps[0].extras["cooperations"].tolist() == [1, 0, 0]
    assert timesteps[0].extras["defections"].tolist() == [0, 1, 0]
    rewards = np.array([t.reward for t in timesteps])
    np.testing.assert_allclose(rewards[16], [17 / 16, 57 / 16, 0], rtol=1e-6)
    assert not np.delete(rewards, 16, axis=0).any()
    alive = np.array([t.extras["alive"] for t in timesteps])
    assert alive[:16].all() and (alive[16:21, :2] == 0).all() and alive[21].all() and alive[:, 2].all()
    # Frozen: nothing but NOOP is legal, and nobody moved or turned while it lasted.
    masks = np.array([t.observation.action_mask for t in timesteps])
    assert (masks[:21, :2].sum(-1) == 1).all() and masks[:21, :2, NOOP].all() and masks[:, 2].all() and masks[21].all()
    frozen = QUIET.channels.index("frozen")
    assert [int(t.observation.agents_view[0, 3, 2, frozen]) for t in timesteps[:17]] == [1] * 16 + [0]
    assert state.resources.inventory.tolist() == [[1, 1], [1, 1], [1, 1]]
    assert state.resources.ready.tolist() == [False, False, True] and not state.resources.engaged.any()


def test_frozen_agents_stand_still(step, start):
    state, _ = step(QUIET, put(start, PAIR, MIXED), jnp.asarray([INTERACT, NOOP, NOOP]))
    for _ in range(15):
        state, _ = step(QUIET, state, jnp.asarray([BACKWARD, TURN_LEFT, NOOP]))
        assert state.avatars.row[:2].tolist() == [5, 5] and state.avatars.col[:2].tolist() == [2, 4]
        assert state.avatars.heading[:2].tolist() == [EAST, WEST]


def test_two_shots_at_each_other_are_one_interaction(step, start):
    _, (timestep,) = play(step, QUIET, put(start, PAIR, MIXED), [INTERACT, INTERACT, NOOP])
    assert timestep.extras["shots"].tolist() == [1, 1, 0] and timestep.extras["interactions"].tolist() == [1, 1, 0]


@pytest.mark.parametrize("who", [[False, True, True], [True, False, True], [False, False, True]])
def test_both_must_be_ready(step, start, who):
    state = put(start, PAIR, MIXED)
    state = state.replace(resources=state.resources.replace(ready=jnp.asarray(who)))
    _, (timestep,) = play(step, QUIET, state, [INTERACT, NOOP, NOOP])
    assert not timestep.extras["interactions"].any() and timestep.extras["hits"].tolist() == [0, 1, 0]


def test_the_first_agent_hit_blocks_the_beam(step, start):
    # 0 shoots along row 5; 1 stands in front of 2.
    line = [(5, 2, EAST), (5, 3, NORTH), (5, 4, NORTH)]
    _, (timestep,) = play(step, QUIET, put(start, line, MIXED), [INTERACT, NOOP, NOOP])
    assert timestep.extras["interactions"].tolist() == [1, 1, 0]
    state = put(start, line, MIXED)
    unready = state.replace(resources=state.resources.replace(ready=jnp.asarray([True, False, True])))
    _, (timestep,) = play(step, QUIET, unready, [INTERACT, NOOP, NOOP])
    assert not timestep.extras["interactions"].any()


def test_nobody_joins_an_interaction(step, start):
    crowd = [(5, 2, EAST), (5, 4, WEST), (5, 3, SOUTH)]
    # 2 stands between: 0 meets 2 or 1 meets 2, never both.
    for key in range(4):
        state = put(start, crowd, MIXED).replace(key=jax.random.key(key))
        _, (timestep,) = play(step, QUIET, state, [INTERACT, INTERACT, NOOP])
        assert sorted(timestep.extras["interactions"].tolist()) == [0, 1, 1] and timestep.extras["interactions"][2]
    state = put(start, [(5, 2, EAST), (5, 4, WEST), (3, 2, SOUTH)], MIXED)
    state, timesteps = play(step, QUIET, state, [INTERACT, NOOP, NOOP], [NOOP, NOOP, INTERACT])
    assert timesteps[1].extras["shots"].tolist() == [0, 0, 1] and not timesteps[1].extras["interactions"].any()


def test_resources_return_while_nobody_is_there(step, start):
    state = put(start, PAIR, MIXED)
    old = state.resources
    state = state.replace(
        resources=old.replace(health=jnp.zeros_like(old.health).at[0].set(1)),
        avatars=state.avatars.replace(away=jnp.asarray([0, 0, 3000], jnp.int16)),
    )
    kept = dataclasses.replace(QUIET, refill=False)
    for env, full in ((QUIET, True), (kept, False)):
        final, timesteps = play(step, env, state, [INTERACT, NOOP, NOOP], *[[NOOP] * 3] * 16)
        before = float(timesteps[15].extras["metrics"]["resources"])
        np.testing.assert_allclose(before, 1 / 36, rtol=1e-5)
        assert ((final.resources.health > 0).all() == full) and final.resources.health[0] == 1


# --- views ---------------------------------------------------------------------------------------


def test_views_show_resources_readiness_and_numbers(step, start):
    # 0 looks east at 1, two cells ahead.
    state = put(start, PAIR, MIXED)
    _, (first, second) = play(step, QUIET, state, [INTERACT, NOOP, NOOP], [NOOP] * 3)
    view, names = np.asarray(first.observation.agents_view), QUIET.channels
    at = {name: index for index, name in enumerate(names)}
    assert view.shape == (3, 5, 5, len(names)) and view.dtype == np.uint8
    own = (3, 2)
    numbers = [view[0][own][at[f"{what}_{k}"]] for what in ("inventory", "result_own", "result_other") for k in (0, 1)]
    assert numbers == [3, 1, 3, 1, 1, 3]
    assert [view[1][own][at[f"result_other_{k}"]] for k in (0, 1)] == [3, 1]
    assert view[0, 1, 2, at["others"]] == 1 and view[0, 1, 2, at["ready"]] == 1 and view[0, 1, 2, at["frozen"]] == 1
    assert view[0, 1, 2, at["heading_opposite"]] == 1 and view[0, 2, 2, at["interact"]] == 1
    later = np.asarray(second.observation.agents_view)
    assert not later[..., at["result_own_0"] : at["result_other_1"] + 1].any() and later[0][own][at["inventory_0"]] == 3
    # Elsewhere than at the own cell there are no numbers.
    elsewhere = np.ones((5, 5), bool)
    elsewhere[own] = False
    assert view[:, elsewhere].max() == 1


@pytest.mark.parametrize("heading", range(4))
def test_a_resource_ahead_is_ahead_in_the_view(step, start, heading):
    row_step, col_step = ((-1, 0), (0, 1), (1, 0), (0, -1))[heading]
    row, col = 3 - row_step, 6 - col_step  # (3, 6) is one cell ahead
    state = put(start, [(row, col, heading), (0, 0, EAST), FAR])
    _, (timestep,) = play(step, QUIET, state, [NOOP] * 3)
    assert timestep.observation.agents_view[0, 2, 2, QUIET.channels.index("resource_0")] == 1


def test_those_away_see_nothing(step, start):
    state = put(start, PAIR, MIXED)
    _, timesteps = play(step, QUIET, state, [INTERACT, NOOP, NOOP], *[[NOOP] * 3] * 16)
    view = np.asarray(timesteps[-1].observation.agents_view)
    assert not view[:2].any() and view[2].any()


# --- whole games ---------------------------------------------------------------------------------


def roll_out(env, games, steps):
    """Random play: (rewards [T, B, N], counts, last states)."""

    def one(key):
        key_start, key_actions = jax.random.split(key)
        state, _ = env.reset(key_start)
        actions = jax.random.randint(key_actions, (steps, env.num_agents), 0, env.num_actions)

        def body(state, action):
            following, timestep = env.step(state, action)
            inventory = following.resources.inventory
            cell = following.avatars.row.astype(jnp.int32) * env.terrain.width + following.avatars.col
            cell = jnp.where(following.avatars.alive, cell, -1 - jnp.arange(env.num_agents))
            distinct = jnp.all((cell[:, None] != cell) | jnp.eye(env.num_agents, dtype=bool))
            events = timestep.extras["interactions"], timestep.extras["collected"]
            return following, (timestep.reward, *events, inventory.sum(), distinct)

        return jax.lax.scan(body, state, actions)[1]

    return jax.device_get(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(4), games)))


def test_running_with_scissors_is_zero_sum_in_every_step():
    env = InTheMatrix(game="running_with_scissors", layout="repeated", players=6, regrowth=0.3, freeze=3, horizon=400)
    reward, met, collected, carried, distinct = roll_out(env, 24, 300)
    assert (met.sum(-1) % 2 == 0).all() and met.sum() > 40 and distinct.all()
    np.testing.assert_allclose(reward.sum(-1), 0, atol=1e-4)
    assert (np.abs(reward) > 0.1).any() and np.abs(reward).max() <= 10
    # Inventories grow by what is collected and fall only to 1 of each, when an interaction is paid.
    change = np.diff(carried, axis=1) - collected.sum(-1)[:, 1:]
    assert (change <= 0).all() and ((change < 0) == (np.diff(carried, axis=1) < collected.sum(-1)[:, 1:])).all()
    assert collected.max() == 1 and (carried >= 6 * 3).all()


def test_roles_keep_like_agents_apart(step):
    env = InTheMatrix(game="bach_stravinsky", layout="repeated", players=4, regrowth=0.0)
    state = jax.jit(lambda env, key: env.reset(key)[0])(env, jax.random.key(0))
    # 1 shoots 0 (roles differ), 3 is shot by nobody; then 2 shoots 0 (both row players).
    places = [(5, 2, EAST), (5, 4, WEST), FAR, (12, 20, NORTH)]
    inventory = [[1, 3], [3, 1], [1, 1], [1, 1]]
    # Row player 0 plays (1/4, 3/4), column player 1 (3/4, 1/4): 3 * 3/16 + 2 * 3/16 for the one, 2 * 3/16 + 3 * 3/16.
    _, timesteps = play(step, env, put(state, places, inventory), [NOOP, INTERACT, NOOP, NOOP], *[[NOOP] * 4] * 16)
    np.testing.assert_allclose(timesteps[-1].reward, [15 / 16, 15 / 16, 0, 0], rtol=1e-6)
    places = [(5, 2, EAST), FAR, (5, 4, WEST), (12, 20, NORTH)]
    _, timesteps = play(step, env, put(state, places, inventory), [NOOP, NOOP, INTERACT, NOOP])
    assert timesteps[0].extras["hits"].tolist() == [1, 0, 0, 0] and not timesteps[0].extras["interactions"].any()
    view, role = np.asarray(timesteps[0].observation.agents_view), env.channels.index("row_player")
    assert view[:, 3, 2, role].tolist() == [1, 0, 1, 0] and view[2, 1, 2, role] == 1


# --- contract ------------------------------------------------------------------------------------


def test_games_with_other_numbers_share_one_program(start):
    stack = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *(
        dataclasses.replace(
            QUIET, row_payoffs=((3.0, sucker), (5.0, 1.0)), freeze=freeze, health=2, delay=1, wait=0, regrowth=0.0, absence=7
        )
        for sucker, freeze in ((0.0, 2), (-1.0, 1), (2.0, 2))
    ))  # fmt: skip

    @jax.jit
    @jax.vmap
    def rewards(env):
        state, timestep = env.step(put(start, PAIR, MIXED), jnp.asarray([INTERACT, NOOP, NOOP]))
        second, later = env.step(state, jnp.zeros(3, jnp.int32))
        return timestep.reward, later.reward, env.step(second, jnp.zeros(3, jnp.int32))[1].reward

    first, second, third = rewards(stack)
    # x'Ay = (3 * 3 + 9 * sucker + 5 + 3) / 16, and the other's = (9 + sucker + 45 + 3) / 16.
    assert not first.any()
    np.testing.assert_allclose(second, [[0, 0, 0], [8 / 16, 56 / 16, 0], [0, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(third, [[17 / 16, 57 / 16, 0], [0, 0, 0], [35 / 16, 59 / 16, 0]], rtol=1e-6)


def test_column_payoffs_default_to_the_transpose():
    given = InTheMatrix(row_payoffs=((3, -1), (5, 1)))
    assert [matrix.tolist() for matrix in given.matrices] == [[[3, -1], [5, 1]], [[3, 5], [-1, 1]]]
    both = InTheMatrix(game="bach_stravinsky", column_payoffs=((1, 2), (3, 4)))
    assert [matrix.tolist() for matrix in both.matrices] == [[[3, 0], [0, 2]], [[1, 2], [3, 4]]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"game": "prisoner"}, "game='prisoner'.*prisoners_dilemma"),
        ({"layout": "arenas"}, "layout='arenas'.*arena"),
        ({"layout": "sparse", "game": "pure_coordination"}, "layout='sparse': has no map for 3"),
        ({"players": 1}, "players=1: must be between 2 and 64"),
        ({"players": 65}, "players=65: there are 64 spawn cells"),
        ({"layout": "repeated", "players": 14}, "players=14: there are 13 spawn cells"),
        ({"regrowth": 1.5}, "regrowth=1.5"),
        ({"freeze": 128}, "freeze=128"),
        ({"absence": 0}, "absence=0"),
        ({"health": 0}, "health=0"),
        ({"row_payoffs": ((1, 2, 3), (4, 5, 6))}, "row_payoffs=.*must be 2 rows of 2 numbers"),
    ],
)
def test_impossible_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        InTheMatrix(**fields)


@pytest.mark.parametrize(
    ("name", "players"),
    [
        pytest.param("stag_hunt_in_the_matrix_repeated", 2, marks=pytest.mark.slow),
        pytest.param("rationalizable_in_the_matrix_arena", 3, marks=pytest.mark.slow),
        ("prisoners_dilemma_in_the_matrix_socialjax", 2),
    ],
)
def test_presets_conform(name, players):
    env = marl_bench.make(name, horizon=15, players=players)
    assert marl_bench.check_environment(env, num_steps=18) == []


def test_every_game_has_presets_on_both_maps():
    from marl_bench.envs.in_the_matrix.payoffs import GAMES

    for game in GAMES:
        arena, repeated = (marl_bench.make(f"{game}_in_the_matrix_{layout}") for layout in ("arena", "repeated"))
        assert (arena.game, arena.layout, arena.players, arena.observation_shape[:2]) == (game, "arena", 8, (11, 11))
        assert (repeated.game, repeated.layout, repeated.players) == (game, "repeated", 2)
        assert repeated.observation_shape[:2] == (5, 5)


def test_picture_shows_resources_walls_and_agents(start):
    picture = QUIET.render(put(start, PAIR, MIXED))
    assert picture.shape == (15 * CELL, 23 * CELL, 3) and picture.dtype == np.uint8

    def colour(row, col):
        return tuple(picture[int((row + 1.5) * CELL), int((col + 1.5) * CELL)])

    assert colour(2, 6) == COLOURS[0] and colour(2, 14) == COLOURS[1] and colour(2, 4) != colour(2, 2)
    assert colour(5, 2) != colour(5, 3)
