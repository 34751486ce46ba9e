"""Cleanup: the map, drawn moments of every rule, growth and pollution laws, conservation, conformance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import marl_bench
from marl_bench.envs.cleanup import rules, scripted
from marl_bench.envs.cleanup.cleanup import Cleanup, River
from marl_bench.scripted import random_policy, scripted_policy

KEY = jax.random.key(0)
NOOP, FORWARD, ZAP, CLEAN = 0, 1, 7, 8
NORTH, EAST, SOUTH, WEST = range(4)

ENV = Cleanup(players=3, pollution=0.0, growth_rate=0.0)
"""A still river."""


@pytest.fixture(scope="module")
def step():
    return jax.jit(lambda env, state, actions: env.step(state, actions))


@pytest.fixture(scope="module")
def start():
    return jax.jit(lambda env, key: env.reset(key))(ENV, KEY)


def place(state, cells, headings, dirt=None, apples=None, count=0):
    """State with avatars at `cells`, and dirt and apples at flat sets of cells (None: leave them)."""
    small = functools.partial(jnp.asarray, dtype=jnp.int8)
    avatars = state.avatars.replace(
        row=small([c[0] for c in cells]), col=small([c[1] for c in cells]), heading=small(headings)
    )
    river = state.resources

    def at(sites, cells, old):
        return old if cells is None else jnp.asarray(np.isin(sites, [r * rules.WIDTH + c for r, c in cells]))

    river = River(at(rules.APPLE_SITES, apples, river.apples), at(rules.DIRT_SITES, dirt, river.dirt))
    return state.replace(avatars=avatars, resources=river, step_count=jnp.int32(count))


def dirt_of(state):
    return {divmod(int(cell), rules.WIDTH) for cell in rules.DIRT_SITES[np.asarray(state.resources.dirt)]}


FAR = [(18, 0), (18, 27)]
"""Where avatars stand that do not matter."""


def test_counts_of_the_map():
    place = rules.make_map()
    assert (len(rules.DIRT_SITES), len(rules.APPLE_SITES), rules.DIRTY_AT_START.sum()) == (147, 122, 79)
    assert rules.RIVER_MASK.sum() == 140 + 8 + 3 + 16 and len(place.spawns) == 19 and place.wall.sum() == 0
    assert not np.isin(rules.DIRT_SITES, rules.APPLE_SITES).any()
    assert rules.RIVER_MASK.reshape(-1)[rules.DIRT_SITES].all()


def test_reset(start):
    state, timestep = start
    assert state.resources.dirt.sum() == 79 and not state.resources.apples.any()
    assert timestep.observation.agents_view.shape == (3, 11, 11, 14) and ENV.num_actions == 9


def test_growth_law():
    """Probability 0.05 at phi = 0, 0.025 at 0.2, 0 from 0.4 on, and none with the start's 79 dirty sites."""
    for dirty, expected in ((0, 0.05), (58, 0.05 * (0.4 - 58 / 147) / 0.4), (59, 0.0), (79, 0.0), (147, 0.0)):
        dirt = jnp.arange(147) < dirty
        np.testing.assert_allclose(rules.growth(dirt, 0.05, 0.4, 0.0), expected, atol=1e-7)
    np.testing.assert_allclose(rules.growth(jnp.arange(147) < 29, 0.05, 0.4, 0.1), 0.05 * (0.4 - 29 / 147) / 0.3)


@pytest.mark.parametrize("dirty", [0, 29])
def test_frequency_of_growth(start, dirty):
    """10^6 site-steps (8,192 steps of 122 sites), within four standard errors."""
    env = Cleanup(players=3, pollution=0.0)
    state = start[0].replace(resources=River(jnp.zeros(122, bool), jnp.arange(147) < dirty))

    def grown(count):
        return env.step(state.replace(step_count=count), jnp.zeros(3, jnp.int32))[0].resources.apples

    share = float(jnp.mean(jax.jit(jax.vmap(grown))(jnp.arange(8192)).astype(jnp.float32)))
    expected = 0.05 * (1 - dirty / 147 / 0.4)
    assert abs(share - expected) < 4 * np.sqrt(expected / 8192 / 122)


