"""Foraging against PyPI lbforaging: recorded play, and every corner case by name on a hand-made state."""

from __future__ import annotations

import collections
import dataclasses
from pathlib import Path

import foraging_harness as harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marl_bench.envs.foraging.foraging import Foraging, State
from marl_bench.scripted import scripted_policy

GOLDEN = Path(__file__).parent / "data" / "foraging_golden.npz"
GOLDEN_CONFIGS = (1, 6, 9)
NONE, NORTH, SOUTH, WEST, EAST, LOAD = range(6)

EXPECTED = {
    "swap", "four-cycle", "follow", "2 contest a cell", "3 contest a cell", "4 contest a cell", "walk into NONE",
    "walk into LOAD", "walk into a blocked mover", "stacking begins", "stacked, both stay", "stacked, one leaves",
    "stacked, both to one cell", "stacked loaders on one food", "off the board", "into food", "LOAD beside nothing",
    "loaded by 1", "loaded by 2", "loaded by 3", "loaded by 4", "strength equal", "strength above", "strength below",
    "bystander", "arrives too late", "several fail", "two groups fail", "one fails, one loads", "cleared", "time limit",
    "fewer foods than asked", "past the end",
}  # fmt: skip


def ids(settings):
    return "-".join(f"{key}={value}" for key, value in settings.items())


# --- recorded play -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(len(harness.CONFIGS)), ids=[ids(c) for c in harness.CONFIGS])
def test_equals_the_reference(index):
    settings = harness.CONFIGS[index]
    record = harness.play(Foraging(**settings), 1250, seed=index)
    assert sum(harness.differences(settings, record).values()) == 0, harness.differences(settings, record)


@pytest.mark.slow
def test_equals_the_reference_on_200_000_steps():
    """16,000 steps of each of 13 configurations, the first of them also with the scripted policy; every corner case must be met."""
    hits, steps = collections.Counter(), 0
    for index, settings in enumerate(harness.CONFIGS):
        env = Foraging(**settings)
        policy = coordinated(env) if index == 0 else None
        record = harness.play(env, 16_000, seed=100 + index, policy=policy)
        assert sum(harness.differences(settings, record).values()) == 0, (
            settings,
            harness.differences(settings, record),
        )
        hits.update(harness.count_cases(record))
        steps += len(record["row"])
    print(f"{steps} steps: " + ", ".join(f"{name} {count}" for name, count in sorted(hits.items())))
    assert steps >= 200_000 and set(hits) == EXPECTED and min(hits.values()) > 0, hits


def coordinated(env):
    """The scripted policy as a function of the recorded state."""
    act = jax.jit(scripted_policy(env, "coordinate"))
    blank = env.reset(jax.random.key(0))[1].observation

    def policy(state, mask, rng):
        one = {name: np.asarray(state[name])[None] for name in harness.STATE}
        inner = jax.tree.map(lambda leaf: leaf[0], harness.as_state(one))
        key = jax.random.key(int(rng.integers(2**31)))
        return np.asarray(act(inner, blank._replace(action_mask=jnp.asarray(mask)), key))

    return policy


@pytest.mark.parametrize("index", GOLDEN_CONFIGS)
def test_equals_the_stored_transitions(index):
    """Transitions of lbforaging 2.0.0, stored; needs no package."""
    with open(GOLDEN, "rb") as file:
        archive = np.lib.npyio.NpzFile(file, allow_pickle=False)
        prefix = f"{index}/"
        record = {name.removeprefix(prefix): archive[name] for name in archive.files if name.startswith(prefix)}
    assert len(record["row"]) == harness.CHUNK
    assert set(harness.differences(harness.CONFIGS[index], record).values()) == {0}


def test_stored_transitions_are_what_the_reference_does():
    with open(GOLDEN, "rb") as file:
        archive = np.lib.npyio.NpzFile(file, allow_pickle=False)
        for index in GOLDEN_CONFIGS:
            again = harness.play(Foraging(**harness.CONFIGS[index]), harness.CHUNK, seed=1000 + index)
            for name, values in again.items():
                np.testing.assert_array_equal(archive[f"{index}/{name}"], values)


# --- corner cases ------------------------------------------------------------------------------------------

