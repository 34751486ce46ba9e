"""Commons harvest: maps, drawn moments of every rule, regrowth law, conservation, symmetry, conformance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import marl_bench
from marl_bench.envs.commons_harvest import rules
from marl_bench.envs.commons_harvest.commons_harvest import CommonsHarvest
from marl_bench.envs.grid import avatars as av
from marl_bench.scripted import random_policy, scripted_policy

KEY = jax.random.key(0)
NOOP, FORWARD, ZAP = 0, 1, 7
NORTH, EAST, SOUTH, WEST = range(4)
STILL = CommonsHarvest(players=3, regrowth_one=0.0, regrowth_two=0.0, regrowth_three=0.0)


@pytest.fixture(scope="module")
def step():
    return jax.jit(lambda env, state, actions: env.step(state, actions))


@pytest.fixture(scope="module")
def start():
    return jax.jit(lambda env, key: env.reset(key))(STILL, KEY)


def apples_at(cells):
    return np.isin(rules.SITES, [row * rules.WIDTH + col for row, col in cells])


def place(state, cells, headings, apples=None):
    small = functools.partial(jnp.asarray, dtype=jnp.int8)
    avatars = state.avatars.replace(
        row=small([c[0] for c in cells]), col=small([c[1] for c in cells]), heading=small(headings)
    )
    kept = state.resources if apples is None else jnp.asarray(apples_at(apples))
    return state.replace(avatars=avatars, resources=kept)


FAR = [(15, 0), (15, 21)]


def test_counts_of_the_maps():
    walls = {layout: int(rules.make_map(layout).wall.sum()) for layout in rules.LAYOUTS}
    assert len(rules.SITES) == 64 and walls == {"open": 0, "closed": 68, "partnership": 54}
    for layout in rules.LAYOUTS:
        place = rules.make_map(layout)
        assert len(place.spawns) == 60 and place.starts.tolist() == [6 * 22 + 6, 6 * 22 + 15]
        assert not place.wall.reshape(-1)[rules.SITES].any()
    wall = rules.make_map("closed").wall
    assert not wall[10, [9, 12]].any() and wall[10].sum() == 20 and wall[6, 10] and wall[3, 11]
    wall = rules.make_map("partnership").wall
    assert not wall[:6, 10:12].any() and wall[6, 10:12].all() and not wall[7, 10:12].any()


def test_neighbours_are_those_within_two_steps():
    centre = rules.SITES.tolist().index(2 * 22 + 7)
    around = {divmod(int(cell), 22) for cell in rules.SITES[rules.NEIGHBOURS[centre] > 0]}
    assert around == {(r, c) for r in range(5) for c in range(5, 10) if 0 < abs(r - 2) + abs(c - 7) <= 2}
    corner = rules.SITES.tolist().index(0)
    assert rules.NEIGHBOURS[corner].sum() == 5
    np.testing.assert_array_equal(rules.NEIGHBOURS, rules.NEIGHBOURS.T)


def test_reset(start):
    state, timestep = start
    assert (
        state.resources.all() and state.avatars.row.tolist()[:2] == [6, 6] and state.avatars.col.tolist()[:2] == [6, 15]
    )
    assert int(state.avatars.row[2]) >= 13
    assert timestep.observation.agents_view.shape == (3, 11, 11, 10) and STILL.num_actions == 8


# Apples left of the disc around (2, 7), and the number around its centre.
STANDS = {0: [], 1: [(2, 8)], 2: [(2, 8), (2, 6)], 3: [(2, 8), (2, 6), (1, 7)], 4: [(2, 8), (2, 6), (1, 7), (0, 7)]}


@pytest.mark.parametrize("layout", ["open", "closed"])
@pytest.mark.parametrize("count", STANDS)
def test_frequency_of_regrowth(start, layout, count):
    """The centre of a disc with k neighbours, 300,000 steps, within four standard errors of the table."""
    env = CommonsHarvest(players=3, layout=layout)
    apples = jnp.asarray(apples_at(STANDS[count]))
    centre = rules.SITES.tolist().index(2 * 22 + 7)
    one = {"open": 0.0025, "closed": 0.001}[layout]
    expected = [0.0, one, 0.005, 0.025, 0.025][count]

    def grown(word):
        words = jnp.full(64, 2**32 - 1, jnp.uint32).at[centre].set(word)
        return env.grow(FRAME.replace(resources=apples, words=words)).resources[centre]

    share = float(jnp.mean(jax.jit(jax.vmap(grown))(jax.random.bits(KEY, (300_000,))).astype(jnp.float32)))
    assert abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / 300_000)


def _frame():
    from marl_bench.envs.grid.world import Frame

    return Frame(None, None, None, None, {}, None, jnp.int32(1))


FRAME = _frame()


def test_a_patch_without_apples_is_lost(step, start):
    env = CommonsHarvest(players=3, regrowth_one=1.0, regrowth_two=1.0, regrowth_three=1.0)
    state = place(start[0], [(15, 9), *FAR], [NORTH] * 3, apples=[(2, 7)])
    for _ in range(3):
        state, _ = step(env, state, jnp.zeros(3, jnp.int32))
    expected = apples_at([(r, c) for r in range(5) for c in range(5, 10) if abs(r - 2) + abs(c - 7) <= 2])
    np.testing.assert_array_equal(state.resources, expected)


def test_regrowth_counts_before_the_meal(step, start):
    """The last apple of a patch is eaten in the step in which it still lets its neighbour grow."""
    env = CommonsHarvest(players=3, regrowth_one=1.0, regrowth_two=0.0, regrowth_three=0.0)
    state = place(start[0], [(2, 9), *FAR], [WEST, NORTH, NORTH], apples=[(2, 8)])
    after, timestep = step(env, state, jnp.asarray([FORWARD, NOOP, NOOP]))
    assert timestep.reward.tolist() == [1, 0, 0]
    near = [
        cell for cell in ((r, c) for r in range(5) for c in range(5, 10)) if abs(cell[0] - 2) + abs(cell[1] - 7) <= 2
    ]
    grown = [cell for cell in near if 0 < abs(cell[0] - 2) + abs(cell[1] - 8) <= 2]
    np.testing.assert_array_equal(after.resources, apples_at(grown))


@pytest.mark.parametrize(("around", "fair"), [([(1, 7), (3, 7)], 1), ([(1, 7)], 0), ([], 0)])
def test_eating_and_its_judgement(step, start, around, fair):
    state = place(start[0], [(2, 9), *FAR], [WEST, NORTH, NORTH], apples=[(2, 8), *around])
    after, timestep = step(STILL, state, jnp.asarray([FORWARD, NOOP, NOOP]))
    assert timestep.reward.tolist() == [1, 0, 0] and after.resources.sum() == len(around)
    assert (int(timestep.extras["cooperations"][0]), int(timestep.extras["defections"][0])) == (fair, 1 - fair)


@pytest.mark.parametrize(("layout", "reach", "wait", "out"), [("open", 3, 2, 4), ("closed", 4, 1, 100)])
def test_zaps_by_layout(step, start, layout, reach, wait, out):
    env = CommonsHarvest(players=3, layout=layout)
    for distance in (reach, reach + 1):
        state = place(start[0], [(15, 4), (15, 4 + distance), (13, 21)], [EAST, NORTH, NORTH])
        after, timestep = step(env, state, jnp.asarray([ZAP, NOOP, NOOP]))
        hit = distance == reach
        assert timestep.extras["hits"].tolist() == [0, hit, 0] and int(after.avatars.away[1]) == hit * out
    assert int(after.avatars.waits[0, 0]) == wait


def test_zapped_avatars_return_outside(start):
    """On a free spawn cell, uniformly: never inside, never on another avatar."""
    cells = [(6, 6), (6, 15), (14, 10)]
    state = place(start[0], cells, [NORTH] * 3)
    state = state.replace(avatars=state.avatars.replace(away=jnp.asarray([1, 0, 0], jnp.int16)))

    def back(key):
        avatars = STILL.step(state.replace(key=key), jnp.zeros(3, jnp.int32))[0].avatars
        return avatars.row[0].astype(jnp.int32) * 22 + avatars.col[0], avatars.alive[0]

    flat, alive = jax.jit(jax.vmap(back))(jax.random.split(KEY, 6000))
    assert alive.all()
    counts = np.bincount(np.asarray(flat), minlength=352)
    free = np.setdiff1d(rules.make_map("open").spawns, 14 * 22 + 10)
    assert counts[free].sum() == 6000
    expected = 6000 / 59
    assert ((counts[free] - expected) ** 2 / expected).sum() < 58 + 5 * np.sqrt(2 * 58)


def _turned(state):
    """The state of the open map, turned by 180 degrees; defined where resources do not matter."""
    avatars = state.avatars
    return state.replace(
        avatars=avatars.replace(row=15 - avatars.row, col=21 - avatars.col, heading=(avatars.heading + 2) & 3)
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_turning_the_board_turns_the_outcome(step, start, seed):
    """Without apples the open map looks the same from both sides: same views, and mirrored moves and hits."""
    rng = np.random.default_rng(seed)
    flat = rng.permutation(5 * 6)[:3]
    cells = [(5 + cell // 6, 8 + cell % 6) for cell in flat]
    state = place(start[0], cells, rng.integers(0, 4, 3), apples=[])
    actions = jnp.asarray(rng.integers(0, 8, 3))
    one, first = step(STILL, state, actions)
    two, second = step(STILL, _turned(state), actions)
    jax.tree.map(np.testing.assert_array_equal, _turned(one).avatars, two.avatars)
    np.testing.assert_array_equal(first.observation.agents_view, second.observation.agents_view)
    np.testing.assert_array_equal(first.extras["hits"], second.extras["hits"])


resolve = jax.jit(av.resolve, static_argnums=3)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(3)), st.integers(0, 2**31 - 1))
def test_agents_are_exchangeable(order, seed):
    """Permuting avatars, actions and priorities permutes the moves."""
    rng = np.random.default_rng(seed)
    order = np.asarray(order)
    flat = rng.permutation(9)[:3]
    here = ((flat // 3) * 22 + flat % 3).astype(np.int32)
    there = here + np.array([0, 1, 22], np.int32)[rng.integers(0, 3, 3)]
    words = rng.integers(0, 2**32, 3, dtype=np.uint32)
    for resolver in av.RESOLVERS:
        moved = resolve(here, there, words, resolver)
        np.testing.assert_array_equal(resolve(here[order], there[order], words[order], resolver), moved[order])


def play(env, policy, episodes, steps):
    """Apples eaten [E, T, N] and apples on the map [E, T] of random games."""

    def one(key):
        key_start, key_play = jax.random.split(key)
        state, timestep = env.reset(key_start)

        def advance(carry, count):
            state, observation = carry
            following, timestep = env.step(state, policy(state, observation, jax.random.fold_in(key_play, count)))
            flat = av.cells(following.avatars, env.terrain)
            kept = (state.resources, following.resources, timestep.reward, timestep.extras["apples"], flat)
            return (following, timestep.observation), kept

        return jax.lax.scan(advance, (state, timestep.observation), jnp.arange(steps))[1]

    return jax.device_get(jax.jit(jax.vmap(one))(jax.random.split(KEY, episodes)))


def test_every_apple_that_goes_was_eaten_by_one():
    env = CommonsHarvest(layout="partnership")
    before, after, reward, apples, flat = play(env, random_policy(env), 16, 200)
    np.testing.assert_array_equal(reward, apples)
    gone = (before & ~after).sum(axis=-1)
    assert (gone <= apples.sum(axis=-1)).all() and gone.sum() > 50
    flat = np.sort(flat, axis=-1)
    assert (flat[..., 1:] != flat[..., :-1]).all() and not env.terrain.wall.reshape(-1)[flat[flat >= 0]].any()


def test_restraint_pays_the_group():
    env = CommonsHarvest()
    policies = [scripted_policy(env, name) for name in ("cooperate", "defect")]

    def returns(key, defects):
        state, timestep = env.reset(key)

        def advance(carry, count):
            state, observation = carry
            one, other = (policy(state, observation, jax.random.fold_in(key, count)) for policy in policies)
            following, timestep = env.step(state, jnp.where(defects, other, one))
            return (following, timestep.observation), timestep.reward.sum()

        return jax.lax.scan(advance, (state, timestep.observation), jnp.arange(600))[1].sum()

    keys, defects = jax.random.split(KEY, 4), jnp.asarray([False, True])
    cooperation, defection = jax.jit(jax.vmap(jax.vmap(returns, (0, None)), (None, 0)))(keys, defects)
    assert cooperation.min() > 1.5 * defection.max()


def test_differently_parametrised_worlds_in_one_program(start):
    state = place(start[0], [(15, 9), *FAR], [NORTH] * 3, apples=[(2, 7)])

    def apples(chance):
        env = CommonsHarvest(players=3, regrowth_one=chance)
        return env.step(state, jnp.zeros(3, jnp.int32))[0].resources.sum()

    assert jax.jit(jax.vmap(apples))(jnp.asarray([0.0, 1.0])).tolist() == [1, 13]


def test_pictures_and_presets(start):
    assert STILL.render(start[0]).shape == (16 * 18, 16 * 24, 3)
    closed = marl_bench.make("commons_harvest_closed_mp")
    assert (closed.layout, closed.end, closed.end_chance) == ("closed", "mp", 0.15)
    assert marl_bench.make("commons_harvest_socialjax_like").regrowth_one == 0.001


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layout": "opened"}, "did you mean 'open'"),
        ({"players": 61}, "there are 60 spawn cells"),
        ({"regrowth_two": -0.1}, "regrowth_two=-0.1"),
        ({"zap_length": 10}, "zap_length=10"),
    ],
)
def test_bad_input(fields, message):
    with pytest.raises(ValueError, match=message):
        CommonsHarvest(**fields)


def test_conformance():
    env = CommonsHarvest(players=3, horizon=300, end="mp", layout="closed", end_chance=0.3)
    assert marl_bench.check_environment(env) == []
