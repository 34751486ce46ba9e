"""Small cooperative worlds: two_step, team_game, equal_line, consensus."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import marl_bench
from marl_bench import check_environment
from marl_bench.envs.closed_forms import equilibria
from marl_bench.envs.consensus import Consensus, uniform_play_return
from marl_bench.envs.consensus import State as ConsensusState
from marl_bench.envs.equal_line import rules, scripted
from marl_bench.envs.equal_line.equal_line import EqualLine
from marl_bench.envs.games import GAMES
from marl_bench.envs.team_game import TeamGame
from marl_bench.envs.two_step import TwoStep
from marl_bench.scripted import random_policy

KEY = jax.random.key(0)


def returns(env, policy, num_episodes, num_steps, discount=1.0, seed=1):
    """[num_episodes] returns of agent 0 (all agents are paid alike)."""

    def play(key):
        key_reset, key_play = jax.random.split(key)

        def body(carry, key):
            state, timestep = carry
            state, timestep = env.step(state, policy(state, timestep.observation, key))
            return (state, timestep), timestep.reward[0]

        rewards = jax.lax.scan(body, env.reset(key_reset), jax.random.split(key_play, num_steps))[1]
        return jnp.sum(rewards * discount ** jnp.arange(num_steps))

    return np.asarray(jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(seed), num_episodes)))


@pytest.mark.parametrize(
    "env",
    [
        TwoStep(),
        TeamGame(game="climbing", observe="counts", continuation=0.9),
        EqualLine(players=3, horizon=9, agent_id=True),
        EqualLine(players=2, horizon=5, timeout_is_terminal=True),
        Consensus(),
        marl_bench.make("climbing"),
        marl_bench.make("st_plane", sucker=-0.2),
    ],
    ids=["two_step", "team_game", "line", "line_terminal", "consensus", "climbing", "plane"],
)
def test_conforms(env):
    assert check_environment(env) == []


# --- two_step ------------------------------------------------------------------------------------


@pytest.mark.parametrize("branch", [0, 1])
@pytest.mark.parametrize("joint", list(itertools.product(range(2), repeat=2)), ids=str)
def test_two_step_pays_the_table_of_the_chosen_branch(branch, joint):
    env = TwoStep()
    state, timestep = env.reset(KEY)
    np.testing.assert_array_equal(timestep.observation.agents_view, [[1, 0, 0]] * 2)
    # Agent 1's first action is ignored.
    state, timestep = env.step(state, jnp.array([branch, 1 - branch]))
    np.testing.assert_array_equal(timestep.observation.agents_view, [np.eye(3)[1 + branch]] * 2)
    assert not timestep.last() and not timestep.reward.any()
    state, timestep = env.step(state, jnp.array(joint))
    expected = 7 if branch == 0 else [[0, 1], [1, 8]][joint[0]][joint[1]]
    np.testing.assert_array_equal(timestep.reward, [expected] * 2)
    assert timestep.last() and not timestep.discount.any()
    np.testing.assert_array_equal(env.global_state(state), np.eye(3)[1 + branch])


def test_two_step_best_additive_value_prefers_the_safe_branch():
    # Least squares of Q(a, b) = u_a + v_b over branch B's table: its greedy choice is worth 6.5 < 7, so VDN stays safe.
    design = np.array([[1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1]], float)
    fitted = design @ np.linalg.lstsq(design, np.array([0, 1, 1, 8.0]), rcond=None)[0]
    assert fitted.max() == pytest.approx(6.5) and fitted.max() < 7
    env = TwoStep()
    best = {name: returns(env, policy, 1, 2)[0] for name, policy in env.scripted_policies().items()}
    assert best == {"risky": 8, "safe": 7}


# --- team_game -----------------------------------------------------------------------------------


def table(env):
    """Payoffs of a team game at every joint action."""
    joint = np.array(list(itertools.product(range(env.actions), repeat=env.players)), np.int32)
    paid = jax.jit(jax.vmap(env.payoffs))(jnp.asarray(joint))
    return np.asarray(paid).T.reshape(env.players, *(env.actions,) * env.players)


def test_two_agents_play_the_original_games():
    np.testing.assert_array_equal(table(TeamGame(game="climbing", players=2)), GAMES["climbing"])
    np.testing.assert_array_equal(table(TeamGame(players=2, actions=2)), GAMES["coordination"])


@pytest.mark.parametrize("players", [2, 3, 4])
def test_climbing_keeps_its_equilibria_with_more_agents(players):
    payoff = table(TeamGame(game="climbing", players=players))
    assert (payoff == payoff[0]).all() and payoff.max() == 11
    pure = [tuple(joint) for joint in np.argwhere(np.asarray(equilibria.pure_equilibria(payoff)))]
    assert (0,) * players in pure and (1,) * players in pure and (2,) * players not in pure


def test_matching_is_hard_to_find_by_chance():
    payoff = table(TeamGame(players=4, actions=3))
    assert payoff[0].mean() == pytest.approx(3.0**-3)


def test_many_agents_cost_nothing_exponential():
    env = TeamGame(game="climbing", players=200)
    state, _ = env.reset(KEY)
    assert (np.asarray(env.step(state, jnp.zeros(200, jnp.int32))[1].reward) == 11).all()
    assert (np.asarray(env.step(state, jnp.zeros(200, jnp.int32).at[7].set(1))[1].reward) == -30).all()


def test_team_game_counts_the_others():
    env = TeamGame(players=4, observe="counts")
    state, timestep = env.reset(KEY)
    np.testing.assert_array_equal(timestep.observation.agents_view, [[1, 0, 0, 0, 0, 0, 0]] * 4)
    state, timestep = env.step(state, jnp.array([0, 2, 2, 1]))
    third = 1 / 3
    np.testing.assert_allclose(timestep.observation.agents_view[0], [0, 1, 0, 0, 0, third, 2 * third], rtol=1e-6)
    np.testing.assert_allclose(timestep.observation.agents_view[1], [0, 0, 0, 1, third, third, third], rtol=1e-6)


# --- equal_line ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("players", "length"), [(2, 10), (5, 10), (6, 12), (24, 48)])
def test_length_of_the_line(players, length):
    assert EqualLine(players=players).length == length


def test_moves_clip_and_pay_the_growth_of_the_gap():
    env = EqualLine(players=3)
    state, _ = env.reset(KEY)
    state = state.replace(x=jnp.array([0.2, 1.0, 1.9]))
    # -1 is clipped at 0; +0.5 and +1 pass on: 0, 1.5, 2.9 -> smallest gap 1.4.
    state, timestep = env.step(state, jnp.array([5, 9, 10]))
    np.testing.assert_allclose(state.x, [0.0, 1.5, 2.9], atol=1e-6)
    np.testing.assert_allclose(timestep.reward, [10 * 2 / 10 * 1.4] * 3, rtol=1e-5)
    # Agent 1 overtakes agent 2 (2.5, 2.4): the gap falls to 0.1 and is charged.
    state, timestep = env.step(state, jnp.array([0, 10, 4]))
    np.testing.assert_allclose(timestep.reward, [2 * (0.1 - 1.4)] * 3, rtol=1e-4)
    np.testing.assert_allclose(timestep.observation.agents_view, [np.array([0.0, 2.5, 2.4]) / 10] * 3, rtol=1e-5)


@pytest.mark.parametrize("players", [2, 6])
def test_return_telescopes_to_the_last_gap(players):
    env = EqualLine(players=players)
    policy = random_policy(env)

    def play(key):
        key_reset, key_play = jax.random.split(key)

        def body(carry, key):
            state, timestep = carry
            state, timestep = env.step(state, policy(state, timestep.observation, key))
            return (state, timestep), timestep.reward[0]

        (state, _), rewards = jax.lax.scan(body, env.reset(key_reset), jax.random.split(key_play, 50))
        return rewards.sum(), rules.smallest_gap(state.x)

    total, gap = jax.jit(jax.vmap(play))(jax.random.split(KEY, 64))
    np.testing.assert_allclose(total, 10 * (players - 1) / env.length * np.asarray(gap), atol=1e-4)


SLOT = {3: (9.99, 9.49), 6: (9.98, 9.20), 24: (9.96, 6.39)}
"""Published notes: return of the slot policy, and its value at discount 0.99 (2,000 episodes, standard error <= 0.05)."""


@pytest.mark.parametrize("players", sorted(SLOT))
def test_slot_policy_earns_the_reference_returns(players):
    env = EqualLine(players=players)
    plain, discounted = SLOT[players]
    assert returns(env, scripted.slot, 200, 50).mean() == pytest.approx(plain, abs=0.02)
    assert returns(env, scripted.slot_by_rank, 200, 50, discount=0.99).mean() == pytest.approx(discounted, abs=0.05)


@pytest.mark.parametrize(
    ("players", "uniform", "deviation", "stay", "noisy"),
    [(2, 2.39, 1.92, 0.66, 9.86), (6, 0.73, 0.76, 0.24, 7.99)],
)
def test_random_play_earns_the_reference_returns(players, uniform, deviation, stay, noisy):
    env, episodes = EqualLine(players=players), 1000
    # Both sides are means of samples: ours of 4,000 episodes, the reference of 2,000.
    error = deviation * (1 / 4000 + 1 / 2000) ** 0.5
    assert returns(env, random_policy(env), 4000, 50).mean() == pytest.approx(uniform, abs=4 * error)
    assert returns(env, scripted.stay, episodes, 50).mean() == pytest.approx(stay, abs=0.06)
    mixed = returns(env, scripted.noisy(scripted.slot_by_rank, 0.3), episodes, 50)
    error = float(mixed.std()) * (1 / episodes + 1 / 2000) ** 0.5
    assert mixed.mean() == pytest.approx(noisy, abs=4 * error + 0.005)


@pytest.mark.parametrize("terminal", [False, True])
def test_the_end_is_a_time_limit_unless_asked_otherwise(terminal):
    env = EqualLine(players=2, horizon=2, timeout_is_terminal=terminal)
    state, _ = env.reset(KEY)
    state, first = env.step(state, jnp.zeros(2, jnp.int32))
    _, second = env.step(state, jnp.zeros(2, jnp.int32))
    assert not first.last() and second.last()
    np.testing.assert_array_equal(second.discount, [0, 0] if terminal else [1, 1])


# --- consensus -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "actions", "reward"),
    [
        ((0, 1, 2), (2, 0, 1), 1.0),
        ((0, 1, 2), (1, 0, 2), 1 / 3),
        ((0, 1, 2), (0, 1, 0), 0.1),
        ((1, 1, 0), (0, 2, 2), 2 / 3),
    ],
)
def test_consensus_pays_the_share_in_the_middle(cells, actions, reward):
    env = Consensus()
    state = ConsensusState(jnp.array(cells, jnp.int8), jnp.int32(0))
    state, timestep = env.step(state, jnp.array(actions))
    np.testing.assert_allclose(timestep.reward, [reward] * 3, rtol=1e-6)
    assert timestep.last() and not timestep.discount.any()
    np.testing.assert_array_equal(timestep.observation.agents_view[:, 0], state.cell)


@pytest.mark.parametrize(("players", "expected"), [(2, 0.3778), (3, 0.3630), (5, 0.3465), (10, 0.3351)])
def test_consensus_returns_of_uniform_and_idle_play(players, expected):
    assert uniform_play_return(players) == pytest.approx(expected, abs=5e-5)
    env = Consensus(players=players)
    for policy in (random_policy(env), env.scripted_policies()["stay"]):
        found = returns(env, policy, 20_000, 1)
        assert found.mean() == pytest.approx(expected, abs=4 * float(found.std()) / len(found) ** 0.5)
    assert (returns(env, env.scripted_policies()["middle"], 256, 1) == 1).all()


def test_a_lone_agent_among_many_is_worse_than_nobody():
    env = Consensus(players=11)
    cells = ConsensusState(jnp.zeros(11, jnp.int8), jnp.int32(0))
    lone = env.step(cells, jnp.zeros(11, jnp.int32).at[3].set(2))[1].reward[0]
    nobody = env.step(cells, jnp.zeros(11, jnp.int32))[1].reward[0]
    assert float(lone) == pytest.approx(1 / 11) and float(nobody) == pytest.approx(0.1) and lone < nobody


# --- all -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("stag_hunt", "matrix_game"),
        ("penalty_25", "matrix_game"),
        ("climbing_5", "team_game"),
        ("equal_line_10", "equal_line"),
    ],
)
def test_presets_name_their_world(name, base):
    assert isinstance(marl_bench.make(name), marl_bench.registry.resolve(base, "environment"))


@pytest.mark.parametrize(
    "env", [TwoStep(), TeamGame(players=3), EqualLine(), Consensus()], ids=lambda e: type(e).__name__
)
def test_pictures_change_with_the_state(env):
    state, _ = env.reset(KEY)
    before = env.render(state)
    # Agents that are not in the middle, or not where they were, move on.
    state, _ = env.step(state, jnp.arange(env.num_agents) % 2 + (10 if isinstance(env, EqualLine) else 1))
    after = env.render(state)
    assert before.dtype == np.uint8 and before.shape == after.shape and before.shape[2] == 3
    assert (before != after).any()


@pytest.mark.parametrize(
    ("make", "fields", "error", "message"),
    [
        (TeamGame, {"game": "climbing", "actions": 4}, ValueError, "game='climbing' has 3"),
        (TeamGame, {"game": "climb"}, ValueError, "did you mean 'climbing'"),
        (TeamGame, {"players": 1}, ValueError, "players=1"),
        (EqualLine, {"players": 1}, ValueError, "players=1: must be >= 2"),
        (EqualLine, {"agent_id": "yes"}, TypeError, "agent_id='yes'"),
        (EqualLine, {"horizon": 0}, ValueError, "horizon=0"),
        (Consensus, {"players": 1}, ValueError, "players=1"),
        (Consensus, {"consolation": float("inf")}, ValueError, "consolation=inf"),
        (Consensus, {"terminal_at_end": 1}, TypeError, "terminal_at_end=1"),
        (TwoStep, {"safe_payoff": float("nan")}, ValueError, "safe_payoff=nan"),
    ],
)
def test_bad_fields_are_refused(make, fields, error, message):
    with pytest.raises(error, match=message):
        make(**fields)