BOARD = {"size": 9, "agents": 6, "food": 3, "penalty": 0.5}
PADS = [(8, 8), (8, 7), (8, 6), (8, 5), (8, 4)]
"""Where agents stand that a case has no use for."""


@dataclasses.dataclass
class Case:
    """Agents (row, column, level, action), foods (row, column, level); positions, food and rewards to expect."""

    agents: list
    to: list
    foods: list = dataclasses.field(default_factory=lambda: [(6, 6, 3)])
    left: list | None = None
    reward: list | None = None
    count: int = 0
    last: str = ""


CASES = {
    "swap": Case([(2, 2, 1, EAST), (2, 3, 1, WEST)], [(2, 3), (2, 2)]),
    "four agents rotate": Case(
        [(2, 2, 1, EAST), (2, 3, 1, SOUTH), (3, 3, 1, WEST), (3, 2, 1, NORTH)], [(2, 3), (3, 3), (3, 2), (2, 2)]
    ),
    # On a square lattice every cycle is even: there is no rotation of three, and the next one after four is of six.
    "six agents rotate": Case(
        [(2, 2, 1, EAST), (2, 3, 1, EAST), (2, 4, 1, SOUTH), (3, 4, 1, WEST), (3, 3, 1, WEST), (3, 2, 1, NORTH)],
        [(2, 3), (2, 4), (3, 4), (3, 3), (3, 2), (2, 2)],
    ),
    "follow": Case([(2, 2, 1, EAST), (2, 3, 1, EAST), (2, 4, 1, NORTH)], [(2, 3), (2, 4), (1, 4)]),
    "two contest a cell": Case([(2, 2, 1, EAST), (2, 4, 1, WEST)], [(2, 2), (2, 4)]),
    "three contest a cell": Case([(2, 2, 1, EAST), (2, 4, 1, WEST), (1, 3, 1, SOUTH)], [(2, 2), (2, 4), (1, 3)]),
    "four contest a cell": Case(
        [(2, 2, 1, EAST), (2, 4, 1, WEST), (1, 3, 1, SOUTH), (3, 3, 1, NORTH)], [(2, 2), (2, 4), (1, 3), (3, 3)]
    ),
    "walk into NONE": Case([(2, 2, 1, EAST), (2, 3, 1, NONE)], [(2, 2), (2, 3)]),
    "walk into LOAD": Case(
        [(2, 2, 1, EAST), (2, 3, 1, LOAD)], [(2, 2), (2, 3)], [(2, 4, 1), (6, 6, 3)], [0, 3], [0, 0.25]
    ),
    "walk into an agent that cannot move": Case([(2, 2, 1, EAST), (2, 3, 1, EAST)], [(2, 2), (2, 3)], [(2, 4, 3)]),
    "walk into an agent at the border": Case([(1, 2, 1, NORTH), (0, 2, 1, NORTH)], [(1, 2), (0, 2)]),
    "stacking": Case([(2, 2, 1, EAST), (2, 1, 1, EAST), (2, 4, 1, WEST)], [(2, 2), (2, 2), (2, 4)]),
    "stacked and both stay": Case([(2, 2, 1, NONE), (2, 2, 2, LOAD)], [(2, 2), (2, 2)]),
    "stacked and one leaves": Case([(2, 2, 1, EAST), (2, 2, 2, NONE)], [(2, 3), (2, 2)]),
    "stacked and both leave to one cell": Case([(2, 2, 1, EAST), (2, 2, 2, EAST)], [(2, 2), (2, 2)]),
    "stacked and both leave apart": Case([(2, 2, 1, EAST), (2, 2, 2, WEST)], [(2, 3), (2, 1)]),
    "stacked loaders": Case(
        [(2, 2, 1, LOAD), (2, 2, 2, LOAD)], [(2, 2), (2, 2)], [(2, 3, 3)], [0], [1 / 3, 2 / 3], last="terminates"
    ),
    "off every border": Case(
        [(0, 3, 1, NORTH), (3, 0, 1, WEST), (4, 8, 1, EAST), (8, 1, 1, SOUTH)], [(0, 3), (3, 0), (4, 8), (8, 1)]
    ),
    "into food": Case([(2, 2, 1, EAST), (3, 3, 1, NORTH)], [(2, 2), (3, 3)], [(2, 3, 3)]),
    "LOAD beside nothing": Case([(2, 2, 1, LOAD), (4, 4, 1, LOAD)], [(2, 2), (4, 4)]),
    "one agent, equal level": Case([(2, 2, 2, LOAD)], [(2, 2)], [(2, 3, 2), (6, 6, 2)], [0, 2], [0.5]),
    "one agent, above": Case([(2, 2, 2, LOAD)], [(2, 2)], [(2, 3, 1), (6, 6, 3)], [0, 3], [0.25]),
    "one agent, below": Case([(2, 2, 1, LOAD)], [(2, 2)], [(2, 3, 2), (6, 6, 2)], [2, 2], [-0.5]),
    "two loaders and a bystander": Case(
        [(2, 3, 1, LOAD), (4, 3, 2, LOAD), (3, 2, 2, NONE)],
        [(2, 3), (4, 3), (3, 2)], [(3, 3, 3), (6, 6, 3)], [0, 3], [1 / 6, 2 / 6, 0],
    ),
    "three loaders and a bystander": Case(
        [(2, 3, 1, LOAD), (4, 3, 2, LOAD), (3, 2, 1, LOAD), (3, 4, 1, WEST)],
        [(2, 3), (4, 3), (3, 2), (3, 4)], [(3, 3, 4), (6, 6, 4)], [0, 4], [1 / 8, 2 / 8, 1 / 8, 0],
    ),
    "four loaders, above": Case(
        [(2, 3, 1, LOAD), (4, 3, 2, LOAD), (3, 2, 1, LOAD), (3, 4, 1, LOAD)],
        [(2, 3), (4, 3), (3, 2), (3, 4)], [(3, 3, 4), (6, 6, 4)], [0, 4], [1 / 10, 2 / 10, 1 / 10, 1 / 10],
    ),
    "who arrives in this step does not load": Case(
        [(2, 3, 1, LOAD), (3, 1, 1, EAST)], [(2, 3), (3, 2)], [(3, 3, 2), (6, 6, 2)], [2, 2], [-0.5, 0]
    ),
    "several fail": Case([(2, 3, 1, LOAD), (4, 3, 1, LOAD)], [(2, 3), (4, 3)], [(3, 3, 3)], [3], [-0.5, -0.5]),
    "two groups fail": Case(
        [(2, 2, 1, LOAD), (6, 5, 1, LOAD), (5, 6, 1, LOAD)],
        [(2, 2), (6, 5), (5, 6)], [(2, 3, 2), (6, 6, 3)], [2, 3], [-0.5, -0.5, -0.5],
    ),
    "one group fails, one loads": Case(
        [(2, 2, 1, LOAD), (6, 5, 1, LOAD), (5, 6, 2, LOAD)],
        [(2, 2), (6, 5), (5, 6)], [(2, 3, 2), (6, 6, 3)], [2, 0], [-0.5, 1 / 5, 2 / 5],
    ),
    "last food in the last step": Case(
        [(2, 2, 2, LOAD)], [(2, 2)], [(2, 3, 2)], [0], [1], count=49, last="terminates"
    ),
    "time limit": Case([(2, 2, 2, LOAD)], [(2, 2)], [(2, 3, 3)], [3], [-0.5], count=49, last="truncates"),
    "past the time limit": Case([(2, 2, 2, EAST)], [(2, 3)], count=60, last="truncates"),
    "past the last food": Case([(2, 2, 2, LOAD)], [(2, 2)], [(2, 3, 0)], [0], [0], count=20, last="terminates"),
    "a board without food": Case([(2, 2, 2, EAST)], [(2, 3)], [], [], [0], last="terminates"),
}  # fmt: skip


