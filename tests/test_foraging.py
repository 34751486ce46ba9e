"""Foraging: start states, invariants, names, bad input, policies, picture, conformance."""

from __future__ import annotations

import dataclasses
import itertools

import foraging_harness as harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import marl_bench
from marl_bench.envs.batch_last import batch_last
from marl_bench.envs.foraging import generation, names, rules, scripted
from marl_bench.envs.foraging.foraging import Foraging
from marl_bench.envs.foraging.viewer import CELL, FOOD
from marl_bench.scripted import scripted_policy

WORLD = {"size": 6, "agents": 4, "food": 3, "penalty": 0.1, "sight": 2}


def starts(env, count, seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    return jax.device_get(jax.jit(jax.vmap(lambda key: env.reset(key)[0]))(keys))


@pytest.fixture(scope="module")
def step():
    return jax.jit(jax.vmap(Foraging(**WORLD).step))


@pytest.fixture(scope="module")
def states():
    """256 start states of `WORLD`, from the harness (crowds among them)."""
    rng, env = np.random.default_rng(5), Foraging(**WORLD)
    made = [harness.start(rng, env) for _ in range(256)]
    return {name: np.stack([state[name] for state in made]) for name in harness.STATE}


# --- start states ------------------------------------------------------------------------------------------


def food_law(rows, cols, foods):
    """Exact probabilities of {frozenset of food cells} and one agent's cell, by enumeration."""
    inner = [(r, c) for r in range(1, rows - 1) for c in range(1, cols - 1)]
    law: dict[tuple, float] = {}

    def place(placed, chance, agent):
        free = [
            cell for cell in inner if cell != agent and all(abs(cell[0] - r) + abs(cell[1] - c) > 2 for r, c in placed)
        ]
        if len(placed) == foods or not free:
            outcome = (agent, frozenset(placed))
            law[outcome] = law.get(outcome, 0.0) + chance
            return
        for cell in free:
            place([*placed, cell], chance / len(free), agent)

    for agent in itertools.product(range(rows), range(cols)):
        place([], 1 / (rows * cols), agent)
    return law


def test_places_have_the_exact_law():
    """50,000 starts on 5 x 5 with one agent and four foods asked for, against an enumeration of the spawner (chi-squared)."""
    state, law = starts(Foraging(size=5, agents=1, food=4, max_player_level=1), 50_000), food_law(5, 5, 4)
    assert sum(law.values()) == pytest.approx(1)
    counts = dict.fromkeys(law, 0)
    food = np.where(state.food_level > 0, state.food_row.astype(int) * 5 + state.food_col, -1)
    cells = np.concatenate([state.row.astype(int) * 5 + state.col, food], axis=1)
    for line, count in zip(*np.unique(cells, axis=0, return_counts=True), strict=True):
        counts[divmod(int(line[0]), 5), frozenset(divmod(int(x), 5) for x in line[1:] if x >= 0)] += int(count)
    assert stats.chisquare(list(counts.values()), [50_000 * p for p in law.values()]).pvalue > 1e-4
    absent = state.food_level == 0
    assert (state.food_row[absent] == -1).all() and (np.diff(absent.astype(int), axis=1) >= 0).all()


def test_number_of_foods_on_small_boards_equals_the_reference():
    from lbforaging.foraging.environment import ForagingEnv

    state = starts(Foraging(size=6, agents=2, food=4), 20_000)
    ours = np.bincount((state.food_level > 0).sum(axis=1), minlength=5)
    fresh = []
    for seed in range(300):
        env = ForagingEnv(2, 1, 2, 1, None, (6, 6), 4, 6, 50, False)
        env.reset(seed=seed)
        fresh.append(int((env.field > 0).sum()))
    table = np.stack([ours, np.bincount(fresh, minlength=5)])
    assert stats.chi2_contingency(table[:, table.sum(axis=0) > 0]).pvalue > 1e-4


def test_levels_have_the_stated_law():
    state = starts(Foraging(size=10, agents=4, food=2), 20_000)
    ordered = np.sort(state.level, axis=1)
    top = ordered[:, :3].sum(axis=1)
    assert stats.chisquare(np.bincount(state.level.ravel(), minlength=3)[1:]).pvalue > 1e-4
    for three in range(3, 7):
        seen = state.food_level[top == three].ravel()
        assert stats.chisquare(np.bincount(seen, minlength=three + 1)[1:]).pvalue > 1e-4
    coop = starts(Foraging(size=10, agents=4, food=2, force_coop=True), 500)
    assert (coop.food_level == np.sort(coop.level, axis=1)[:, :3].sum(axis=1, keepdims=True)).all()


def test_listed_levels_are_dealt_in_random_order():
    bits = jax.random.bits(jax.random.key(0), (6000, 2, 3))
    dealt = jax.vmap(lambda words: generation.draw_levels(words, (1, 4, 7), (1, 4, 8)))(bits)
    lines, counts = np.unique(np.where(np.asarray(dealt) == 8, 7, dealt), axis=0, return_counts=True)
    assert len(lines) == 6 and stats.chisquare(counts).pvalue > 1e-4
    assert 0.4 < np.mean(np.max(dealt, axis=1) == 8) < 0.6


# --- invariants --------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_invariants_of_a_step(step, states, seed):
    """Inside the board, never on food, levels paid for, NONE always legal, at most 1 paid in sum."""
    rng = np.random.default_rng(seed)
    actions = rng.integers(-2, 9, (256, 4))
    before = harness.as_state(states)
    after, timestep = jax.device_get(step(before, jnp.asarray(actions, jnp.int32)))
    assert (after.row >= 0).all() and (after.row < 6).all() and (after.col >= 0).all() and (after.col < 6).all()
    on_food = (after.row[:, :, None] == after.food_row[:, None]) & (after.col[:, :, None] == after.food_col[:, None])
    assert not (on_food & (after.food_level > 0)[:, None]).any()
    assert timestep.observation.action_mask[:, :, 0].all()
    taken = states["food_level"].sum(axis=1) - after.food_level.sum(axis=1)
    gained = np.where(timestep.reward > 0, timestep.reward, 0).sum(axis=1)
    np.testing.assert_allclose(gained * np.maximum(states["food_total"], 1), taken, atol=1e-5)
    clipped, same = jax.device_get(step(before, jnp.asarray(np.clip(actions, 0, 5), jnp.int32)))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, (clipped, same), (after, timestep))))