def test_pollution_starts_after_the_delay_and_takes_a_uniform_clean_site(start):
    env = Cleanup(players=3)
    before = start[0].resources.dirt

    def polluted(count, key):
        state = start[0].replace(step_count=count, key=key)
        return env.step(state, jnp.zeros(3, jnp.int32))[0].resources.dirt & ~before

    run = jax.jit(jax.vmap(polluted, (None, 0)))
    keys = jax.random.split(KEY, 6000)
    assert not run(jnp.int32(49), keys).any()  # step 50
    new = np.asarray(run(jnp.int32(50), keys))
    assert set(new.sum(axis=1)) == {0, 1}
    assert abs(new.any(axis=1).mean() - 0.5) < 4 * np.sqrt(0.25 / 6000)
    counts = new.sum(axis=0)[~np.asarray(before)]
    expected = new.sum() / 68
    assert ((counts - expected) ** 2 / expected).sum() < 67 + 5 * np.sqrt(2 * 67)


def test_eating(step, start):
    state = place(start[0], [(16, 4), *FAR], [EAST] * 3, apples=[(16, 5), (17, 5)])
    after, timestep = step(ENV, state, jnp.asarray([FORWARD, NOOP, NOOP]))
    assert timestep.reward.tolist() == [1, 0, 0] and timestep.extras["apples"].tolist() == [1, 0, 0]
    assert after.resources.apples.sum() == 1 and timestep.extras["metrics"]["ripe"] == 1
    _, timestep = step(ENV, after, jnp.asarray([NOOP, NOOP, NOOP]))
    assert timestep.reward.tolist() == [0, 0, 0]


def test_apples_under_agents(start):
    state = place(start[0], [(16, 4), *FAR], [EAST] * 3, dirt=[], apples=[])
    for under, paid in ((True, 1), (False, 0)):
        env = Cleanup(players=3, growth_rate=1.0, pollution=0.0, regrow_under_agent=under)
        after, timestep = jax.jit(env.step)(state, jnp.zeros(3, jnp.int32))
        assert timestep.reward.tolist() == [paid] * 3 and after.resources.apples.sum() == 119


# dirt, heading, what is left
SHOTS = {
    "three at once": ([(3, 4), (3, 5), (3, 6)], NORTH, []),
    "only the first of each column": ([(4, 4), (3, 4), (3, 5), (2, 5), (1, 5)], NORTH, [(3, 4), (2, 5), (1, 5)]),
    "out of reach": ([(0, 5), (1, 4), (5, 16)], NORTH, [(0, 5), (1, 4), (5, 16)]),
    "beside the shooter": ([(4, 4), (4, 6)], NORTH, []),
    "to the east": ([(3, 5), (4, 7), (4, 8), (3, 7)], EAST, [(4, 8), (3, 7)]),
}


@pytest.mark.parametrize(("dirt", "heading", "left"), SHOTS.values(), ids=SHOTS)
def test_cleaning(step, start, dirt, heading, left):
    state = place(start[0], [(4, 5), *FAR], [heading, NORTH, NORTH], dirt=dirt)
    after, timestep = step(ENV, state, jnp.asarray([CLEAN, NOOP, NOOP]))
    assert dirt_of(after) == set(left)
    assert timestep.extras["cleaned"].tolist() == [len(dirt) - len(left), 0, 0]
    assert timestep.reward.tolist() == [0, 0, 0] and not timestep.extras["shots"].any()
    assert int(after.avatars.waits[0, 1]) == 2