def before(case: Case) -> tuple[dict, np.ndarray]:
    """State and actions of a case, with agents and foods that do nothing up to the numbers of `BOARD`."""
    agents = case.agents + [(*place, 1, NONE) for place in PADS[: BOARD["agents"] - len(case.agents)]]
    foods = case.foods + [(-1, -1, 0)] * (BOARD["food"] - len(case.foods))
    row, col, level, actions = np.array(agents).T
    food_row, food_col, food_level = np.array(foods).T
    state = dict(zip(harness.STATE, (row, col, level, food_row, food_col, food_level), strict=False))
    return state | {"food_total": np.array(food_level.sum()), "step_count": np.array(case.count)}, actions


@pytest.fixture(scope="module")
def played():
    """All cases: the reference's record and our outcome, one row each."""
    env = Foraging(**BOARD)
    other, rows = harness.reference(env), []
    for case in CASES.values():
        state, actions = before(case)
        harness.inject(other, state)
        rows.append(harness.advance(other, state, actions)[1])
    record = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return record, harness.ours(BOARD, record)


@pytest.mark.parametrize("name", CASES)
def test_corner_case(played, name):
    _, (state, timestep) = played
    case, index = CASES[name], list(CASES).index(name)
    used, foods = len(case.agents), len(case.foods)
    assert list(zip(state.row[index, :used].tolist(), state.col[index, :used].tolist(), strict=True)) == case.to
    left = [food[2] for food in case.foods] if case.left is None else case.left
    assert state.food_level[index, :foods].tolist() == left
    reward = [0.0] * used if case.reward is None else case.reward
    np.testing.assert_array_equal(timestep.reward[index, :used], np.array(reward, np.float32))
    end = {"terminates": (2, 0.0), "truncates": (2, 1.0), "": (1, 1.0)}[case.last]
    assert (int(timestep.step_type[index]), float(timestep.discount[index, 0])) == end