@pytest.mark.parametrize("turn", ["swap agents", "reflect", "transpose"])
def test_steps_commute_with_symmetries(step, states, turn):
    """Of agents, and of the board (dynamics and rewards; not lists of food, whose order follows rows)."""
    rng = np.random.default_rng(7)
    actions, order = rng.integers(0, 6, (256, 4)), np.array([2, 0, 3, 1])

    def turned(record):
        record = dict(record)
        if turn == "swap agents":
            return record | {name: record[name][:, order] for name in ("row", "col", "level") if name in record}
        if turn == "transpose":
            names_ = (("row", "col"), ("food_row", "food_col"))
            return record | {a: record[b] for x in names_ for a, b in (x, x[::-1]) if a in record}
        return record | {name: 5 - record[name] for name in ("row", "food_row") if name in record}

    moves = {"swap agents": range(6), "reflect": (0, 2, 1, 3, 4, 5), "transpose": (0, 3, 4, 1, 2, 5)}[turn]
    other = np.array(moves)[actions[:, order] if turn == "swap agents" else actions]
    plain, first = jax.device_get(step(harness.as_state(states), jnp.asarray(actions, jnp.int32)))
    moved, second = jax.device_get(step(harness.as_state(turned(states)), jnp.asarray(other, jnp.int32)))
    expected = turned({"row": plain.row, "col": plain.col})
    np.testing.assert_array_equal(moved.row, expected["row"])
    np.testing.assert_array_equal(moved.col, expected["col"])
    np.testing.assert_array_equal(moved.food_level, plain.food_level)
    reward = first.reward[:, order] if turn == "swap agents" else first.reward
    np.testing.assert_allclose(second.reward, reward, atol=1e-6)


