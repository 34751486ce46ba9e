"""Matrix games and public goods: rules, endings, views, codes, stacking."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marl_bench.environment import StepType
from marl_bench.envs.games import GAMES
from marl_bench.envs.matrix_game import MatrixGame
from marl_bench.envs.matrix_render import CELL, FRAME
from marl_bench.envs.public_goods import PublicGoods

KEY = jax.random.key(0)
# Three agents with 2, 3 and 2 actions; entry = 100 * agent + joint index, so every entry tells where it came from.
UNEVEN = (np.arange(3)[:, None] * 100 + np.arange(12)).reshape(3, 2, 3, 2).astype(np.float32)

ENVIRONMENTS = {
    "dilemma": MatrixGame(horizon=7),
    "one_shot": MatrixGame(game="climbing", horizon=1),
    "endless": MatrixGame(game="matching_pennies", horizon=None),
    "letters": MatrixGame(game="symmetric_2x2", reward=3.0, sucker=0.0, temptation=5.0, punishment=1.0),
    "uneven": MatrixGame(game="custom", payoff=UNEVEN, horizon=5),
    "constant": MatrixGame(game="penalty", observe="constant", horizon=5),
    "geometric": MatrixGame(horizon=None, continuation=0.8),
    "public_goods": PublicGoods(players=5, exponent=0.8, threshold=3.0, bonus=2.0, horizon=6),
}


@jax.jit
def step(env, state, actions):
    """One program for each class and its static fields, whatever test plays it."""
    return env.step(state, actions)


def random_play(env, num_steps, seed=0):
    """States, joint actions and timesteps of uniformly random play."""
    state, timestep = env.reset(jax.random.key(seed))
    rng = np.random.default_rng(seed)
    for _ in range(num_steps):
        actions = rng.integers(0, env.choices).astype(np.int32)
        state, timestep = step(env, state, jnp.asarray(actions))
        yield state, actions, timestep


# --- contract of both environments -------------------------------------------------------------


@pytest.mark.parametrize("env", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_values_fit_the_specs(env):
    state, timestep = env.reset(KEY)
    outcomes = [(state, timestep)] + [(state, timestep) for state, _, timestep in random_play(env, 5)]
    for state, timestep in outcomes:
        env.observation_spec.validate(timestep.observation)
        env.reward_spec.validate(timestep.reward)
        env.discount_spec.validate(timestep.discount)
        assert set(timestep.extras["metrics"]) == set(env.metric_units)
        assert env.global_state(state).dtype == jnp.float32
        assert env.global_state(state).sum() >= (1 if isinstance(env, MatrixGame) else 0)
    assert outcomes[0][1].step_type == StepType.FIRST and not outcomes[0][1].reward.any()
    np.testing.assert_array_equal(env.action_spec.maximum, np.asarray(env.choices) - 1)


@pytest.mark.parametrize("env", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_jit_changes_nothing(env):
    state, timestep = env.reset(KEY)
    actions = jnp.zeros(env.num_agents, jnp.int32)
    plain = env.step(state, actions)
    compiled = step(env, state, actions)
    for one, two in zip(jax.tree.leaves(plain), jax.tree.leaves(compiled), strict=True):
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, two = jax.random.key_data(one), jax.random.key_data(two)
        np.testing.assert_allclose(one, two, rtol=1e-6)
    assert jax.tree.structure(timestep) == jax.tree.structure(plain[1])


@pytest.mark.parametrize("env", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_out_of_range_actions_are_clipped(env):
    state, _ = env.reset(KEY)
    low, high = np.full(env.num_agents, -7, np.int32), np.full(env.num_agents, 99, np.int32)
    np.testing.assert_array_equal(env.step(state, jnp.asarray(low))[0].last_action, 0)
    np.testing.assert_array_equal(env.step(state, jnp.asarray(high))[0].last_action, np.asarray(env.choices) - 1)


@pytest.mark.parametrize("env", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_codes_stand_for_the_views_and_recover_the_outcome(env):
    state, timestep = env.reset(KEY)
    table = env.code_observations()
    assert table.shape == (env.num_codes, *env.observation_shape) and table.dtype == np.float32
    np.testing.assert_array_equal(table[env.observation_code(state)], timestep.observation.agents_view)
    agents = jnp.arange(env.num_agents)
    for state, actions, timestep in random_play(env, 40):
        codes = env.observation_code(state)
        assert codes.dtype == jnp.uint8
        np.testing.assert_array_equal(table[codes], timestep.observation.agents_view)
        outcome = env.code_outcome(codes, agents)
        if env.observation_shape == (1,):
            assert outcome is None
        else:
            np.testing.assert_array_equal(outcome[0], actions)
            np.testing.assert_allclose(outcome[1], timestep.reward, rtol=1e-6)
            assert outcome[0].dtype == jnp.int32 and outcome[1].dtype == jnp.float32


def test_code_outcome_is_elementwise_on_any_shape():
    env = ENVIRONMENTS["uneven"]
    codes = jnp.arange(1, 13).reshape(3, 4)
    actions, rewards = env.code_outcome(codes, jnp.full((3, 4), 1))
    # Agent 1 has 3 actions against 4 joint actions of agents 0 and 2.
    np.testing.assert_array_equal(actions, np.repeat([0, 1, 2], 4).reshape(3, 4))
    np.testing.assert_array_equal(rewards, np.moveaxis(UNEVEN[1], 1, 0).reshape(3, 4))


@pytest.mark.parametrize("make", [MatrixGame, PublicGoods])
def test_too_many_views_are_not_enumerated(make):
    big = PublicGoods(players=128) if make is PublicGoods else MatrixGame(game="custom", payoff=np.zeros((2, 16, 16)))
    assert big.num_codes is None
    assert PublicGoods(players=127).num_codes == 255


# --- endings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [MatrixGame, PublicGoods])
def test_one_shot_terminates_with_its_reward(make):
    env = make(horizon=1)
    state, _ = env.reset(KEY)
    _, timestep = env.step(state, jnp.ones(env.num_agents, jnp.int32))
    assert timestep.last() and not timestep.discount.any()
    assert (np.asarray(timestep.reward) == 1.0).all()
    assert env.fixed_horizon == 1 and not env.endless


@pytest.mark.parametrize("make", [MatrixGame, PublicGoods])
def test_repeated_truncates_at_the_horizon_with_discount_one(make):
    env = make(horizon=4)
    steps = [timestep for _, _, timestep in random_play(env, 4)]
    assert [int(step.step_type) for step in steps] == [1, 1, 1, 2]
    assert all((np.asarray(step.discount) == 1).all() for step in steps)
    assert [int(step.observation.step_count) for step in steps] == [1, 2, 3, 4]
    assert env.fixed_horizon == 4


def test_endless_never_ends_and_draws_nothing():
    env = MatrixGame(horizon=None)
    assert env.endless and env.fixed_horizon is None
    assert env.reset(KEY)[0].key is None
    assert not any(timestep.last() for _, _, timestep in random_play(env, 30))


def geometric_lengths(env, num_envs, num_steps):
    """Length of each episode (num_steps + 1 if it did not end), whether it terminated, and its summed reward."""

    def play(key):
        def body(carry, _):
            state, running = carry
            state, timestep = env.step(state, jnp.zeros(env.num_agents, jnp.int32))
            outcome = (running, timestep.reward[0] * running, timestep.last() & running & (timestep.discount[0] == 0))
            return (state, running & ~timestep.last()), outcome

        return jax.lax.scan(body, (env.reset(key)[0], True), None, length=num_steps)[1]

    running, rewards, terminated = jax.jit(jax.vmap(play))(jax.random.split(KEY, num_envs))
    return running.sum(axis=1), terminated.any(axis=1), rewards.sum(axis=1)


@pytest.mark.parametrize("make", [MatrixGame, PublicGoods])
def test_geometric_ending_gives_the_discounted_return(make):
    env = make(horizon=None, continuation=0.75)
    assert not env.endless and env.fixed_horizon is None
    lengths, terminated, returns = geometric_lengths(env, 4000, 80)
    # Length is geometric with mean 4 and variance 0.75 / 0.25^2 = 12.
    assert abs(float(lengths.mean()) - 4) < 4 * (12 / 4000) ** 0.5
    assert bool(terminated.all())
    pay = float(env.step(env.reset(KEY)[0], jnp.zeros(env.num_agents, jnp.int32))[1].reward[0])
    np.testing.assert_allclose(returns, pay * np.asarray(lengths), rtol=1e-5)


def test_geometric_ending_is_cut_at_the_horizon_by_truncation():
    env = MatrixGame(horizon=3, continuation=1.0)
    steps = [timestep for _, _, timestep in random_play(env, 3)]
    assert [bool(step.last()) for step in steps] == [False, False, True]
    assert (np.asarray(steps[-1].discount) == 1).all()
    stopped = MatrixGame(horizon=3, continuation=0.0)
    _, timestep = stopped.step(stopped.reset(KEY)[0], jnp.zeros(2, jnp.int32))
    assert timestep.last() and not timestep.discount.any()


# --- matrix games: rewards and views -----------------------------------------------------------


@pytest.mark.parametrize("name", sorted(GAMES))
def test_rewards_equal_the_table_exactly(name):
    env = MatrixGame(game=name)
    state, _ = env.reset(KEY)
    joint = np.array(list(itertools.product(*map(range, env.choices))), np.int32)
    rewards = jax.jit(jax.vmap(lambda actions: env.step(state, actions)[1].reward))(jnp.asarray(joint))
    np.testing.assert_array_equal(rewards, np.stack([GAMES[name][(slice(None), *a)] for a in joint]))


def test_uneven_three_player_table():
    env = ENVIRONMENTS["uneven"]
    state, timestep = env.reset(KEY)
    np.testing.assert_array_equal(timestep.observation.action_mask, [[1, 1, 0], [1, 1, 1], [1, 1, 0]])
    _, timestep = env.step(state, jnp.array([1, 2, 0]))
    # Row-major index of (1, 2, 0) in 2 x 3 x 2 is 10.
    np.testing.assert_array_equal(timestep.reward, [10, 110, 210])
    # Own action first: agent 0 (1 | 2, 0) -> 10; agent 1 (2 | 1, 0) -> 8 + 2; agent 2 (0 | 1, 2) -> 0 + 5.
    np.testing.assert_array_equal(np.argmax(timestep.observation.agents_view, axis=1), [11, 11, 6])
    np.testing.assert_array_equal(timestep.observation.agents_view.sum(axis=1), 1)


def test_each_agent_sees_the_outcome_from_its_own_side():
    env = MatrixGame()
    state, timestep = env.reset(KEY)
    np.testing.assert_array_equal(timestep.observation.agents_view, np.eye(5)[[0, 0]])
    # C against D: agent 0 sees CD (2), agent 1 sees DC (3).
    state, timestep = env.step(state, jnp.array([0, 1]))
    np.testing.assert_array_equal(timestep.observation.agents_view, np.eye(5)[[2, 3]])
    np.testing.assert_array_equal(timestep.reward, [0, 5])
    np.testing.assert_array_equal(env.global_state(state), np.eye(5)[2])
    assert float(timestep.extras["metrics"]["cooperation_rate"]) == 0.5
    assert float(timestep.extras["metrics"]["welfare"]) == 2.5


@given(st.lists(st.integers(0, 1), min_size=2, max_size=2), st.lists(st.floats(-9, 9), min_size=4, max_size=4))
@settings(max_examples=25, deadline=None)
def test_swapping_the_agents_swaps_rewards_and_views(actions, letters):
    reward, sucker, temptation, punishment = letters
    env = MatrixGame(
        game="symmetric_2x2", reward=reward, sucker=sucker, temptation=temptation, punishment=punishment, horizon=None
    )
    state, _ = env.reset(KEY)
    _, one = env.step(state, jnp.array(actions))
    _, two = env.step(state, jnp.array(actions[::-1]))
    np.testing.assert_array_equal(one.reward, two.reward[::-1])
    np.testing.assert_array_equal(one.observation.agents_view, two.observation.agents_view[::-1])
    np.testing.assert_array_equal(one.reward[0], np.float32(letters[2 * actions[0] + actions[1]]))


def test_letters_and_custom_table_give_the_named_game():
    spelled = MatrixGame(game="symmetric_2x2", reward=3.0, sucker=0.0, temptation=5.0, punishment=1.0)
    nested = MatrixGame(game="custom", payoff=GAMES["prisoners_dilemma"].tolist())
    for env in (spelled, nested):
        np.testing.assert_array_equal(env.payoff_tensor, MatrixGame().payoff_tensor)


# --- stacking and rollouts ---------------------------------------------------------------------


def test_one_program_runs_a_stack_of_games_with_different_payoffs():
    temptations = (3.5, 5.0, 8.0)
    base = MatrixGame(game="symmetric_2x2", reward=3.0, sucker=0.0, temptation=5.0, punishment=1.0, continuation=0.9)
    cells = [dataclasses.replace(base, temptation=temptation) for temptation in temptations]
    stack = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *cells)

    def first_reward(env):
        return env.step(env.reset(KEY)[0], jnp.array([1, 0]))[1].reward

    np.testing.assert_array_equal(jax.vmap(first_reward)(stack), [[t, 0] for t in temptations])


def test_one_program_runs_a_stack_of_custom_tables():
    tables = [GAMES[name] for name in ("climbing", "penalty", "non_monotone")]
    cells = [MatrixGame(game="custom", payoff=table) for table in tables]
    stack = jax.tree.map(lambda *leaves: np.stack(leaves), *cells)
    rewards = jax.vmap(lambda env: env.step(env.reset(KEY)[0], jnp.array([0, 1]))[1].reward)(stack)
    np.testing.assert_array_equal(rewards, [table[:, 0, 1] for table in tables])


@pytest.mark.parametrize("env", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_placeholders_survive_tree_operations(env):
    axes = jax.tree.map(lambda leaf: None, env)
    assert type(axes) is type(env)
    shapes = jax.tree.map(np.shape, env)
    assert type(shapes) is type(env)


# --- public goods ------------------------------------------------------------------------------


@jax.jit
def public_goods_reward(env, actions):
    return env.step(env.reset(KEY)[0], actions)[1].reward


@given(
    st.sampled_from([2, 5]),
    st.floats(0, 6),
    st.floats(-2, 5),
    st.floats(0.25, 2),
    st.floats(0, 8),
    st.floats(-3, 3),
    st.integers(0, 31),
)
@settings(max_examples=25, deadline=None)
def test_public_goods_pay_the_formula(players, multiplier, endowment, exponent, threshold, bonus, bits):
    actions = np.array([bits >> i & 1 for i in range(players)], np.int32)
    env = PublicGoods(players, multiplier, endowment, exponent, threshold, bonus, None)
    reward = public_goods_reward(env, jnp.asarray(actions))
    contributors = int((actions == 0).sum())
    shared = multiplier / players * contributors**exponent + (bonus if contributors >= np.float32(threshold) else 0)
    expected = endowment - (actions == 0) + (shared if contributors else (bonus if np.float32(threshold) <= 0 else 0))
    np.testing.assert_allclose(reward, expected, rtol=1e-4, atol=1e-4)


def test_public_goods_view():
    env = PublicGoods(players=4)
    state, timestep = env.reset(KEY)
    np.testing.assert_array_equal(timestep.observation.agents_view, [[1, 0, 0, 0]] * 4)
    state, timestep = env.step(state, jnp.array([0, 1, 0, 1]))
    third = np.float32(1) / np.float32(3)
    expected = [[0, 1, 0, third], [0, 0, 1, 2 * third], [0, 1, 0, third], [0, 0, 1, 2 * third]]
    np.testing.assert_array_equal(timestep.observation.agents_view, np.array(expected, np.float32))
    np.testing.assert_array_equal(env.global_state(state), [0, 1, 0, 1, 0])


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "fields", "message"),
    [
        (MatrixGame, {"game": "prisoners_dilema"}, "did you mean 'prisoners_dilemma'"),
        (MatrixGame, {"observe": "everything"}, "observe='everything'"),
        (MatrixGame, {"horizon": 0}, "horizon=0: must be >= 1"),
        (MatrixGame, {"continuation": 1.5}, "continuation=1.5"),
        (MatrixGame, {"reward": 3.0}, "reward is given, but game='prisoners_dilemma'"),
        (MatrixGame, {"payoff": np.zeros((2, 2, 2))}, "payoff is given, but game='prisoners_dilemma'"),
        (MatrixGame, {"game": "custom", "payoff": np.zeros((2, 2))}, r"payoff has shape \(2, 2\)"),
        (MatrixGame, {"game": "custom", "payoff": [[1.0, 2.0], [3.0]]}, "nested lists"),
        (MatrixGame, {"game": "custom", "payoff": np.full((2, 2, 2), np.nan)}, "finite"),
        (MatrixGame, {"game": "symmetric_2x2", "reward": float("nan")}, "reward=nan"),
        (PublicGoods, {"players": 1}, "players=1: must be >= 2"),
        (PublicGoods, {"multiplier": -1.0}, "multiplier=-1.0"),
        (PublicGoods, {"exponent": 0.0}, "exponent=0.0: must be > 0"),
        (PublicGoods, {"threshold": -1.0}, "threshold=-1.0"),
        (PublicGoods, {"horizon": -3}, "horizon=-3"),
    ],
)
def test_bad_fields_are_refused_when_the_game_is_made(make, fields, message):
    with pytest.raises(ValueError, match=message):
        make(**fields)


def test_wrong_types_are_refused():
    wrong: dict[str, Any] = {"horizon": 2.5, "players": "4"}
    with pytest.raises(TypeError, match=r"horizon=2\.5: must be an integer"):
        MatrixGame(horizon=wrong["horizon"])
    with pytest.raises(TypeError, match="players='4'"):
        PublicGoods(players=wrong["players"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"game": "custom"}, "needs payoff"),
        ({"game": "symmetric_2x2", "reward": 1.0}, "needs all of reward, sucker, temptation, punishment"),
        ({"game": "custom", "payoff": np.zeros((4, 2, 2, 2))}, r"payoff has shape \(4, 2, 2, 2\)"),
    ],
)
def test_missing_payoffs_are_named_on_first_use(fields, message):
    with pytest.raises(ValueError, match=message):
        MatrixGame(**fields).reset(KEY)


# --- pictures ----------------------------------------------------------------------------------


def test_the_picture_frames_the_joint_action_played_last():
    env = MatrixGame(game="climbing")
    state, _ = env.reset(KEY)
    before = env.render(state)
    assert before.shape == (3 * CELL, 3 * CELL, 3) and before.dtype == np.uint8
    state, _ = env.step(state, jnp.array([2, 1]))
    changed = np.argwhere((env.render(state) != before).any(axis=-1))
    assert changed.min(axis=0).tolist() == [2 * CELL, CELL]
    assert changed.max(axis=0).tolist() == [3 * CELL - 1, 2 * CELL - 1]
    middle = np.s_[2 * CELL + FRAME : 3 * CELL - FRAME, CELL + FRAME : 2 * CELL - FRAME]
    np.testing.assert_array_equal(env.render(state)[middle], before[middle])


def test_stripes_show_each_agents_payoff():
    picture = MatrixGame(game="matching_pennies").render(MatrixGame(game="matching_pennies").reset(KEY)[0])
    left, right = picture[CELL // 2, CELL // 4], picture[CELL // 2, 3 * CELL // 4]
    # At (0, 0) agent 0 wins (red) and agent 1 loses (blue).
    assert left[0] > left[2] and right[2] > right[0]


def test_picture_of_public_goods():
    env = PublicGoods(players=3)
    state, _ = env.reset(KEY)
    idle = env.render(state)
    state, _ = env.step(state, jnp.array([0, 1, 1]))
    picture = env.render(state)
    assert picture.shape == idle.shape == (2 * CELL, 3 * CELL, 3) and picture.dtype == np.uint8
    colours = [tuple(picture[CELL // 2, CELL // 2 + i * CELL]) for i in range(3)]
    assert colours[0] != colours[1] == colours[2]
    assert tuple(idle[CELL // 2, CELL // 2]) not in colours
