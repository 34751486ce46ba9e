"""Closed forms of matrix games and collective dilemmas against hand-computed values, numerical flows and enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marl_bench.envs import games
from marl_bench.envs.closed_forms import collective, dynamics, equilibria, memory_one
from marl_bench.envs.closed_forms.memory_one import MEMORY_ONE
from marl_bench.envs.games import GAMES
from marl_bench.envs.matrix_game import MatrixGame
from marl_bench.envs.matrix_scripted import memory_one as play_memory_one

AXELROD = GAMES["prisoners_dilemma"]

# --- equilibria ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gamble", "risk", "class_name"),
    [
        ("prisoners_dilemma", 2, 1, "prisoners_dilemma"),
        ("donation", 0.25, 0.25, "prisoners_dilemma"),
        ("chicken", 2, -2, "chicken"),
        ("stag_hunt", -2, 2, "stag_hunt"),
        ("harmony", -2, -2, "harmony"),
    ],
)
def test_games_are_classed_by_gamble_and_risk(name, gamble, risk, class_name):
    found = equilibria.gamble_and_risk(GAMES[name])
    np.testing.assert_allclose(found, (gamble, risk))
    assert equilibria.CLASSES[int(equilibria.dilemma_class(*found))] == class_name


def test_borders_between_classes_have_no_class():
    np.testing.assert_array_equal(equilibria.dilemma_class([0.0, 1.0, 1.0], [1.0, 0.0, 1.0]), [-1, -1, 0])


def test_the_plane_is_scanned_in_one_program():
    sucker, temptation = jnp.meshgrid(jnp.array([-0.5, 0.5]), jnp.array([0.5, 1.5]), indexing="ij")

    def class_at(s, t):
        env = MatrixGame(game="symmetric_2x2", reward=1.0, sucker=s, temptation=t, punishment=0.0)
        return equilibria.dilemma_class(*equilibria.gamble_and_risk(env.payoff_tensor))

    found = jax.vmap(jax.vmap(class_at))(sucker, temptation)
    # S = -0.5: stag hunt, prisoner's dilemma; S = 0.5: harmony, chicken.
    np.testing.assert_array_equal(found, [[2, 0], [3, 1]])
    np.testing.assert_array_equal(games.plane(-0.5, 1.5)[0], [[1, -0.5], [1.5, 0]])


@pytest.mark.parametrize(("name", "x"), [("stag_hunt", 0.5), ("stag_hunt_risky", 2 / 3), ("chicken", 0.5)])
def test_interior_equilibrium_of_symmetric_games(name, x):
    assert float(equilibria.symmetric_mixed(GAMES[name])) == pytest.approx(x, rel=1e-6)


@pytest.mark.parametrize("name", ["prisoners_dilemma", "harmony", "deadlock"])
def test_games_without_interior_equilibrium(name):
    assert np.isnan(float(equilibria.symmetric_mixed(GAMES[name])))


def test_welfare_of_correlated_and_mixed_play():
    payoff = GAMES["chicken"]
    # CD pays 2 and 5: 3.5 each; the mixed equilibrium pays 2.5 each.
    assert float(equilibria.welfare(payoff, [1, 0], [0, 1])) == pytest.approx(7.0)
    assert float(equilibria.welfare(payoff, [0.5, 0.5], [0.5, 0.5])) == pytest.approx(5.0)
    with pytest.raises(ValueError, match="1 strategies for 2 agents"):
        equilibria.welfare(payoff, [1, 0])


@given(st.floats(-2, 3), st.floats(-1, 4))
@settings(max_examples=25, deadline=None)
def test_support_enumeration_finds_the_interior_equilibrium_of_the_plane(sucker, temptation):
    payoff = games.plane(sucker, temptation)
    gamble, risk = float(payoff[0, 1, 0]) - 1, -float(payoff[0, 0, 1])
    if min(abs(gamble), abs(risk)) < 1e-3:
        return
    mixed = [x[0] for x, _ in equilibria.nash_equilibria(*payoff) if 1e-6 < x[0] < 1 - 1e-6]
    expected = float(equilibria.symmetric_mixed(payoff))
    np.testing.assert_allclose(mixed, [] if np.isnan(expected) else [expected], atol=1e-4)


# --- dynamics ------------------------------------------------------------------------------------


def flow(derivative, start, step, num_steps):
    """Runge-Kutta integration of a flow; [num_steps, ...] points."""

    def advance(x, _):
        k1 = derivative(x)
        k2 = derivative(x + step / 2 * k1)
        k3 = derivative(x + step / 2 * k2)
        x = x + step / 6 * (k1 + 2 * k2 + 2 * k3 + derivative(x + step * k3))
        return x, x

    return jax.jit(lambda x: jax.lax.scan(advance, x, None, length=num_steps)[1])(jnp.asarray(start))


def test_donation_game_follows_its_logit_line():
    path = flow(lambda x: dynamics.replicator(x, games.donation(0.25)[0]), [0.7, 0.3], 0.05, 100)
    times = 0.05 * np.arange(1, 101)
    np.testing.assert_allclose(path[:, 0], dynamics.constant_advantage_share(0.7, -0.25, times), atol=1e-5)


def test_linear_public_goods_follow_their_logit_line():
    players, multiplier = 5, 3.0

    def derivative(x):
        # Mean payoffs against n - 1 others of whom a share x contributes.
        others = (players - 1) * x[0]
        contribute, ride = collective.linear_schelling_curves(others, players, multiplier)
        mean = x[0] * contribute + x[1] * ride
        return x * (jnp.stack([contribute, ride]) - mean)

    path = flow(derivative, [0.6, 0.4], 0.05, 100)
    expected = dynamics.constant_advantage_share(0.6, multiplier / players - 1, 0.05 * np.arange(1, 101))
    np.testing.assert_allclose(path[:, 0], expected, atol=1e-5)


def test_rock_paper_scissors_orbits_stay_on_their_product():
    path = flow(lambda x: dynamics.replicator(x, GAMES["rock_paper_scissors"][0]), [0.5, 0.3, 0.2], 0.05, 400)
    np.testing.assert_allclose(dynamics.share_product(path), 0.03, rtol=1e-3)
    # It does move: the orbit goes round.
    assert float(path[:, 0].max() - path[:, 0].min()) > 0.2


def test_matching_pennies_orbits_are_closed_but_gradient_steps_diverge():
    row, column = GAMES["matching_pennies"]

    def derivative(z):
        x, y = jnp.stack([z[0], 1 - z[0]]), jnp.stack([z[1], 1 - z[1]])
        dx, dy = dynamics.replicator_pair(x, y, row, column)
        return jnp.stack([dx[0], dy[0]])

    path = flow(derivative, [0.7, 0.6], 0.02, 400)
    np.testing.assert_allclose(
        dynamics.pennies_invariant(path[:, 0], path[:, 1]), dynamics.pennies_invariant(0.7, 0.6), rtol=1e-3
    )
    u, v, size = 0.1, 0.05, 0.03
    after = np.hypot(u + size * 4 * v, v - size * 4 * u) / np.hypot(u, v)
    assert after == pytest.approx(float(dynamics.pennies_step_growth(size)), rel=1e-6)


@pytest.mark.parametrize("name", ["prisoners_dilemma", "chicken", "stag_hunt_risky"])
@pytest.mark.parametrize("discount", [0.0, 0.9])
def test_boltzmann_q_learning_rests_where_the_closed_form_says(name, discount):
    temperature = 2.0
    values, policy = dynamics.boltzmann_q(GAMES[name], temperature, discount)
    own = jnp.asarray(GAMES[name][0])

    def update(q, _):
        pi = jax.nn.softmax(q / temperature)
        return q + 0.05 * (own @ pi + discount * (pi @ q) - q), None

    found = jax.jit(lambda q: jax.lax.scan(update, q, None, length=4000)[0])(values + jnp.array([0.5, -0.5]))
    np.testing.assert_allclose(found, values, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(jax.nn.softmax(values / temperature), policy, atol=1e-5)


def test_reinforce_estimates_average_to_the_policy_gradient():
    payoff = jnp.asarray(AXELROD)
    theta, other = 0.3, -0.4
    p, q = jax.nn.sigmoid(theta), jax.nn.sigmoid(other)
    key_own, key_other = jax.random.split(jax.random.key(5))
    own = 1 - jax.random.bernoulli(key_own, p, (100_000,)).astype(jnp.int32)
    partner = 1 - jax.random.bernoulli(key_other, q, (100_000,)).astype(jnp.int32)
    # d log pi / d theta is 1 - p for action 0 and -p for action 1.
    samples = np.asarray(jnp.where(own == 0, 1 - p, -p) * payoff[0, own, partner])
    standard_error = samples.std() / len(samples) ** 0.5
    assert abs(samples.mean() - float(dynamics.policy_gradient(theta, other, payoff))) < 4 * standard_error


# --- memory-one play -----------------------------------------------------------------------------


def mean_payoffs(row, column, num_envs, num_steps, noise=0.05):
    """[2] mean payoffs after 100 steps of `MatrixGame` under scripted play."""
    env = MatrixGame(horizon=None)
    policy = play_memory_one(row, column, noise)

    def body(carry, key):
        state, timestep = env.step(carry, policy(carry, None, key))
        return state, timestep.reward

    def play(key):
        return jax.lax.scan(body, env.reset(key)[0], jax.random.split(key, num_steps))[1][100:].mean(axis=0)

    return np.asarray(jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(2), num_envs))).mean(axis=0)


@pytest.mark.slow
@pytest.mark.parametrize("pair", list(itertools.combinations_with_replacement(MEMORY_ONE, 2)), ids="-".join)
def test_every_pair_of_strategies_earns_its_stationary_payoff(pair):
    row, column = (MEMORY_ONE[name] for name in pair)
    expected = memory_one.memory_one_payoffs(row.after, column.after, AXELROD, noise=0.05)
    np.testing.assert_allclose(mean_payoffs(row, column, 4096, 1000), expected, atol=0.01)


def test_scripted_policies_of_the_environment_earn_their_stationary_payoff():
    row, column = MEMORY_ONE["GTFT"], MEMORY_ONE["EXT3"]
    expected = memory_one.memory_one_payoffs(row.after, column.after, AXELROD, noise=0.05)
    np.testing.assert_allclose(mean_payoffs(row, column, 1024, 600), expected, atol=0.01)


def test_stationary_payoffs_are_where_the_distribution_goes():
    p, q = (np.asarray(MEMORY_ONE[name].after, float) * 0.9 + 0.05 for name in ("WSLS", "GRIM"))
    matrix = np.asarray(memory_one.memory_one_transitions(p, q), float)
    law = np.linalg.matrix_power(matrix / matrix.sum(axis=1, keepdims=True), 4096)[0]
    found = memory_one.memory_one_payoffs(jnp.asarray(p), jnp.asarray(q), AXELROD)
    np.testing.assert_allclose(found, AXELROD.reshape(2, 4) @ law, atol=1e-4)


# --- collective dilemmas ---------------------------------------------------------------------------


@pytest.mark.parametrize("players", [2, 3, 7])
def test_volunteers_are_indifferent(players):
    found = collective.volunteers_equilibrium(players, 4.0, 1.0)
    assert float(found.defect) == pytest.approx(0.25 ** (1 / (players - 1)), rel=1e-5)
    assert float(found.nobody) == pytest.approx(0.25 ** (players / (players - 1)), rel=1e-5)
    # Not volunteering pays b unless all others do not either.
    assert 4 * (1 - float(found.defect) ** (players - 1)) == pytest.approx(float(found.value), rel=1e-5)


@pytest.mark.parametrize("players", [2, 5])
def test_commons_uses_are_best_responses_and_optimum(players):
    found = collective.commons_uses(players, 3.0)
    grid = np.linspace(0, 3, 3001)

    def pay(own, others):
        return own * (1 - (own + others) / (players * 3.0))

    best = grid[np.argmax(pay(grid, (players - 1) * float(found.nash)))]
    assert best == pytest.approx(float(found.nash), abs=2e-3)
    assert pay(float(found.nash), (players - 1) * float(found.nash)) == pytest.approx(
        float(found.nash_payoff), rel=1e-5
    )
    together = pay(grid, (players - 1) * grid)
    assert grid[np.argmax(together)] == pytest.approx(float(found.planner), abs=2e-3)
    assert together.max() == pytest.approx(float(found.planner_payoff), rel=1e-5) == 0.75


@pytest.mark.parametrize("players", [2, 4, 9])
def test_snowdrift_equilibrium_is_indifferent_by_enumeration(players):
    from math import comb

    benefit, cost = 4.0, 1.5
    x = float(collective.snowdrift_equilibrium(players, benefit, cost))
    assert 0 < x < 1
    law = [comb(players - 1, k) * x**k * (1 - x) ** (players - 1 - k) for k in range(players)]
    cooperate = sum(weight * (benefit - cost / (k + 1)) for k, weight in enumerate(law))
    defect = sum(weight * benefit * (k >= 1) for k, weight in enumerate(law))
    assert cooperate == pytest.approx(defect, abs=1e-4)
    if players == 2:
        # The two-player snowdrift game: 1 - c / (2b - c).
        assert x == pytest.approx(1 - cost / (2 * benefit - cost), abs=1e-5)