def test_the_cleaning_beam_passes_avatars_and_a_shared_cell_counts_twice(step, start):
    state = place(start[0], [(4, 5), (3, 5), (2, 6)], [NORTH, NORTH, WEST], dirt=[(2, 5)])
    after, timestep = step(
        Cleanup(players=3, pollution=0.0, clean_reward=0.5), state, jnp.asarray([CLEAN, NOOP, CLEAN])
    )
    assert dirt_of(after) == set() and timestep.extras["cleaned"].tolist() == [1, 0, 1]
    assert timestep.reward.tolist() == [0.5, 0, 0.5] and after.avatars.alive.all()


def test_zapping(step, start):
    state = place(start[0], [(9, 9), (7, 9), (6, 9)], [NORTH] * 3)
    after, timestep = step(ENV, state, jnp.asarray([ZAP, NOOP, NOOP]))
    assert timestep.extras["hits"].tolist() == [0, 1, 0] and timestep.reward.tolist() == [0, 0, 0]
    assert after.avatars.away.tolist() == [0, 50, 0] and int(after.avatars.waits[0, 0]) == 10


def test_roles_pay_by_agent(start):
    env = Cleanup(players=3, pollution=0.0, apple_reward=np.float32([1, 2, 3]), clean_reward=np.float32([3, 2, 1]))
    state = place(start[0], [(4, 5), (16, 4), (16, 9)], [NORTH, EAST, EAST], dirt=[(3, 5)], apples=[(16, 5), (16, 10)])
    _, timestep = jax.jit(env.step)(state, jnp.asarray([CLEAN, FORWARD, FORWARD]))
    assert timestep.reward.tolist() == [3, 2, 3]


@pytest.fixture(scope="module")
def episode():
    """States and extras of 32 games of 200 random steps of seven agents."""
    env = Cleanup(horizon=200, depletion=1.0)
    policy = random_policy(env)

    @jax.jit
    @jax.vmap
    def play(key):
        key_start, key_play = jax.random.split(key)
        state, timestep = env.reset(key_start)

        def advance(carry, count):
            state, observation = carry
            following, timestep = env.step(state, policy(state, observation, jax.random.fold_in(key_play, count)))
            kept = (
                state.replace(key=0),
                following.replace(key=0),
                timestep.reward,
                timestep.extras,
                timestep.step_type,
            )
            return (following, timestep.observation), kept

        return jax.lax.scan(advance, (state, timestep.observation), jnp.arange(200))[1]

    return play(jax.random.split(KEY, 32))


def test_nothing_appears_or_vanishes_unaccounted(episode):
    before, after, reward, extras, step_type = episode
    np.testing.assert_array_equal(reward, extras["apples"])
    gone = np.asarray(before.resources.apples & ~after.resources.apples).sum(axis=-1)
    eaten = np.asarray(extras["apples"]).sum(axis=-1)
    assert (gone <= eaten).all() and eaten.sum() > 100  # an apple may also grow and be eaten in one step
    cleaned = np.asarray(before.resources.dirt & ~after.resources.dirt).sum(axis=-1)
    counted = np.asarray(extras["cleaned"]).sum(axis=-1)
    assert (cleaned <= counted).all() and cleaned.sum() > 100
    assert (np.asarray(after.resources.dirt & ~before.resources.dirt).sum(axis=-1) <= 1).all()
    assert (np.asarray(step_type)[:, :-1] == 1).all() and (np.asarray(step_type)[:, -1] == 2).all()


def test_live_avatars_never_share_a_cell(episode):
    avatars = episode[1].avatars
    flat = np.where(avatars.away == 0, avatars.row.astype(int) * 28 + avatars.col, -1 - np.arange(7))
    flat = np.sort(flat, axis=-1)
    assert (flat[..., 1:] != flat[..., :-1]).all() and (np.asarray(avatars.away) > 0).any()