def test_team_reward_is_shared(states):
    actions = jnp.full((256, 4), rules.LOAD)
    alone, total, mean = (
        jax.jit(jax.vmap(Foraging(**WORLD, team_reward=kind).step))(harness.as_state(states), actions)[1].reward
        for kind in ("none", "sum", "mean")
    )
    np.testing.assert_allclose(total, np.sum(alone, axis=1, keepdims=True) + np.zeros((1, 4)), atol=1e-6)
    np.testing.assert_allclose(mean, np.mean(alone, axis=1, keepdims=True) + np.zeros((1, 4)), atol=1e-6)
    assert np.any(alone != 0)


# --- episodes ----------------------------------------------------------------------------------------------


def episodes(env, policy, count, seed=0):
    """[count, steps] rewards of all agents together, up to the end of each episode, and the last metrics."""

    def play(key):
        key, first = jax.random.split(key)
        state, timestep = env.reset(first)

        def body(carry, key):
            state, timestep, alive, metrics = carry
            state, following = env.step(state, policy(state, timestep.observation, key))
            metrics = jax.tree.map(lambda a, b: jnp.where(alive, a, b), following.extras["metrics"], metrics)
            return (state, following, alive & ~following.last(), metrics), alive * following.reward.sum()

        carry = state, timestep, jnp.bool_(True), timestep.extras["metrics"]
        carry, reward = jax.lax.scan(body, carry, jax.random.split(key, env.horizon))
        return reward, carry[3]

    return jax.device_get(jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(seed), count)))


def test_coordinated_play_clears_the_board_and_pays_one():
    env = marl_bench.make("Foraging-8x8-2p-2f-coop-v3")
    reward, metrics = episodes(env, scripted_policy(env), 100)
    np.testing.assert_allclose(reward.sum(axis=1), metrics["level_collected"], atol=1e-5)
    assert reward.sum(axis=1).mean() > 0.98 and (metrics["foods_eaten"] == 1).mean() > 0.97


@pytest.mark.parametrize(("name", "published"), [("h1", 0.17), ("h2", 0.38)])
def test_heuristics_score_as_on_the_reference(name, published):
    """Returns of lbforaging's own heuristics over 300 seeds (spec, section 11), standard error 0.02."""
    env = Foraging(size=8, agents=2, food=2, force_coop=True)
    reward, _ = episodes(env, scripted_policy(env, name), 600)
    error = reward.sum(axis=1).std() / 600**0.5
    assert abs(reward.sum(axis=1).mean() - published) < 4 * (error**2 + 0.02**2) ** 0.5


def test_teams_are_strong_enough_and_disjoint():
    small = [jnp.asarray(x, jnp.int32) for x in ([0, 0, 7, 7], [0, 2, 7, 5], [1, 1, 2, 1], [2, 5], [2, 5], [2, 3])]
    assert scripted._teams(*small).tolist() == [0, 0, 1, 1]
    alone = [jnp.asarray(x, jnp.int32) for x in ([0], [0], [1], [2], [2], [3])]
    assert scripted._teams(*alone).tolist() == [-1]


# --- names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Foraging-8x8-2p-2f-coop-v3", {"size": 8, "agents": 2, "food": 2, "force_coop": True}),
        ("Foraging-2s-10x10-3p-3f-v3", {"size": 10, "agents": 3, "food": 3, "sight": 2}),
        ("15x15-4p-5f", {"size": 15, "agents": 4, "food": 5}),
        ("Foraging-grid-5s-12x12-2p-1f-v3", {"size": 12, "agents": 2, "food": 1, "sight": 5, "grid_observation": True}),
        ("Foraging-8x8-2p-2f-coop-ind-pen-v3",
         {"size": 8, "agents": 2, "food": 2, "force_coop": True, "max_food_level": 1, "penalty": 0.1}),
        ("Foraging-6x9-coop-1f-2p-v3", {"size": 6, "columns": 9, "agents": 2, "food": 1, "force_coop": True}),
    ],
)  # fmt: skip
def test_names_are_read(name, fields):
    assert names.parse(name) == ("foraging", fields)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("Foraging-8x8-2p-v3", "food such as 2f is missing"),
        ("Foraging-2p-2f-v3", "a board such as 8x8 is missing"),
        ("Foraging-8x8-2p-2f-koop-v3", "cannot read 'koop'; did you mean 'coop'"),
        ("Foraging-8x8-2q-2f-v3", "cannot read '2q'; there are"),
        ("Foraging-8x8-2p-3p-2f-v3", "'3p' says for a second time what agents is"),
        ("Foraging-8x8-2p-2f-v2", "'v2': the version must be v3"),
        ("Foraging-8x8-2p-2f-V3", "cannot read 'V3'; did you mean 'v3'"),
        ("Foraging-8x8-0p-2f-v3", "'0p': agents must be at least 1, such as 2p"),
        ("Foraging-8x8-2p-00f-v3", "'00f': food must be at least 1, such as 2f"),
        ("Foraging-0s-8x8-2p-2f-v3", "'0s': sight must be at least 1"),
        ("Foraging-0x8-2p-2f-v3", "'0x8': the sides of the board must be at least 3"),
    ],
)
def test_faulty_parts_of_names_are_named(name, fault):
    with pytest.raises(LookupError, match=fault):
        marl_bench.make(name)


