"""The coin game: drawn boards, closed facts, conservation, conformance."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import marl_bench
from marl_bench.envs.coin_game import rules, scripted
from marl_bench.envs.coin_game.coin_game import CoinGame, State
from marl_bench.envs.coin_game.viewer import CELL, COLOURS
from marl_bench.scripted import random_policy

RIGHT, LEFT, DOWN, UP, STAY = range(5)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def step():
    return jax.jit(lambda env, state, actions: env.step(state, actions))


def board(drawing: str, owner=(0, 1), count=0) -> State:
    """State from a drawing: A, B agents; r, b coins; `.` empty. Several letters may share a cell."""
    rows = [line.split() for line in drawing.strip().splitlines()]
    at = {
        letter: (i, j) for i, row in enumerate(rows) for j, cell in enumerate(row) for letter in cell if letter != "."
    }
    coins = [at[letter] for letter in "rb" if letter in at]

    def small(values):
        return jnp.asarray(values, jnp.int8)

    agents = [at["A"], at["B"]]
    return State(
        row=small([p[0] for p in agents]), col=small([p[1] for p in agents]),
        coin_row=small([p[0] for p in coins]), coin_col=small([p[1] for p in coins]),
        coin_owner=small(owner), key=KEY, step_count=jnp.int32(count),
    )  # fmt: skip


def agents(state):
    return [(int(r), int(c)) for r, c in zip(state.row, state.col, strict=True)]


def coins(state):
    return [(int(r), int(c)) for r, c in zip(state.coin_row, state.coin_col, strict=True)]


# --- moves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "centre", "corner"),
    [
        (RIGHT, (1, 2), (2, 0)),
        (LEFT, (1, 0), (2, 1)),
        (DOWN, (2, 1), (0, 2)),
        (UP, (0, 1), (1, 2)),
        (STAY, (1, 1), (2, 2)),
    ],
)
def test_moves_wrap_around(step, action, centre, corner):
    state = board("r . .\n. A b\n. . B")
    following, _ = step(CoinGame(), state, jnp.asarray([action, action]))
    assert agents(following) == [centre, corner]


def test_agents_may_share_a_cell_and_swap(step):
    shared, _ = step(CoinGame(), board("r . .\n. A B\n. . b"), jnp.asarray([RIGHT, STAY]))
    assert agents(shared) == [(1, 2), (1, 2)]
    swapped, _ = step(CoinGame(), board("r . .\n. A B\n. . b"), jnp.asarray([RIGHT, LEFT]))
    assert agents(swapped) == [(1, 2), (1, 1)]


def test_out_of_range_actions_are_clipped(step):
    state = board("r . .\n. A b\n. . B")
    far, _ = step(CoinGame(), state, jnp.asarray([-4, 99]))
    assert agents(far) == [(1, 2), (2, 2)]
    one = dataclasses.replace(state, coin_row=state.coin_row[:1], coin_col=state.coin_col[:1], coin_owner=jnp.int8([0]))
    far, _ = step(CoinGame(coins=1), one, jnp.asarray([99, 99]))
    assert agents(far) == [(0, 1), (1, 2)]  # 99 is up, there is no stay


# --- collecting ----------------------------------------------------------------------------------

# board, actions, reward, own coins, other coins
EVENTS = {
    "own": ("A r .\n. . .\n. b B", [RIGHT, STAY], [1, 0], 1, 0),
    "both own": ("A r .\n. . .\n. b B", [RIGHT, LEFT], [1, 1], 2, 0),
    "theft by 0": ("A b .\n. . .\n. r B", [RIGHT, STAY], [1, -2], 0, 1),
    "theft by 1": ("A b .\n. . .\n. r B", [STAY, LEFT], [-2, 1], 0, 1),
    "both steal": ("A b .\n. . .\n. r B", [RIGHT, LEFT], [-1, -1], 0, 2),
    "both at red": ("A r B\n. . .\n. b .", [RIGHT, LEFT], [-1, 1], 1, 1),
    "two coins on one cell": ("A rb .\n. . .\n. . B", [RIGHT, STAY], [2, -2], 1, 1),
    "all on one cell": ("A rb B\n. . .\n. . .", [RIGHT, LEFT], [0, 0], 2, 2),
    "no coin": ("A . r\n. . .\nb . B", [RIGHT, UP], [0, 0], 0, 0),
    "staying on a coin": ("Ar . .\n. . .\nb . B", [STAY, UP], [1, 0], 1, 0),
}


@pytest.mark.parametrize(("drawing", "actions", "reward", "own", "other"), EVENTS.values(), ids=EVENTS)
def test_events_pay(step, drawing, actions, reward, own, other):
    state = board(drawing)
    following, timestep = step(CoinGame(), state, jnp.asarray(actions))
    np.testing.assert_array_equal(timestep.reward, reward)
    metrics = timestep.extras["metrics"]
    assert (metrics["own_coins"], metrics["other_coins"]) == (own, other)
    np.testing.assert_allclose(metrics["mean_reward"], np.mean(reward))
    for coin, (before, after) in enumerate(zip(coins(state), coins(following), strict=True)):
        assert after == before or before in agents(following), coin
    np.testing.assert_array_equal(following.coin_owner, [0, 1])


def test_rewards_are_parameters(step):
    env = CoinGame(own_reward=3.0, other_reward=0.5, penalty=-7.0)
    _, timestep = step(env, board("A rb B\n. . .\n. . ."), jnp.asarray([RIGHT, LEFT]))
    np.testing.assert_array_equal(timestep.reward, [-3.5, -3.5])


def test_a_coin_reappears_uniformly_and_waits_for_the_next_step():
    state, env = board("A r .\n. . .\n. b B"), CoinGame()
    keys = jax.random.split(jax.random.key(5), 9000)
    play = jax.jit(jax.vmap(lambda key: env.step(state.replace(key=key), jnp.asarray([RIGHT, STAY]))))
    following, timestep = play(keys)
    counts = np.bincount(np.asarray(following.coin_row[:, 0]) * 3 + np.asarray(following.coin_col[:, 0]), minlength=9)
    assert ((counts - 1000) ** 2 / 1000).sum() < 26.1  # chi-square, 8 degrees of freedom, p = 0.001
    np.testing.assert_array_equal(timestep.reward, [[1, 0]] * 9000)
    np.testing.assert_array_equal(following.coin_row[:, 1], 2)  # the other coin stays
    cell = following.coin_row[:, 0] * 3 + following.coin_col[:, 0]
    on_owner, on_other = np.asarray(cell == 1), np.asarray(cell == 8)
    again, later = jax.jit(jax.vmap(lambda state: env.step(state, jnp.asarray([STAY, STAY]))))(following)
    np.testing.assert_array_equal(later.reward[:, 0], 1.0 * on_owner - 2.0 * on_other)
    assert on_owner.any() and on_other.any() and (again.step_count == 2).all()


# --- one coin ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("drawing", "owner", "actions", "reward", "new_owner"),
    [
        ("A r .\n. . .\n. . B", [0], [RIGHT, UP], [1, 0], 1),
        ("A r .\n. . .\n. . B", [1], [RIGHT, UP], [1, -2], 0),
        (". . A\n. . .\n. r B", [0], [UP, LEFT], [-2, 1], 1),
        (". . A\n. . .\n. r B", [1], [UP, LEFT], [0, 1], 0),
        ("A r B\n. . .\n. . .", [1], [RIGHT, LEFT], [1, -2], 0),  # both arrive: agent 0 takes it
        ("A r B\n. . .\n. . .", [0], [RIGHT, LEFT], [1, 0], 1),
        ("A r B\n. . .\n. . .", [1], [DOWN, DOWN], [0, 0], 1),
    ],
)
def test_a_single_coin_alternates(step, drawing, owner, actions, reward, new_owner):
    following, timestep = step(CoinGame(coins=1), board(drawing, owner), jnp.asarray(actions))
    np.testing.assert_array_equal(timestep.reward, reward)
    assert following.coin_owner.tolist() == [new_owner]
    if any(reward):
        assert coins(following)[0] not in agents(following)


@pytest.mark.parametrize("cells", [[(0, 1), (2, 0)], [(2, 0), (0, 1)], [(1, 1), (1, 1)], [(0, 0), (2, 2)]])
def test_a_single_coin_avoids_both_agents_uniformly(cells):
    row, col = jnp.int8([r for r, _ in cells]), jnp.int8([c for _, c in cells])
    drawn = jax.random.bits(jax.random.key(7), (8000,), jnp.uint32)
    new_row, new_col = rules.cell_without(drawn, row, col, 3)
    counts = np.bincount(np.asarray(new_row) * 3 + np.asarray(new_col), minlength=9)
    free = [cell for cell in range(9) if divmod(cell, 3) not in cells]
    assert counts.sum() == counts[free].sum() == 8000
    expected = 8000 / len(free)
    assert ((counts[free] - expected) ** 2 / expected).sum() < 26.1


def test_a_single_coin_starts_apart_with_a_fair_colour():
    env = CoinGame(coins=1)
    state, _ = jax.jit(jax.vmap(env.reset))(jax.random.split(KEY, 4000))
    cell = state.row.astype(int) * 3 + state.col
    coin = state.coin_row[:, 0].astype(int) * 3 + state.coin_col[:, 0]
    assert (cell[:, 0] != cell[:, 1]).all() and (coin[:, None] != cell).all()
    assert abs(state.coin_owner.mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
    for cells in (cell[:, 0], cell[:, 1], coin):
        counts = np.bincount(np.asarray(cells), minlength=9)
        assert ((counts - 4000 / 9) ** 2 / (4000 / 9)).sum() < 26.1


# --- views ---------------------------------------------------------------------------------------


def test_views_are_absolute_with_own_colours_first():
    env = CoinGame()
    view = np.asarray(env._observation(board("A r .\n. . .\n. b B")).agents_view)
    one = {channel: tuple(np.argwhere(view[0, ..., channel])[0]) for channel in range(4)}
    two = {channel: tuple(np.argwhere(view[1, ..., channel])[0]) for channel in range(4)}
    assert view.sum() == 8 and view.dtype == np.uint8
    assert one == {0: (0, 0), 1: (2, 2), 2: (0, 1), 3: (2, 1)}
    assert two == {0: (2, 2), 1: (0, 0), 2: (2, 1), 3: (0, 1)}
    np.testing.assert_array_equal(env.global_state(board("A r .\n. . .\n. b B")), view[0].reshape(-1))


@given(st.integers(2, 6), st.lists(st.integers(0, 35), min_size=8, max_size=8))
@settings(max_examples=30, deadline=None)
def test_egocentric_views_are_shifted_absolute_ones(size, numbers):
    values = jnp.asarray(numbers, jnp.int8) % size
    state = State(values[:2], values[2:4], values[4:6], values[6:], jnp.int8([0, 1]), KEY, jnp.int32(0))
    absolute = np.asarray(CoinGame(size=size)._observation(state).agents_view)
    centred = np.asarray(CoinGame(size=size, view="egocentric")._observation(state).agents_view)
    for agent in range(2):
        shift = (size // 2 - int(state.row[agent]), size // 2 - int(state.col[agent]))
        np.testing.assert_array_equal(centred[agent], np.roll(absolute[agent], shift, (0, 1)))
        assert centred[agent, size // 2, size // 2, 0] == 1


def test_a_single_coin_shows_in_the_channel_of_its_colour():
    env = CoinGame(coins=1)
    for owner in (0, 1):
        view = np.asarray(env._observation(board("A r .\n. . .\n. . B", [owner])).agents_view)
        assert view[0, 0, 1].tolist() == [0, 0, 1 - owner, owner] and view[1, 0, 1].tolist() == [0, 0, owner, 1 - owner]
        assert view.sum() == 6


# --- conservation, symmetry, closed facts ----------------------------------------------------------


@given(
    st.lists(st.integers(0, 8), min_size=4, max_size=4),
    st.lists(st.integers(0, 4), min_size=2, max_size=2),
    st.floats(-3, 3, width=16),
)
@settings(max_examples=60, deadline=None)
def test_pay_is_conserved_and_symmetric(step, cells, actions, penalty):
    cell = jnp.asarray(cells)
    row, col = rules.split_cell(cell, 3)
    state = State(row[:2], col[:2], row[2:], col[2:], jnp.int8([0, 1]), KEY, jnp.int32(0))
    env = CoinGame(penalty=penalty)
    following, timestep = step(env, state, jnp.asarray(actions))
    metrics = timestep.extras["metrics"]
    # Every collection pays 1; every theft costs the owner `penalty`.
    total = metrics["own_coins"] + metrics["other_coins"] * (1 + penalty)
    np.testing.assert_allclose(timestep.reward.sum(), total, atol=1e-5)
    assert ((following.row >= 0) & (following.row < 3) & (following.col >= 0) & (following.col < 3)).all()
    mirrored = State(row[:2][::-1], col[:2][::-1], row[2:][::-1], col[2:][::-1], jnp.int8([0, 1]), KEY, jnp.int32(0))
    _, other = step(env, mirrored, jnp.asarray(actions[::-1]))
    np.testing.assert_array_equal(other.reward, timestep.reward[::-1])


@pytest.fixture(scope="module")
def mean_rewards():
    """Mean reward per step [2], collections per coin and step, for pairs of policies: 512 games of 2,000 steps."""
    env, games, steps = CoinGame(), 512, 2000
    known, uniform = env.scripted_policies(), random_policy(env)
    red_first = lambda state, observation, key: scripted.nearest_coin(state, 3, jnp.zeros(2))  # noqa: E731
    policies = [uniform, known["cooperate"], known["defect"], red_first]

    @jax.jit
    def play(pair):
        def one(carry, count):
            state, observation = carry
            keys = jax.vmap(lambda key: jax.random.fold_in(key, count))(state.key)

            def act(state, observation, key):
                options = jnp.stack([policy(state, observation, key) for policy in policies])
                return jnp.stack([options[pair[0], 0], options[pair[1], 1]])

            actions = jax.vmap(act)(state, observation, keys)
            state, timestep = jax.vmap(env.step)(state, actions)
            metrics = timestep.extras["metrics"]
            return (state, timestep.observation), (
                timestep.reward.mean(0),
                metrics["own_coins"] + metrics["other_coins"],
            )

        state, timestep = jax.vmap(env.reset)(jax.random.split(KEY, games))
        reward, collections = jax.lax.scan(one, (state, timestep.observation), jnp.arange(steps))[1]
        return reward.mean(0), collections.mean() / 4

    names = ["random", "cooperate", "defect", "red_first"]
    index = {name: i for i, name in enumerate(names)}
    return functools.cache(lambda *pair: jax.device_get(play(jnp.asarray([index[name] for name in pair]))))


def test_uniform_play_collects_each_coin_at_the_known_rate(mean_rewards):
    reward, rate = mean_rewards("random", "random")
    assert abs(rate - 0.0938) < 0.0007
    np.testing.assert_allclose(reward, 0, atol=0.003)


def test_own_coins_only_earns_the_known_rate(mean_rewards):
    np.testing.assert_allclose(mean_rewards("cooperate", "cooperate")[0], 0.567, atol=0.003)


def test_nearest_coin_earns_nothing_in_total(mean_rewards):
    reward = mean_rewards("red_first", "red_first")[0]
    np.testing.assert_allclose(reward, [-0.302, 0.302], atol=0.004)
    symmetric = mean_rewards("defect", "defect")[0]
    np.testing.assert_allclose(symmetric[0], symmetric[1], atol=0.008)


def test_the_scripted_pair_is_a_prisoners_dilemma(mean_rewards):
    reward = mean_rewards("cooperate", "cooperate")[0].mean()
    sucker, temptation = mean_rewards("cooperate", "defect")[0]
    punishment = mean_rewards("defect", "defect")[0].mean()
    assert temptation > reward > punishment > sucker and 2 * reward > temptation + sucker


def test_scripted_policies_take_shortest_ways():
    env = CoinGame(size=5)
    known = env.scripted_policies()
    state = board("A . . r .\n. . . . .\n. . . . .\n. . b . .\n. . . B .")
    # Agent 0 reaches red by two steps to the left; agent 1 reaches blue by one row up first.
    assert known["cooperate"](state, None, KEY).tolist() == [LEFT, UP]
    near = board("A b . . .\n. . . . .\nr . . . .\n. . . . .\n. . . B .")
    assert known["cooperate"](near, None, KEY).tolist() == [DOWN, DOWN]
    assert known["defect"](near, None, KEY).tolist() == [RIGHT, DOWN]


def test_a_cooperator_leaves_the_others_single_coin_alone():
    known = CoinGame(coins=1).scripted_policies()
    beside, below = board("A r .\n. . .\n. . B", [1]), board("A . .\nr . .\n. . B", [1])
    assert known["cooperate"](beside, None, KEY)[0] == DOWN
    assert known["cooperate"](below, None, KEY)[0] == RIGHT
    assert known["cooperate"](board("A r .\n. . .\n. . B", [0]), None, KEY)[0] == RIGHT
    assert known["defect"](beside, None, KEY)[0] == RIGHT


# --- contract ------------------------------------------------------------------------------------


def test_the_last_reward_and_observation_are_the_episodes_own(step):
    env = CoinGame(horizon=8)
    state, timestep = step(env, board("A r .\n. . .\n. b B", count=7), jnp.asarray([RIGHT, LEFT]))
    assert timestep.last() and timestep.discount.tolist() == [1, 1] and timestep.reward.tolist() == [1, 1]
    assert timestep.observation.step_count == 8 and timestep.observation.agents_view[0, 0, 1, 0] == 1
    assert state.step_count == 8


@pytest.mark.parametrize("name", ["coin_game", "coin_game_lola", "coin_game_5x5"])
def test_presets_conform(name):
    env = marl_bench.make(name, horizon=20)
    assert marl_bench.check_environment(env, num_steps=30) == []


def test_games_with_other_numbers_share_one_program():
    env = CoinGame(own_reward=jnp.float32([1, 2, 3]), penalty=jnp.float32([-2, -4, 0]), other_reward=jnp.ones(3))
    state = board("A b .\n. . .\n. r B")
    _, timestep = jax.jit(jax.vmap(lambda env: env.step(state, jnp.asarray([RIGHT, STAY]))))(env)
    np.testing.assert_array_equal(timestep.reward, [[1, -2], [1, -4], [1, 0]])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 1}, "size=1: must be between 2 and 15"),
        ({"coins": 3}, "coins=3: must be between 1 and 2"),
        ({"view": "egocentrc"}, "view='egocentrc'.*egocentric"),
        ({"penalty": float("nan")}, "penalty=nan"),
        ({"horizon": 0}, "horizon=0: must be >= 1"),
    ],
)
def test_impossible_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        CoinGame(**fields)


def test_picture_shows_every_piece():
    picture = CoinGame().render(board("A r .\n. . .\n. b B"))
    assert picture.shape == (3 * CELL, 3 * CELL, 3) and picture.dtype == np.uint8
    middle = CELL // 2
    # Coin centres: red slightly up and left, blue slightly down and right.
    assert tuple(picture[middle - 4, CELL + middle - 4]) == COLOURS[0]
    assert tuple(picture[2 * CELL + middle + 4, CELL + middle + 4]) == COLOURS[1]
    assert tuple(picture[3, 3 + middle]) == COLOURS[0] and tuple(picture[2 * CELL + 7, 2 * CELL + 12]) == COLOURS[1]
    empty = picture[CELL + 1 : 2 * CELL, CELL + 1 : 2 * CELL].reshape(-1, 3)
    assert len(np.unique(empty, axis=0)) == 1
