"""Cross-play matrices and exploitability, in games whose values are known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import marl_bench
from marl_bench import check_environment
from marl_bench.cross_play import Against, Mixed, Party, cross_play, exploitability, halves, stacked
from marl_bench.envs.closed_forms.equilibria import nash_gap
from marl_bench.envs.games import GAMES
from marl_bench.learner import Learner

STEPS = 4


@struct.dataclass
class Lottery(Learner):
    """Plays given odds [N, A], whatever it sees; remembers how often it acted."""

    def initial_memory(self, num_agents):
        return jnp.zeros(num_agents, jnp.int32)

    def act(self, params, memory, observation, key, greedy=False):
        drawn = jax.random.categorical(key, jnp.log(params))
        return jnp.where(greedy, jnp.argmax(params, -1), drawn).astype(jnp.int32), memory + 1


def game(name, **fields):
    return marl_bench.make("matrix_game", game=name, observe="constant", horizon=STEPS, **fields)


def pure(*actions, count=3):
    return jnp.eye(count)[jnp.array(actions)]


# --- cross-play ----------------------------------------------------------------------------------------------


def test_pairs_earn_what_the_table_says():
    env, table = game("rock_paper_scissors"), GAMES["rock_paper_scissors"]
    everyone = stacked([Party(Lottery(), pure(a, a)) for a in range(3)])
    two = jax.tree.map(lambda leaf: leaf[1:], everyone)
    play = jax.jit(lambda rows, columns, key: cross_play(env, rows, columns, key, 4, True))
    mean, error = play(everyone, two, jax.random.key(0))
    assert mean.shape == error.shape == (3, 2, 2)
    np.testing.assert_allclose(mean, STEPS * np.moveaxis(table, 0, -1)[:, 1:])
    np.testing.assert_array_equal(error, 0)


def test_standard_error_is_that_of_the_episodes():
    env = game("matching_pennies")
    fair = Party(Lottery(), jnp.full((1, 2, 2), 0.5))
    mean, error = cross_play(env, fair, fair, jax.random.key(1), 2000, False)
    # A step earns +-1, so a return has the standard deviation sqrt(STEPS).
    np.testing.assert_allclose(error, np.sqrt(STEPS / 2000), rtol=0.05)
    assert (np.abs(mean) < 5 * error).all()


def test_seats_say_who_plays_whom():
    assert halves(2) == (0, 1) and halves(5) == (0, 0, 1, 1, 1)
    env = marl_bench.make("public_goods", players=3, horizon=2)
    first, second = Party(Lottery(), pure(0, 0, 0, count=2)), Party(Lottery(), pure(1, 1, 1, count=2))
    mixed = Mixed((first, second), (1, 0, 1))
    observation = env.reset(jax.random.key(0))[1].observation
    action, memory = mixed.act((), mixed.initial_memory(3), observation, jax.random.key(0), True)
    np.testing.assert_array_equal(action, [1, 0, 1])
    np.testing.assert_array_equal(memory, np.ones((2, 3)))
    stack = lambda party: jax.tree.map(lambda leaf: leaf[None], party)  # noqa: E731
    earned = [
        cross_play(env, stack(first), stack(second), jax.random.key(0), 1, True, seats)[0][0, 0]
        for seats in ((1, 0, 1), (0, 1, 1))
    ]
    # The one contributor earns less than the two others, wherever it sits.
    assert earned[0][1] < earned[0][0] and earned[1][0] < earned[1][1]
    np.testing.assert_allclose(earned[0][jnp.array([1, 0, 2])], earned[1])
    for seats in ((0, 1), (0, 0, 0), (0, 1, 2)):
        with pytest.raises(ValueError, match="must be 3 entries"):
            cross_play(env, stack(first), stack(second), jax.random.key(0), 1, True, seats)


def test_only_policies_of_one_kind_are_stacked():
    first = Party(Lottery(), pure(0, 0))
    with pytest.raises(ValueError, match="policies 1, 2 differ from policy 0"):
        stacked([first, Party(Lottery(), pure(0, 0, count=4)), Party(marl_bench.make_learner("ippo"), pure(0, 0))])


def test_continuous_policies_meet():
    env = marl_bench.make("spread", agents=2, actions="continuous")
    learner = marl_bench.make_learner("maddpg", hidden_sizes=(4,), num_envs=1, num_steps=1, buffer_steps=1)
    params = jax.jit(jax.vmap(lambda key: learner.init(key, env).params))(jax.random.split(jax.random.key(0), 2))
    observation = env.reset(jax.random.key(0))[1].observation
    alone = [jax.tree.map(lambda leaf, k=k: leaf[k], params) for k in range(2)]
    mixed = Mixed((Party(learner, alone[0]), Party(learner, alone[1])), (0, 1))
    memory = learner.initial_memory(2)

    @jax.jit
    def act():
        own = [learner.act(alone[seat], memory, observation, jax.random.key(0), True)[0] for seat in range(2)]
        return mixed.act((), (memory, memory), observation, jax.random.key(0), True)[0], own

    together, own = act()
    for seat in range(2):
        np.testing.assert_array_equal(together[seat], own[seat][seat])
        assert (own[seat] != together).any()


# --- one player against a frozen one -------------------------------------------------------------------------


@pytest.mark.parametrize("side", [0, 1])
def test_the_other_player_is_the_frozen_policy(side):
    env = marl_bench.make("matrix_game", game="rock_paper_scissors", horizon=3)
    world = Against(env, Party(Lottery(), pure(1, 2)), side, greedy=True)
    state, timestep = world.reset(jax.random.key(0))
    both = env.reset(jax.random.key(0))[1].observation.agents_view
    np.testing.assert_array_equal(timestep.observation.agents_view, both[side : side + 1])
    for step in range(3):
        state, timestep = world.step(state, jnp.array([0]))
        joint = [0, 2] if side == 0 else [1, 0]
        np.testing.assert_array_equal(state.inner.last_action, joint)
        np.testing.assert_array_equal(timestep.reward, GAMES["rock_paper_scissors"][side][tuple(joint)][None])
        np.testing.assert_array_equal(state.memory, step + 1)
    assert timestep.last() and timestep.discount.tolist() == [1.0]


def test_the_world_of_one_player_keeps_the_contract():
    env = marl_bench.make("matrix_game", game="battle_of_the_sexes", horizon=3)
    assert check_environment(Against(env, Party(Lottery(), pure(1, 0, count=2)), 1)) == []


def test_the_view_belongs_to_the_side():
    env = marl_bench.make("spread", agents=2, actions="continuous")
    for side in range(2):
        world = Against(env, Party(Lottery(), pure(0, 0)), side)
        assert world.action_spec.shape == (1, 2) and world.num_agents == 1
        state, timestep = world.reset(jax.random.key(3))
        expected = state.observation.agents_view[side]
        np.testing.assert_array_equal(timestep.observation.agents_view[0], expected)
        np.testing.assert_array_equal(world.global_state(state), env.global_state(state.inner))


def test_worlds_that_are_no_duel_are_refused():
    party = Party(Lottery(), pure(0, 0, 0))
    with pytest.raises(ValueError, match="Spread has 3 agents: exploitability is for two-player worlds"):
        Against(marl_bench.make("spread"), party, 0)
    with pytest.raises(ValueError, match="side=2: must be between 0 and 1"):
        Against(game("matching_pennies"), party, 2)


# --- exploitability ------------------------------------------------------------------------------------------


def measured(env, params, updates=12, episodes=512):
    """Exploitability of each of a stack of lotteries [K, 2, A]."""
    learner = marl_bench.make_learner(
        "ippo", hidden_sizes=(8,), num_envs=32, num_steps=STEPS, minibatches=1, learning_rate=0.05, discount=0.0
    )
    key = jax.random.key(5)
    run = lambda params: exploitability(env, Party(Lottery(), params), learner, key, updates, episodes)  # noqa: E731
    return jax.jit(jax.vmap(run))(params)


def test_exploitability_is_the_nash_gap_of_matrix_games():
    env, table = game("rock_paper_scissors"), GAMES["rock_paper_scissors"]
    odds = jnp.array(
        [
            [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]],
            [[1 / 3, 1 / 3, 1 / 3], [1 / 3, 1 / 3, 1 / 3]],
            [[0.1, 0.8, 0.1], [0.5, 0.1, 0.4]],
        ]
    )
    found = measured(env, odds)
    gaps = np.array([nash_gap(x, y, *table) for x, y in odds]) * STEPS
    np.testing.assert_allclose(2 * found.exploitability, gaps, atol=0.4)
    # Rock alone: paper wins every step, in either place, and two rocks earn nothing.
    np.testing.assert_allclose(found.gain[0], STEPS)
    np.testing.assert_array_equal(found.value[0], 0)


@pytest.mark.slow
def test_fair_pennies_cannot_be_exploited_but_biased_ones_can():
    odds = jnp.array([[[0.5, 0.5], [0.5, 0.5]], [[0.9, 0.1], [0.5, 0.5]]])
    found = measured(game("matching_pennies"), odds)
    np.testing.assert_allclose(found.exploitability[0] / STEPS, 0.0, atol=0.1)
    # Only the player who meets the biased coin gains: 0.9 - 0.1 a step.
    np.testing.assert_allclose(found.gain[1] / STEPS, [0.0, 0.8], atol=0.15)