@pytest.mark.filterwarnings("ignore:.*the latest versioned environment")
def test_names_of_the_reference_make_the_same_task():
    import gymnasium
    import lbforaging  # noqa: F401

    # Gymnasium, too, takes the newest version of a name without one.
    for name in ("Foraging-8x8-2p-2f-coop-v3", "Foraging-2s-10x10-3p-3f-v3", "Foraging-8x8-2p-2f"):
        theirs, ours = gymnasium.make(name).spec.kwargs, marl_bench.make(name)
        assert theirs["players"] == ours.agents and theirs["field_size"] == (ours.rows, ours.cols)
        assert theirs["max_num_food"] == ours.food and theirs["sight"] == ours.reach
        assert theirs["force_coop"] == ours.force_coop and theirs["max_episode_steps"] == ours.horizon
        assert theirs["penalty"] == ours.penalty and theirs["max_food_level"] == ours.max_food_level
        levels = (ours.min_player_level, ours.max_player_level, ours.min_food_level)
        assert levels == (theirs["min_player_level"], theirs["max_player_level"], theirs["min_food_level"])


# --- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"food": 10, "size": 5}, ValueError, "food=10: a board of 5 x 5 has only 9 cells off its border"),
        ({"agents": 25, "size": 5, "food": 1}, ValueError, "agents=25: a board of 5 x 5 cells has no room"),
        ({"max_food_level": 5}, ValueError, "max_food_level=5: all agents that can stand beside a food"),
        ({"agents": 6, "max_food_level": 9, "collision": "strict"}, ValueError, "levels of at most 8 together"),
        ({"min_player_level": 3}, ValueError, "min_player_level=3 is above max_player_level=2"),
        ({"min_food_level": 3, "max_food_level": 2}, ValueError, "min_food_level=3 is above max_food_level=2"),
        ({"min_food_level": 3}, ValueError, "min_food_level=3: the highest level is the sum"),
        ({"sight": 0}, ValueError, "sight=0: must be >= 1"),
        ({"penalty": -0.1}, ValueError, "penalty=-0.1: must be >= 0"),
        ({"max_player_level": (1, 2, 3)}, ValueError, "a list must have 2 entries"),
        ({"max_player_level": 1.5}, TypeError, "must be an integer"),
        ({"max_player_level": 43}, ValueError, "must be between 1 and 42"),
        ({"variant": "jumanj"}, ValueError, "did you mean"),
        ({"variant": "jumanji", "collision": "lbf"}, ValueError, "never enter each other's cells"),
        ({"variant": "jumanji", "size": 5}, ValueError, "places every food"),
        ({"force_coop": 1}, TypeError, "must be True or False"),
        ({"size": 2}, ValueError, "size=2: must be between 3 and 100"),
    ],
)
def test_settings_that_cannot_be_played_are_refused(fields, error, message):
    with pytest.raises(error, match=message.replace("(", r"\(")):
        Foraging(**fields)