def test_prospects_of_the_cleaning_beam(start):
    """Columns that end at dirt after noop, forward, backward, left, right, turn left, turn right, counted by hand."""
    dirt = [(4, 10), (3, 10), (3, 9)]
    state = place(start[0], [(5, 10), (18, 0), (18, 27)], [NORTH] * 3, dirt=dirt)
    found = jax.jit(lambda state: scripted.prospects(ENV, state))(state)
    assert found[:, 0].tolist() == [2, 2, 1, 2, 1, 1, 1]
    assert found[:, 1].tolist() == [0, 0, -1, -1, 0, 0, 0]  # the map ends behind and to the left
    beside = place(start[0], [(5, 10), (5, 11), (18, 27)], [NORTH] * 3, dirt=dirt)
    assert scripted.prospects(ENV, beside)[:, 0].tolist() == [2, 2, 1, 2, -1, 1, 1]


def test_who_has_least_far_to_dirt_cleans_and_the_others_eat(start):
    """10 of 147 sites are dirty: above the limit of the nearest agent, 0.05, and below that of the next, 0.08."""
    cooperate = jax.jit(ENV.scripted_policies()["cooperate"])
    dirt = [(4, col) for col in range(10)]
    cells, headings = [(5, 4), (16, 4), (16, 20)], [NORTH, EAST, WEST]
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        at, facing = [cells[agent] for agent in order], [headings[agent] for agent in order]
        state = place(start[0], at, facing, dirt=dirt, apples=[(16, 5), (16, 19)])
        assert cooperate(state, None, KEY).tolist() == [(CLEAN, FORWARD, FORWARD)[agent] for agent in order]
    busy = state.replace(avatars=state.avatars.replace(waits=jnp.full((3, 2), 2, jnp.int8)))
    assert cooperate(busy, None, KEY)[order.index(0)] == NOOP  # three cells are in the beam; there is no better place


def test_a_policy_that_cleans_beats_one_that_only_eats():
    env = Cleanup(horizon=400)
    policies = [scripted_policy(env, name) for name in ("cooperate", "defect")]

    def returns(key, defects):
        state, timestep = env.reset(key)

        def advance(carry, count):
            state, observation = carry
            one, other = (policy(state, observation, jax.random.fold_in(key, count)) for policy in policies)
            state, timestep = env.step(state, jnp.where(defects, other, one))
            return (state, timestep.observation), timestep.reward.sum()

        return jax.lax.scan(advance, (state, timestep.observation), jnp.arange(400))[1].sum()

    keys, defects = jax.random.split(KEY, 4), jnp.asarray([False, True])
    cooperation, defection = jax.jit(jax.vmap(jax.vmap(returns, (0, None)), (None, 0)))(keys, defects)
    assert (defection == 0).all() and cooperation.min() > 100


def test_differently_parametrised_worlds_in_one_program(start):
    rates = jnp.asarray([0.0, 1.0])
    state = start[0].replace(resources=River(jnp.zeros(122, bool), jnp.zeros(147, bool)))

    def apples(rate):
        return (
            Cleanup(players=3, growth_rate=rate, pollution=0.0).step(state, jnp.zeros(3, jnp.int32))[0].resources.apples
        )

    assert jax.jit(jax.vmap(apples))(rates).sum(axis=1).tolist() == [0, 122]


def test_picture_and_presets(start):
    assert ENV.render(start[0]).shape == (16 * 21, 16 * 30, 3)
    assert marl_bench.make("cleanup_mp").end == "mp" and marl_bench.make("cleanup_socialjax_like").horizon == 1000


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"players": 20}, "there are 19 spawn cells"),
        ({"depletion": 0.2, "restoration": 0.3}, "depletion=0.2: must be above restoration"),
        ({"growth_rate": 2.0}, "growth_rate=2.0"),
        ({"zap_cooldown": 128}, "zap_cooldown=128"),
        ({"zap_out": -1}, "zap_out=-1"),
    ],
)
def test_bad_input(fields, message):
    with pytest.raises(ValueError, match=message):
        Cleanup(**fields)


def test_conformance():
    assert marl_bench.check_environment(Cleanup(players=3, horizon=20)) == []
