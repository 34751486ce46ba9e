"""Territory: rules on hand-made walls, boards on both maps, sanctions to the step, conservation, conformance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import marl_bench
from marl_bench.envs.grid.avatars import FOREVER
from marl_bench.envs.grid.viewer import CELL
from marl_bench.envs.territory import rules, scripted
from marl_bench.envs.territory.maps import layout
from marl_bench.envs.territory.territory import CHANNELS, Territory

NOOP, FORWARD, BACKWARD, LEFT, RIGHT, TURN_LEFT, TURN_RIGHT, ZAP, CLAIM = range(9)
NORTH, EAST, SOUTH, WEST = range(4)
KEY = jax.random.key(0)
ENV = Territory(players=3, horizon=200, pay_rate=0.0, repair_rate=0.0)
PARKED = (20, 0)
"""A cell on the open map with no wall near it."""


@pytest.fixture(scope="module")
def start():
    return jax.jit(ENV.reset)(KEY)[0]


@pytest.fixture(scope="module")
def step():
    return jax.jit(lambda env, state, actions: env.step(state, jnp.asarray(actions)))


def scene(start, places, headings, **walls):
    """State with three agents; `walls` are arrays of the resources, or dicts from cells to values."""
    found = {}
    for name, values in walls.items():
        array = np.array(getattr(start.resources, name))
        for cell, value in values.items():
            array[site(*cell)] = value
        found[name] = jnp.asarray(array)
    avatars = start.avatars.replace(
        row=jnp.int8([p[0] for p in places]), col=jnp.int8([p[1] for p in places]), heading=jnp.int8(headings)
    )
    return start.replace(avatars=avatars, resources=start.resources.replace(**found))


def site(row, col):
    return int(np.flatnonzero(ENV.sites == row * 37 + col)[0])


def of(state, name, *cells):
    return [int(getattr(state.resources, name)[site(*cell)]) for cell in cells]


# --- maps --------------------------------------------------------------------------------------------


def test_open_map_counts():
    resource, wall, spawn = layout("open")
    assert resource.shape == (21, 37) and resource.sum() == 88 and not wall.any() and spawn.sum() == 18
    assert not (resource & spawn).any() and resource[1:9, 5:7].all() and not resource[9, 5]


def test_rooms_are_nine_equal_rooms_on_a_torus():
    resource, wall, spawn = layout("rooms")
    assert resource.shape == (21, 21) and resource.sum() == 9 * 20 and wall.sum() == 36 and spawn.sum() == 9
    assert resource[0, 1:6].all() and resource[1:6, 0].all() and wall[0, 0] and spawn[3, 3] and not resource[1, 1]
    env = Territory(layout="rooms")
    assert env.terrain.torus and env.players == 9 and env.num_actions == 9


# --- rules -------------------------------------------------------------------------------------------


def test_claims_go_to_one_of_the_claimants():
    owner, age = jnp.int8([-1, 1, 1, 0]), jnp.int16([3, 30, 30, 9])
    claims = jnp.asarray([[1, 1, 0, 0], [0, 1, 1, 0]], bool)
    owner_, age_, got = rules.claim(owner, age, claims, jnp.uint32([9, 5]))
    assert owner_.tolist() == [0, 0, 1, 0] and age_.tolist() == [0, 0, 30, 9]
    assert got.tolist() == [[True, True, False, False], [False] * 4]
    owner_, age_, got = rules.claim(owner, age, claims, jnp.uint32([5, 9]))
    assert owner_.tolist() == [0, 1, 1, 0] and age_.tolist() == [0, 30, 30, 9] and got.sum() == 1


def test_contested_claims_are_settled_uniformly():
    words = jax.random.bits(KEY, (6000, 3), jnp.uint32)
    claims = jnp.asarray([[1, 1], [1, 0], [1, 1]], bool)
    owner = jax.vmap(lambda w: rules.claim(jnp.int8([-1, -1]), jnp.int16([0, 0]), claims, w)[0])(words)
    counts = np.bincount(np.asarray(owner[:, 0]), minlength=3)
    assert ((counts - 2000) ** 2 / 2000).sum() < 13.8  # chi-square, 2 degrees of freedom, p = 0.001
    assert abs(np.mean(np.asarray(owner[:, 1]) == 0) - 0.5) < 0.03 and not (owner[:, 1] == 1).any()


def test_damage_and_repair():
    health, owner, since = rules.damage(
        jnp.int8([2, 1, 0, 2, 2]), jnp.int8([0, 1, -1, 2, 1]), jnp.int16([50] * 5), jnp.asarray([1, 1, 1, 3, 0])
    )
    assert health.tolist() == [1, 0, 0, 0, 2] and owner.tolist() == [0, -1, -1, -1, 1]
    assert since.tolist() == [0, 0, 50, 0, 50]
    lucky = jnp.asarray([True, True, True, False, True])
    repaired = rules.repair(jnp.int8([1, 1, 0, 1, 2]), jnp.int16([15, 14, 90, 90, 90]), lucky, 15)
    assert repaired.tolist() == [2, 1, 0, 1, 2]


def test_income_goes_to_the_owners_of_dry_walls():
    owner, age = jnp.int8([0, 0, 1, -1, 2]), jnp.int16([25, 24, 99, 99, 25])
    paying = rules.dry(owner, age, 25)
    assert paying.tolist() == [True, False, True, False, True]
    assert rules.income(owner, paying.astype(jnp.float32), 4).tolist() == [1, 1, 1, 0]
    assert rules.release(owner, jnp.asarray([True, False, False])).tolist() == [-1, -1, 1, -1, 2]


def test_the_second_shot_while_marked_removes():
    marked, doomed = rules.sanction(jnp.int8([0, 0, 0, 7, 7, 1]), jnp.asarray([0, 1, 2, 0, 1, 2]))
    assert marked.tolist() == [False, True, False, False, False, False]
    assert doomed.tolist() == [False, False, True, False, True, True]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_the_groups_income_does_not_depend_on_who_holds_the_walls(seed):
    rng = np.random.default_rng(seed)
    age, amount = jnp.asarray(rng.integers(0, 60, 88), jnp.int16), jnp.float32(0.01)
    totals = []
    for owner in (rng.integers(0, 9, 88), np.zeros(88)):
        paying = rules.dry(jnp.asarray(owner, jnp.int8), age, 25)
        totals.append(float(rules.income(jnp.asarray(owner, jnp.int8), jnp.where(paying, amount, 0.0), 9).sum()))
    np.testing.assert_allclose(totals[0], totals[1], rtol=1e-5)
    np.testing.assert_allclose(totals[0], 0.01 * np.sum(np.asarray(age) >= 25), rtol=1e-5)
    claims = jnp.asarray(rng.random((9, 88)) < 0.2)
    before = jnp.asarray(rng.integers(-1, 9, 88), jnp.int8)
    owner, _, got = rules.claim(before, age, claims, jnp.asarray(rng.integers(0, 2**32, 9, dtype=np.uint32)))
    # Every wall has at most one new owner, who had claimed it; nothing claimed stays nobody's.
    assert (got.sum(0) <= 1).all() and not (got & ~claims).any()
    np.testing.assert_array_equal(owner == before, ~got.any(0))
    assert ((owner >= 0) | ~claims.any(0)).all()


# --- boards ------------------------------------------------------------------------------------------

# The wall (5, 17 ... 20) lies in the open: agent 0 stands below it at (6, 18).


def test_the_wall_in_front_is_claimed_without_a_shot(start, step):
    state = scene(start, [(7, 18), PARKED, (20, 36)], [NORTH] * 3)
    state, timestep = step(ENV, state, [FORWARD, NOOP, NOOP])
    assert of(state, "owner", (5, 18), (5, 17), (5, 19)) == [0, -1, -1]
    assert timestep.extras["claims"].tolist() == [1, 0, 0] and timestep.extras["cooperations"].tolist() == [1, 0, 0]
    turned, _ = step(ENV, scene(start, [(6, 18), PARKED, (20, 36)], [EAST] * 3), [NOOP] * 3)
    assert not (turned.resources.owner >= 0).any()


def test_resource_walls_are_solid_until_destroyed(start, step):
    state = scene(start, [(6, 18), PARKED, (20, 36)], [NORTH] * 3)
    stopped, _ = step(ENV, state, [FORWARD, NOOP, NOOP])
    assert (int(stopped.avatars.row[0]), int(stopped.avatars.col[0])) == (6, 18)
    broken = scene(start, [(6, 18), PARKED, (20, 36)], [NORTH] * 3, health={(5, 18): 0})
    through, _ = step(ENV, broken, [FORWARD, NOOP, NOOP])
    assert int(through.avatars.row[0]) == 5 and of(through, "owner", (5, 18)) == [-1]


def test_the_claim_beam_takes_two_walls_and_passes_avatars(start, step):
    # (1 ... 8, 5 ... 6) is two walls thick from the side; agent 1 stands between agent 0 and another wall.
    state = scene(start, [(4, 4), (9, 5), (10, 5)], [EAST, SOUTH, NORTH])
    claimed, _ = step(ENV, state, [CLAIM, NOOP, CLAIM])
    assert of(claimed, "owner", (4, 5), (4, 6)) == [0, 0]
    assert of(claimed, "owner", (8, 5)) == [2]
    waiting, _ = step(ENV, state, [NOOP, NOOP, NOOP])
    assert of(waiting, "owner", (4, 5), (4, 6), (8, 5)) == [0, -1, -1]


def test_taking_a_wall_makes_it_wet_and_keeping_it_does_not(start, step):
    walls = {"owner": {(5, 18): 1, (5, 17): 0}, "age": {(5, 18): 40, (5, 17): 40}}
    state = scene(start, [(6, 18), PARKED, (20, 36)], [NORTH] * 3, **walls)
    state, timestep = step(ENV, state, [NOOP] * 3)
    assert of(state, "owner", (5, 18)) == [0] and of(state, "age", (5, 18), (5, 17)) == [0, 41]
    assert timestep.extras["defections"].tolist() == [1, 0, 0]
    state, timestep = step(ENV, state, [NOOP] * 3)
    assert of(state, "age", (5, 18)) == [1] and not timestep.extras["claims"].any()


def test_a_wall_pays_from_its_25th_step_on(start, step):
    env = ENV.replace(pay_rate=1.0)
    state = scene(start, [(6, 18), PARKED, (20, 36)], [NORTH] * 3)
    rewards = []
    for _ in range(28):
        state, timestep = step(env, state, [NOOP] * 3)
        rewards.append(float(timestep.reward[0]))
    assert rewards == [0] * 25 + [1] * 3
    assert timestep.extras["metrics"]["dry"] == pytest.approx(1 / 88)


def test_expected_rewards_pay_their_mean(start, step):
    env = ENV.replace(rewards="expected", pay_rate=0.01)
    walls = {"owner": {(5, 17): 1, (5, 20): 1, (3, 1): 2}, "age": {(5, 17): 24, (5, 20): 90, (3, 1): 30}}
    _, timestep = step(env, scene(start, [PARKED, (20, 2), (20, 36)], [SOUTH] * 3, **walls), [NOOP] * 3)
    np.testing.assert_allclose(timestep.reward, [0, 0.02, 0.01], rtol=1e-6)


def test_two_shots_destroy_a_wall(start, step):
    walls = {"owner": {(5, 18): 0}, "age": {(5, 18): 9}}
    state = scene(start, [(7, 18), PARKED, (20, 36)], [NORTH] * 3, **walls)
    state, _ = step(ENV, state, [ZAP, NOOP, NOOP])
    assert of(state, "health", (5, 18), (5, 17)) == [1, 2] and of(state, "owner", (5, 18)) == [0]
    shots = []
    for _ in range(5):
        state, timestep = step(ENV, state, [ZAP, NOOP, NOOP])
        shots.append(int(timestep.extras["shots"][0]))
    assert shots == [0, 0, 0, 0, 1]  # cooldown 4: the next shot is the fifth step after
    assert of(state, "health", (5, 18)) == [0] and of(state, "owner", (5, 18)) == [-1]


def test_shots_stop_at_walls_and_cover_both_sides(start, step):
    # From (6, 18): (5, 18) ahead stops the middle; the sides start beside the shooter and hit (5, 17) and (5, 19).
    state = scene(start, [(6, 18), PARKED, (20, 36)], [NORTH] * 3)
    state, _ = step(ENV, state, [ZAP, NOOP, NOOP])
    assert of(state, "health", (5, 17), (5, 18), (5, 19), (5, 20)) == [1, 1, 1, 2]
    # Behind a wall nobody is hit; once it is destroyed, the beam passes.
    hidden = scene(start, [(6, 18), (4, 18), (20, 36)], [NORTH] * 3)
    _, timestep = step(ENV, hidden, [ZAP, NOOP, NOOP])
    assert not timestep.extras["hits"].any()
    open_ = scene(start, [(6, 18), (4, 18), (20, 36)], [NORTH] * 3, health={(5, 18): 0})
    _, timestep = step(ENV, open_, [ZAP, NOOP, NOOP])
    assert timestep.extras["hits"].tolist() == [0, 1, 0]


def test_the_first_shot_freezes_for_25_steps(start, step):
    # Open ground in row 19; agent 0 shoots agent 1 and then walks away.
    state = scene(start, [(19, 10), (19, 12), (20, 36)], [EAST, WEST, NORTH])
    state, timestep = step(ENV, state, [ZAP, NOOP, NOOP])
    assert timestep.extras["hits"].tolist() == [0, 1, 0] and not timestep.reward.any()
    for count in range(25):
        assert timestep.observation.action_mask[1].tolist() == [True] + [False] * 8, count
        state, timestep = step(ENV, state, [NOOP, FORWARD, NOOP])
        assert int(state.avatars.col[1]) == 12
    assert timestep.observation.action_mask[1].all()
    state, _ = step(ENV, state, [NOOP, FORWARD, NOOP])
    assert int(state.avatars.col[1]) == 11


@pytest.mark.parametrize(("waited", "removed"), [(4, True), (48, True), (49, False)])
def test_a_second_shot_within_50_steps_removes_for_good(start, step, waited, removed):
    state = scene(start, [(19, 10), (19, 12), (20, 36)], [EAST, EAST, NORTH], owner={(5, 18): 1, (5, 17): 2})
    state, _ = step(ENV, state, [ZAP, NOOP, NOOP])
    for _ in range(waited):
        state, _ = step(ENV, state, [NOOP] * 3)
    state, timestep = step(ENV, state, [ZAP, NOOP, NOOP])
    assert timestep.extras["hits"].tolist() == [0, 1, 0] and timestep.extras["alive"].all()
    state, timestep = step(ENV, state, [NOOP, FORWARD, NOOP])
    assert bool(timestep.extras["alive"][1]) != removed
    assert of(state, "owner", (5, 18), (5, 17)) == ([-1, 2] if removed else [1, 2])
    assert (int(state.avatars.away[1]) == FOREVER) == removed
    assert (timestep.observation.agents_view[1].sum() == 0) == removed


def test_two_shots_in_one_step_remove(start, step):
    state = scene(start, [(19, 10), (19, 12), (19, 14)], [EAST, NORTH, WEST])
    state, _ = step(ENV, state, [ZAP, NOOP, ZAP])
    _, timestep = step(ENV, state, [NOOP] * 3)
    assert timestep.extras["alive"].tolist() == [True, False, True]


def test_frozen_avatars_still_claim_what_is_in_front(start, step):
    state = scene(start, [(6, 18), PARKED, (20, 36)], [NORTH] * 3)
    state = state.replace(avatars=state.avatars.replace(frozen=jnp.int8([9, 0, 0])))
    state, _ = step(ENV, state, [TURN_LEFT, NOOP, NOOP])
    assert of(state, "owner", (5, 18)) == [0] and int(state.avatars.heading[0]) == NORTH


# --- views -------------------------------------------------------------------------------------------


def test_views_tell_mine_from_others(start):
    walls = {
        "owner": {(5, 17): 0, (5, 18): 0, (5, 19): 1, (5, 20): 1},
        "age": {(5, 17): 3, (5, 18): 30, (5, 19): 3, (5, 20): 30},
        "health": {(5, 18): 1, (7, 14): 0},
    }
    state = scene(start, [(7, 18), (7, 17), (20, 36)], [NORTH] * 3, **walls)
    views, names = np.asarray(ENV.views(state)), list(ENV.channels)
    assert views.shape[-1] == len(names) and set(CHANNELS) < set(names)

    def seen(agent, name, row, col):
        """Is it there, at a map cell as seen by an agent that looks north?"""
        own_row, own_col = int(state.avatars.row[agent]), int(state.avatars.col[agent])
        return bool(views[agent, 9 + row - own_row, 5 + col - own_col, names.index(name)])

    for col, one, two in ((17, "mine_wet", "others_wet"), (18, "mine_dry", "others_dry"), (19, "others_wet", "mine_wet"), (20, "others_dry", "mine_dry")):  # fmt: skip
        for name in CHANNELS[:5]:
            assert seen(0, name, 5, col) == (name == one) and seen(1, name, 5, col) == (name == two)
    assert seen(0, "damaged", 5, 18) and not seen(0, "damaged", 5, 17)
    assert seen(0, "destroyed", 7, 14) and not seen(0, "unclaimed", 7, 14) and seen(0, "unclaimed", 7, 15)
    assert not seen(0, "wall", 5, 17)


def test_picture_shows_owners(start):
    picture = ENV.render(scene(start, [(7, 18), PARKED, (20, 36)], [NORTH] * 3, owner={(5, 17): 0, (5, 18): 1}))
    assert picture.shape == (23 * CELL, 39 * CELL, 3)
    colours = {tuple(picture[CELL * 6 + 4, CELL * (col + 1) + 4]) for col in (17, 18, 19, 21)}
    assert len(colours) == 4


# --- policies and contract -----------------------------------------------------------------------------


def test_every_wall_can_be_claimed():
    known, (resource, _, spawn) = scripted.ways("open"), layout("open")
    reached = (known.away[np.flatnonzero(spawn)] < 1000).any(axis=0)
    # The wall at (0, 5) has other walls on all sides: only the beam gets at it, from (0, 7) through (0, 6).
    assert np.argwhere(resource)[~reached].tolist() == [[0, 5]]
    assert known.away[7, site(0, 6)] == 0 and known.face[7, site(0, 6)] == WEST
    assert known.behind[7, site(0, 6)] == site(0, 5)
    rooms, (_, _, spawn) = scripted.ways("rooms"), layout("rooms")
    away = rooms.away[np.flatnonzero(spawn)] < 1000
    # Each room reaches its own 20 walls, and behind each of them lies a wall of the next room.
    assert (away.sum(axis=1) == 20).all() and (away.sum(axis=0) == 1).all()
    assert (rooms.behind[np.flatnonzero(spawn)][away] < 180).all()


def test_cooperators_hold_every_wall_in_the_end(start):
    """Three cooperators claim all 88 walls, and seldom one of another."""
    cooperate = ENV.scripted_policies()["cooperate"]

    @jax.jit
    def play(state):
        def one(state, count):
            state, timestep = ENV.step(state, cooperate(state, None, jax.random.fold_in(KEY, count)))
            return state, timestep.extras["metrics"]["defections"]

        return jax.lax.scan(one, state, jnp.arange(400))

    state, taken = play(start)
    assert (state.resources.owner >= 0).all()
    # Walking past a wall claims it, so a few change hands without intent.
    assert taken.sum() < 30


def test_cooperators_claim_nothing_of_others(start):
    cooperate, defect = ENV.scripted_policies()["cooperate"], ENV.scripted_policies()["defect"]
    walls = {"owner": {(row, col): 1 for row, col in np.argwhere(layout("open")[0])}}
    state = scene(start, [(6, 18), PARKED, (20, 36)], [EAST] * 3, **walls)
    assert cooperate(state, None, KEY).tolist() == [NOOP] * 3
    assert defect(state, None, KEY)[0] == TURN_LEFT
    # A wall that nobody holds comes before a nearer one of another.
    walls["owner"][5, 17] = -1
    free = scene(start, [(6, 18), PARKED, (20, 36)], [EAST] * 3, **walls)
    assert defect(free, None, KEY)[0] == BACKWARD
    beside = scene(start, [(19, 10), (19, 12), (20, 36)], [EAST, EAST, NORTH], **walls)
    assert defect(beside, None, KEY)[0] == ZAP


def test_the_world_conforms():
    assert marl_bench.check_environment(marl_bench.make("territory_rooms", horizon=20), num_steps=20) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"players": 19}, "players=19: there are 18 spawn cells"),
        ({"layout": "rooms", "players": 10}, "players=10: there are 9 spawn cells"),
        ({"layout": "roms"}, "layout='roms'.*rooms"),
        ({"rewards": "mean"}, "rewards='mean'"),
        ({"pay_rate": 1.5}, "pay_rate=1.5"),
        ({"freeze_steps": 0}, "freeze_steps=0"),
    ],
)
def test_impossible_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Territory(**fields)


def test_nobody_starts_inside_a_resource_wall():
    env = marl_bench.make("territory", spawns="anywhere")
    assert len(env.spawn_cells) > 500 and not np.isin(env.spawn_cells, env.sites).any()