def test_corner_cases_equal_the_reference(played):
    record, _ = played
    assert set(harness.differences(BOARD, record).values()) == {0}


@pytest.mark.parametrize("sight", [1, 2])
def test_sight_at_corners_and_edges_equals_the_reference(sight):
    """Observer 0 in every corner and in the middle of every edge, others and food at all distances."""
    settings = harness.CONFIGS[1] | {"agents": 4, "food": 3, "sight": sight, "size": 7}
    env, rng = Foraging(**settings), np.random.default_rng(sight)
    other, rows = harness.reference(env), []
    for _ in range(15):
        for row in (0, 3, 6):
            for col in (0, 3, 6):
                state = harness.start(rng, env)
                if (state["food_row"][0], state["food_col"][0]) == (row, col) or (row, col) == (3, 3):
                    continue
                state["row"], state["col"] = state["row"].copy(), state["col"].copy()
                state["row"][0], state["col"][0] = row, col
                harness.inject(other, state)
                rows.append(harness.advance(other, state, np.zeros(4, int))[1])
    record = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    assert len(rows) >= 100 and set(harness.differences(settings, record).values()) == {0}


def test_agents_are_seen_farther_than_food_near_the_upper_left_corner():
    env = Foraging(size=8, agents=2, food=1, sight=2)
    small = [jnp.asarray(x, jnp.int8) for x in ([0, 4], [0, 4], [1, 2], [4], [3], [1])]
    state = State(*small, jnp.int16(1), jnp.int32(0))
    view = np.asarray(env.step(state, jnp.zeros(2, jnp.int32))[1].observation.agents_view)
    assert view[0].tolist() == [-1, -1, 0, 0, 0, 1, 4, 4, 2]
    # From (4, 4) the corner of the view is (2, 2): the food is near, the agent at (0, 0) is not.
    assert view[1].tolist() == [2, 1, 1, 2, 2, 2, -1, -1, 0]


def test_strict_collisions_forbid_swaps_follows_and_stacks():
    env = Foraging(**BOARD, collision="strict")
    stays = {"swap", "four agents rotate", "six agents rotate", "stacking"}
    records = [before(CASES[name]) for name in (*sorted(stays), "follow", "two contest a cell")]
    record = {name: np.stack([state[name] for state, _ in records]) for name in harness.STATE}
    actions = jnp.asarray(np.stack([actions for _, actions in records]), jnp.int32)
    state, _ = jax.jit(jax.vmap(env.step))(harness.as_state(record), actions)
    expected_row, expected_col = record["row"].copy(), record["col"].copy()
    expected_row[4, 2], expected_col[4, 2] = 1, 4  # of those that follow each other only the first has a free cell
    np.testing.assert_array_equal(state.row, expected_row)
    np.testing.assert_array_equal(state.col, expected_col)