# --- conformance -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"sight": 2, "agents": 3, "food": 3, "max_player_level": (1, 2, 3), "team_reward": "sum"},
        {"variant": "jumanji", "penalty": 0.1},
        {"grid_observation": True, "sight": 2, "state_view": "observations", "horizon": 20},
    ],
    ids=["lists", "jumanji", "windows"],
)
def test_conforms(fields):
    assert marl_bench.check_environment(Foraging(**fields), num_steps=40) == []


@pytest.mark.parametrize("levels", [2, (1, 2)])
def test_stacks_of_levels_on_the_host_are_not_taken_for_lists(levels):
    """As when the seeds of a run are put together."""
    stacked = jax.tree.map(lambda leaf: np.stack([leaf] * 5), Foraging(size=6, max_player_level=levels))
    assert np.shape(stacked.penalty) == (5,)


def test_differently_parametrised_environments_in_one_program():
    worlds = [Foraging(size=6, penalty=p, max_player_level=top) for p, top in ((0.0, 1), (0.5, 2), (1.0, 4))]
    stacked = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *worlds)
    traces = []

    @jax.jit
    def play(worlds, keys):
        traces.append(1)
        state, _ = jax.vmap(lambda world, key: world.reset(key))(worlds, keys)
        # Put everybody beside the first food, too weak for it.
        state = state.replace(row=state.food_row[:, :1] - 1 + jnp.zeros((3, 2), jnp.int8),
                              col=state.food_col[:, :1] + jnp.zeros((3, 2), jnp.int8),
                              food_level=state.food_level * 0 + 100)  # fmt: skip
        return state, jax.vmap(lambda world, s: world.step(s, jnp.array([5, 0])))(worlds, state)[1]

    keys = jax.random.split(jax.random.key(0), 3)
    state, timestep = play(stacked, keys)
    np.testing.assert_array_equal(timestep.reward, np.array([[0, 0], [-0.5, 0], [-1, 0]], np.float32))
    assert (np.asarray(state.level).max(axis=1) <= [1, 2, 4]).all()
    play(jax.tree.map(lambda leaf: leaf[::-1], stacked), keys)
    assert len(traces) == 1


def test_batch_last_is_vmap():
    """Also for arguments without the batch axis, and under a second vmap."""

    def scaled(tree, factor):
        return {"out": tree["a"] * factor, "sum": jnp.sum(tree["a"], axis=0)}

    tree, factor = {"a": jnp.arange(24.0).reshape(2, 4, 3)}, jnp.arange(4.0)
    wrapped = batch_last(scaled)
    once = jax.vmap(wrapped, (0, 0))({"a": tree["a"][0]}, factor)
    np.testing.assert_array_equal(once["out"], tree["a"][0] * factor[:, None])
    np.testing.assert_array_equal(once["sum"], tree["a"][0].sum(axis=1))
    twice = jax.vmap(jax.vmap(wrapped, (0, None)), (0, None))(tree, jnp.float32(2))
    np.testing.assert_array_equal(twice["out"], 2 * tree["a"])


def test_picture_shows_agents_and_food():
    env = Foraging(size=5, columns=7, agents=2, food=1)
    state = env.reset(jax.random.key(1))[0]
    picture = env.render(state)
    assert picture.shape == (5 * CELL, 7 * CELL, 3) and picture.dtype == np.uint8
    top, left = int(state.food_row[0]) * CELL + 6, int(state.food_col[0]) * CELL + 6
    assert tuple(picture[top, left]) == FOOD
    eaten = env.render(dataclasses.replace(state, food_level=jnp.zeros(1, jnp.int8)))
    assert tuple(eaten[top, left]) != FOOD


def test_global_state_lists_food_agents_and_time():
    env = Foraging(size=6, agents=2, food=1)
    state = env.reset(jax.random.key(2))[0].replace(step_count=jnp.int32(25))
    expected = [*(int(x[0]) for x in state.foods)]
    expected += [int(v[i]) for i in range(2) for v in (state.row, state.col, state.level)]
    assert env.global_state(state).tolist() == [*expected, 0.5]
    every = dataclasses.replace(env, state_view="observations")
    assert every.global_state(state).shape == (2 * 9,)
