"""Externality mushrooms as a world: eating, digestion and zaps to the exact step, ageing, conservation, conformance."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import marl_bench
from marl_bench.envs.grid.viewer import CELL
from marl_bench.envs.mushrooms.mushrooms import KINDS, Mushrooms, first_kinds
from marl_bench.envs.mushrooms.rules import BLUE, GREEN, ORANGE, RED
from marl_bench.envs.mushrooms.viewer import COLOURS

NOOP, FORWARD, BACKWARD, STEP_LEFT, STEP_RIGHT, TURN_LEFT, TURN_RIGHT, ZAP = range(8)
NORTH, EAST, SOUTH, WEST = range(4)
ENV = Mushrooms(players=3)


@pytest.fixture(scope="module")
def step():
    return jax.jit(lambda env, state, actions: env.step(state, actions))


@pytest.fixture(scope="module")
def start():
    return jax.jit(lambda env, key: env.reset(key)[0])(ENV, jax.random.key(0))


def put(state, places, mushrooms, life=50):
    """Agents at (row, column, heading), mushrooms as {(row, column): kind}."""
    row, col, heading = (jnp.asarray(part, jnp.int8) for part in zip(*places, strict=True))
    kind = np.zeros((11, 21), np.int8)
    for cell, value in mushrooms.items():
        kind[cell] = value
    kind = jnp.asarray(kind.reshape(-1))
    lives = jnp.where((kind > 0) & (kind != ORANGE), life, 0).astype(jnp.int16)
    return state.replace(
        avatars=state.avatars.replace(row=row, col=col, heading=heading),
        resources=state.resources.replace(kind=kind, life=lives),
    )


def play(step, env, state, *joint):
    timesteps = []
    for actions in joint:
        state, timestep = step(env, state, jnp.asarray(actions))
        timesteps.append(timestep)
    return state, timesteps


PLACES = [(5, 5, EAST), (0, 0, SOUTH), (10, 20, NORTH)]


def test_the_first_mushrooms_are_those_stated(start):
    assert np.bincount(first_kinds()).tolist() == [221, 3, 3, 3, 1]
    life = np.asarray(start.resources.life)
    assert [sorted(set(life[first_kinds() == kind])) for kind in range(5)] == [[0], [200], [100], [75], [0]]


@pytest.mark.parametrize(
    ("kind", "reward", "frozen"),
    [(RED, [1, 0, 0], 0), (GREEN, [2 / 3] * 3, 10), (BLUE, [0, 1.5, 1.5], 15), (ORANGE, [-1 / 3] * 3, 15)],
)
def test_eating_pays_and_freezes(step, start, kind, reward, frozen):
    state = put(start, PLACES, {(5, 6): kind})
    state, timesteps = play(step, ENV, state, [FORWARD, NOOP, NOOP], *[[TURN_LEFT, NOOP, NOOP]] * (frozen + 1))
    np.testing.assert_allclose(timesteps[0].reward, reward, rtol=1e-6)
    assert timesteps[0].extras[KINDS[kind - 1]].tolist() == [1, 0, 0]
    free = [bool(t.observation.action_mask[0, FORWARD]) for t in timesteps]
    assert free == [frozen == 0] * (1 if frozen else 0) + [False] * max(frozen - 1, 0) + [True] * (len(free) - frozen)
    # It turned once, with the first action after the digestion.
    assert state.avatars.heading[0] == NORTH if frozen else True
    assert state.resources.kind[5 * 21 + 6] != kind or kind == 0


def test_standing_where_nothing_lies_pays_nothing(step, start):
    _, (timestep,) = play(step, ENV, put(start, PLACES, {(5, 7): RED}), [FORWARD, FORWARD, FORWARD])
    assert not timestep.reward.any() and timestep.extras["metrics"]["mushrooms"] == 1


def test_mushrooms_perish_on_time_but_for_orange(step, start):
    state = put(start, PLACES, {(8, 8): BLUE, (8, 9): ORANGE}, life=3)
    _, timesteps = play(step, ENV, state, *[[NOOP] * 3] * 4)
    assert [int(t.extras["metrics"]["mushrooms"]) for t in timesteps] == [2, 2, 1, 1]


def test_spores_grow_at_once_away_from_agents(step, start):
    grown = []
    for key in range(10):
        state = put(start, PLACES, {(5, 6): ORANGE}).replace(key=jax.random.key(key))
        state, _ = play(step, ENV, state, [FORWARD, NOOP, NOOP])
        cells = np.flatnonzero(state.resources.kind)
        assert len(cells) == 1 and state.resources.kind[cells[0]] == ORANGE and state.resources.life[cells[0]] == 0
        grown.append(int(cells[0]))
    assert len(set(grown)) > 5 and not {0, 5 * 21 + 6, 230} & set(grown)


def test_new_mushrooms_have_their_full_life(step, start):
    sure = [put(start, PLACES, {(5, 6): BLUE}).replace(key=jax.random.key(key)) for key in range(5)]
    for state in sure:
        state, _ = play(step, ENV, state, [FORWARD, NOOP, NOOP])
        kind, life = np.asarray(state.resources.kind), np.asarray(state.resources.life)
        assert all(life[cell] == (0, 200, 100, 75, 0)[kind[cell]] for cell in range(231))


def test_orange_makes_reds_vanish(step, start):
    board = {(row, col): RED for row in range(8, 11) for col in range(18)}
    always, never = (dataclasses.replace(ENV, vanishing=p) for p in (1.0, 0.0))
    for env, left in ((always, 0), (never, 54)):
        state, _ = play(step, env, put(start, PLACES, {**board, (5, 6): ORANGE}), [FORWARD, NOOP, NOOP])
        assert int((state.resources.kind == RED).sum()) == left
    state, _ = play(step, ENV, put(start, PLACES, {**board, (5, 6): ORANGE}), [FORWARD, NOOP, NOOP])
    assert 54 * 0.75 - 13 < int((state.resources.kind == RED).sum()) < 54 * 0.75 + 13  # 4 standard deviations


# --- zaps ----------------------------------------------------------------------------------------


def test_zaps_destroy_what_they_cross(step, start):
    # From (5, 5) to the east: (5, 6-8), (4, 5-7), (6, 5-7).
    inside = [(5, 6), (5, 8), (4, 5), (4, 7), (6, 5)]
    outside = [(5, 9), (4, 8), (6, 8), (3, 6), (5, 4)]
    state = put(start, PLACES, dict.fromkeys([*inside, *outside], GREEN))
    state, (timestep,) = play(step, ENV, state, [ZAP, NOOP, NOOP])
    left = [tuple(map(int, cell)) for cell in np.argwhere(np.asarray(state.resources.kind).reshape(11, 21))]
    assert sorted(left) == sorted(outside) and timestep.extras["destroyed"].tolist() == [5, 0, 0]
    assert not timestep.reward.any()


def test_a_zap_freezes_and_a_second_one_removes(step, start):
    line = [(5, 5, EAST), (5, 7, WEST), (10, 20, NORTH)]
    state = put(start, line, {})
    push = [NOOP, TURN_LEFT, NOOP]
    once, timesteps = play(step, ENV, state, [ZAP, NOOP, NOOP], *[push] * 26)
    free = [bool(t.observation.action_mask[1, FORWARD]) for t in timesteps]
    assert free == [False] * 25 + [True, True] and once.avatars.heading[1] == SOUTH  # one turn
    twice, timesteps = play(step, ENV, state, *[[ZAP, NOOP, NOOP]] * 5, *[[NOOP] * 3] * 50)
    assert [int(t.extras["hits"][1]) for t in timesteps[:5]] == [1, 0, 0, 0, 1]
    alive = [bool(t.extras["alive"][1]) for t in timesteps]
    assert alive == [True] * 4 + [False] * 50 + [True] and timesteps[4].extras["removals"].tolist() == [0, 1, 0]
    assert twice.resources.marked[1] == 0 and twice.avatars.frozen[1] == 0


@pytest.mark.parametrize(("pause", "removed"), [(48, True), (49, False)])
def test_marks_last_fifty_steps(step, start, pause, removed):
    state = put(start, [(5, 5, EAST), (5, 7, WEST), (10, 20, NORTH)], {})
    _, timesteps = play(step, ENV, state, [ZAP, NOOP, NOOP], *[[NOOP] * 3] * pause, [ZAP, NOOP, NOOP])
    assert timesteps[-1].extras["removals"].tolist() == [0, int(removed), 0]


def test_two_zaps_at_once_remove(step, start):
    state = put(start, [(5, 5, EAST), (5, 7, SOUTH), (5, 9, WEST)], {})
    _, (timestep,) = play(step, ENV, state, [ZAP, NOOP, ZAP])
    assert timestep.extras["removals"].tolist() == [0, 1, 0] and timestep.extras["alive"].tolist() == [1, 0, 1]


# --- whole games, contract -----------------------------------------------------------------------


def test_pay_balances_in_random_play():
    env = Mushrooms(players=4, horizon=300)

    def one(key):
        key_start, key_actions = jax.random.split(key)
        state, _ = env.reset(key_start)
        actions = jax.random.choice(key_actions, jnp.asarray([1, 1, 1, 3, 4, 5, 6]), (250, 4))

        def body(state, action):
            following, timestep = env.step(state, action)
            number = jnp.sum(state.resources.kind > 0), jnp.sum(following.resources.kind > 0)
            return following, (timestep.reward, *(timestep.extras[kind].sum() for kind in KINDS), *number)

        return jax.lax.scan(body, state, actions)[1]

    played = jax.device_get(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), 16)))
    reward, red, green, blue, orange, before, after = played
    np.testing.assert_allclose(reward.sum(-1), red + 2.0 * green + 3.0 * blue - orange, atol=1e-5)
    assert min(red.sum(), green.sum(), blue.sum(), orange.sum()) > 0
    eaten = red + green + blue + orange
    assert (after - before <= 3 * red + 6 * green + 9 * blue + orange - eaten).all()
    assert (after[eaten == 0] <= before[eaten == 0]).all()


def test_views_show_mushrooms(step, start):
    state = put(start, [(5, 5, EAST), (0, 0, SOUTH), (5, 7, NORTH)], {(5, 8): RED, (4, 5): BLUE, (6, 6): ORANGE})
    _, (timestep,) = play(step, ENV, state, [NOOP] * 3)
    view = np.asarray(timestep.observation.agents_view[0])
    at = {kind: ENV.channels.index(kind) for kind in KINDS}
    assert view[6, 5, at["red"]] == 1 and view[9, 4, at["blue"]] == 1 and view[8, 6, at["orange"]] == 1
    assert sum(int(view[..., channel].sum()) for channel in at.values()) == 3


def test_worlds_with_other_numbers_share_one_program(start):
    state = put(start, PLACES, {(5, 6): GREEN})
    leaves, treedef = jax.tree.flatten(ENV)
    stack = treedef.unflatten([jnp.stack([jnp.asarray(leaf)] * 2) for leaf in leaves])
    stack = dataclasses.replace(stack, green_reward=jnp.float32([2, 9]), green_digestion=jnp.int32([10, 0]))
    rewards, masks = jax.jit(jax.vmap(lambda env: (lambda t: (t.reward, t.observation.action_mask))(
        env.step(state, jnp.asarray([FORWARD, NOOP, NOOP]))[1]
    )))(stack)  # fmt: skip
    np.testing.assert_allclose(rewards, [[2 / 3] * 3, [3] * 3], rtol=1e-6)
    assert masks[:, 0, FORWARD].tolist() == [False, True]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"players": 1}, "players=1: must be at least 2"),
        ({"red_digestion": 128}, "red_digestion=128"),
        ({"vanishing": 2.0}, "vanishing=2.0"),
        ({"zap_absence": 0}, "zap_absence=0"),
        ({"blue_life": -1}, "blue_life=-1"),
    ],
)
def test_impossible_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Mushrooms(**fields)


def test_it_conforms():
    env = marl_bench.make("mushrooms_mp", players=3, horizon=20)
    assert marl_bench.check_environment(env, num_steps=25) == []


def test_picture_shows_mushrooms(start):
    state = put(start, PLACES, {(1, kind): kind for kind in (1, 2, 3, 4)})
    picture = ENV.render(state)
    assert picture.shape == (13 * CELL, 23 * CELL, 3)
    for kind in (1, 2, 3, 4):
        assert tuple(picture[int(2.5 * CELL), int((kind + 1.5) * CELL)]) == COLOURS[kind - 1]
