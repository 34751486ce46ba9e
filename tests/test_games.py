"""Payoff tables and closed forms against hand-computed values and against play."""

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
from marl_bench.envs.public_goods import PublicGoods

AXELROD = GAMES["prisoners_dilemma"]
# Stationary payoff of the row strategy with payoffs (3, 0, 5, 1) and execution noise 0.05.
NAMES = ("ALLC", "ALLD", "TFT", "WSLS", "GRIM", "GTFT", "RAND", "EXT3")
STATIONARY = np.array(
    [
        [2.9475, 0.2025, 2.8102, 1.5750, 1.1017, 2.8560, 1.5750, 1.8148],
        [4.7025, 1.1475, 1.3252, 2.9250, 1.1568, 2.4510, 2.9250, 1.3989],
        [3.0352, 1.1003, 2.2500, 2.2500, 1.1864, 2.8554, 2.2500, 1.4764],
        [3.8250, 0.6750, 2.2500, 2.7765, 1.1399, 2.7824, 2.2500, 1.6591],
        [4.1276, 1.1450, 1.3909, 2.8921, 1.1925, 2.5119, 2.8636, 1.4061],
        [3.0060, 0.8010, 2.6923, 2.3650, 1.1517, 2.8594, 2.0250, 1.6537],
        [3.8250, 0.6750, 2.2500, 2.2500, 0.8182, 2.7750, 2.2500, 1.6623],
        [3.6717, 1.0807, 1.6170, 2.4253, 1.1352, 2.6318, 2.5019, 1.4593],
    ]
)


# One program each for the tests that call them with many drawn values; the single examples run them without jit.
memory_one_payoffs = jax.jit(memory_one.memory_one_payoffs)
nash_gap = jax.jit(equilibria.nash_gap)
replicator_pair = jax.jit(dynamics.replicator_pair)


def after(name):
    return jnp.asarray(MEMORY_ONE[name].after)


def test_every_named_table_is_a_finite_read_only_bimatrix():
    for name, payoff in GAMES.items():
        assert payoff.dtype == np.float32, name
        assert payoff.ndim == 3 and payoff.shape[0] == 2, name
        assert np.isfinite(payoff).all() and not payoff.flags.writeable, name


@pytest.mark.parametrize(
    ("name", "letters"),
    [
        ("prisoners_dilemma", (3, 0, 5, 1)),
        ("prisoners_dilemma_negative", (-1, -3, 0, -2)),
        ("donation", (1, -0.25, 1.25, 0)),
        ("stag_hunt", (4, 0, 2, 2)),
        ("stag_hunt_risky", (4, 0, 3, 2)),
        ("chicken", (3, 2, 5, 0)),
        ("harmony", (4, 3, 2, 1)),
        ("deadlock", (1, 0, 3, 2)),
    ],
)
def test_symmetric_games_have_the_published_letters(name, letters):
    reward, sucker, temptation, punishment = letters
    np.testing.assert_array_equal(GAMES[name][0], [[reward, sucker], [temptation, punishment]])
    np.testing.assert_array_equal(GAMES[name][1], [[reward, temptation], [sucker, punishment]])


@pytest.mark.parametrize(
    ("name", "pure"),
    [
        ("prisoners_dilemma", [(1, 1)]),
        ("prisoners_dilemma_negative", [(1, 1)]),
        ("donation", [(1, 1)]),
        ("stag_hunt", [(0, 0), (1, 1)]),
        ("stag_hunt_risky", [(0, 0), (1, 1)]),
        ("chicken", [(0, 1), (1, 0)]),
        ("harmony", [(0, 0)]),
        ("deadlock", [(1, 1)]),
        ("coordination", [(0, 0), (1, 1)]),
        ("rationalizable_coordination", [(0, 0), (1, 1), (2, 2)]),
        ("battle_of_the_sexes", [(0, 0), (1, 1)]),
        ("matching_pennies", []),
        ("rock_paper_scissors", []),
        ("climbing", [(0, 0), (1, 1)]),
        ("penalty", [(0, 0), (1, 1), (2, 2)]),
    ],
)
def test_pure_equilibria(name, pure):
    found = np.argwhere(np.asarray(equilibria.pure_equilibria(GAMES[name])))
    assert [tuple(joint) for joint in found] == pure


@pytest.mark.parametrize(
    ("name", "x", "y", "value"),
    [
        ("stag_hunt", (0.5, 0.5), (0.5, 0.5), 2.0),
        ("stag_hunt_risky", (2 / 3, 1 / 3), (2 / 3, 1 / 3), 8 / 3),
        ("chicken", (0.5, 0.5), (0.5, 0.5), 2.5),
        ("coordination", (0.5, 0.5), (0.5, 0.5), 0.5),
        ("rationalizable_coordination", (6 / 11, 3 / 11, 2 / 11), (6 / 11, 3 / 11, 2 / 11), 6 / 11),
        ("battle_of_the_sexes", (3 / 5, 2 / 5), (2 / 5, 3 / 5), 6 / 5),
        ("matching_pennies", (0.5, 0.5), (0.5, 0.5), 0.0),
        ("rock_paper_scissors", (1 / 3,) * 3, (1 / 3,) * 3, 0.0),
    ],
)
def test_fully_mixed_equilibrium(name, x, y, value):
    row, column = GAMES[name]
    found_x, found_y = equilibria.nash_equilibria(row, column)[-1]
    np.testing.assert_allclose(found_x, x, atol=1e-6)
    np.testing.assert_allclose(found_y, y, atol=1e-6)
    assert found_x @ row @ found_y == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("name", sorted(GAMES))
def test_every_enumerated_equilibrium_has_no_gap(name):
    row, column = GAMES[name]
    found = equilibria.nash_equilibria(row, column)
    assert found
    for x, y in found:
        assert float(equilibria.nash_gap(x, y, row, column)) == pytest.approx(0.0, abs=1e-4)


def test_nash_gap_of_mutual_cooperation_is_the_temptation_of_both():
    # Each gains T - R = 2 by defecting alone.
    assert float(equilibria.nash_gap([1, 0], [1, 0], *AXELROD)) == pytest.approx(4.0)


@given(st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_nash_gap_is_never_negative(a, b):
    gap = nash_gap([a, 1 - a], [b, 1 - b], *GAMES["battle_of_the_sexes"])
    assert float(gap) >= -1e-5


def test_climbing_draws_averaging_learners_to_the_last_action():
    row, column = GAMES["climbing"]
    uniform = np.full(3, 1 / 3)
    np.testing.assert_allclose(row @ uniform, [-19 / 3, -17 / 3, 5 / 3], rtol=1e-5)
    np.testing.assert_allclose(uniform @ column, [-19 / 3, -23 / 3, 11 / 3], rtol=1e-5)
    assert row.mean() == pytest.approx(-31 / 9)
    np.testing.assert_array_equal(equilibria.best_responses(uniform, row), [False, False, True])
    # The form printed in some papers is this game with the agents swapped and the actions of one reversed.
    np.testing.assert_array_equal(row.T[::-1], [[0, 6, 5], [-30, 7, 0], [11, -30, 0]])


@pytest.mark.parametrize("k", [0, -5, -25, -100])
def test_penalty_rows_against_a_uniform_partner(k):
    row = games.penalty(k)[0]
    np.testing.assert_allclose(row.mean(axis=1), [(10 + k) / 3, 2 / 3, (10 + k) / 3], rtol=1e-5)
    assert row.mean() == pytest.approx((22 + 2 * k) / 9, abs=1e-5)
    averaging_prefers_safe = bool(equilibria.best_responses(np.full(3, 1 / 3), row)[1])
    assert averaging_prefers_safe == (k < -8)


def test_best_responses_keep_ties():
    np.testing.assert_array_equal(equilibria.best_responses([0.5, 0.5], GAMES["chicken"][0]), [True, True])


def test_price_of_anarchy_of_the_dilemma_is_three():
    assert equilibria.price_of_anarchy(*AXELROD) == pytest.approx(3.0)
    with pytest.raises(ValueError, match="positive total payoff"):
        equilibria.price_of_anarchy(*GAMES["matching_pennies"])


def test_bimatrix_names_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="same shape"):
        games.bimatrix(np.zeros((2, 2)), np.zeros((2, 3)))


# --- memory-one strategies ---------------------------------------------------------------------


def test_stationary_payoffs_match_the_table_in_one_vmapped_call():
    strategies = jnp.stack([after(name) for name in NAMES])
    grid = jax.vmap(
        jax.vmap(lambda p, q: memory_one.memory_one_payoffs(p, q, AXELROD, noise=0.05), (None, 0)), (0, None)
    )
    payoffs = np.asarray(jax.jit(grid)(strategies, strategies))
    np.testing.assert_allclose(payoffs[..., 0], STATIONARY, atol=1e-4)
    np.testing.assert_allclose(payoffs[..., 1], STATIONARY.T, atol=1e-4)


@pytest.mark.parametrize(
    ("own", "other", "sums"),
    [
        ("TFT", "TFT", (-25, -25)),
        ("TFT", "ALLD", (-51, -48)),
        ("RAND", "RAND", (-37.5, -37.5)),
        ("ALLC", "ALLD", (-75, 0)),
        ("WSLS", "ALLD", (-62.7551, -24.4898)),
        ("RAND", "TFT", (-36.5, -38)),
    ],
)
def test_discounted_sums_of_the_negative_dilemma(own, other, sums):
    x, y = MEMORY_ONE[own], MEMORY_ONE[other]
    mean = memory_one.memory_one_payoffs(
        after(own), after(other), GAMES["prisoners_dilemma_negative"], 0.96, x.first, y.first
    )
    np.testing.assert_allclose(np.asarray(mean) / 0.04, sums, atol=2e-3)


def test_extortion_enforces_its_line_without_noise():
    against_allc = memory_one.memory_one_payoffs(after("EXT3"), after("ALLC"), AXELROD)
    np.testing.assert_allclose(against_allc, [41 / 11, 21 / 11], rtol=1e-4)
    against_rand = memory_one.memory_one_payoffs(after("EXT3"), after("RAND"), AXELROD)
    np.testing.assert_allclose(against_rand, [41 / 16, 73 / 48], rtol=1e-4)


probabilities = st.lists(st.floats(0.05, 0.95), min_size=4, max_size=4)


@given(probabilities)
@settings(max_examples=25, deadline=None)
def test_extortion_enforces_its_line_against_everybody(q):
    own, other = memory_one_payoffs(after("EXT3"), jnp.asarray(q), AXELROD)
    assert float(own) - 1 == pytest.approx(3 * (float(other) - 1), abs=2e-3)


def press_dyson(p, q, f):
    p1, p2, p3, p4 = p
    q1, q2, q3, q4 = q
    return np.linalg.det(
        [
            [p1 * q1 - 1, p1 - 1, q1 - 1, f[0]],
            [p2 * q3, p2 - 1, q3, f[1]],
            [p3 * q2, p3, q2 - 1, f[2]],
            [p4 * q4, p4, q4, f[3]],
        ]
    )


@given(probabilities, probabilities)
@settings(max_examples=25, deadline=None)
def test_linear_solve_equals_the_press_dyson_determinants(p, q):
    found = memory_one_payoffs(jnp.asarray(p), jnp.asarray(q), AXELROD)
    total = press_dyson(p, q, np.ones(4))
    expected = [press_dyson(p, q, AXELROD[i].ravel()) / total for i in range(2)]
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    assert float(memory_one.press_dyson(p, q, AXELROD[0].ravel())) == pytest.approx(
        press_dyson(p, q, AXELROD[0].ravel()), rel=1e-3, abs=1e-4
    )


def test_determinants_give_the_table_too():
    noisy = np.array(
        [0.95 * np.asarray(MEMORY_ONE[name].after) + 0.05 * (1 - np.asarray(MEMORY_ONE[name].after)) for name in NAMES]
    )
    grid = jax.vmap(jax.vmap(memory_one.press_dyson_payoffs, (None, 0, None)), (0, None, None))
    np.testing.assert_allclose(jax.jit(grid)(noisy, noisy, AXELROD)[..., 0], STATIONARY, atol=5e-4)


def test_the_extortion_family_contains_ext3():
    np.testing.assert_allclose(memory_one.extortion(AXELROD, 3.0, 1 / 26), MEMORY_ONE["EXT3"].after, atol=1e-6)


@given(st.floats(1.0, 8.0), probabilities)
@settings(max_examples=20, deadline=None)
def test_extortion_enforces_its_factor(factor, q):
    p = memory_one.extortion(AXELROD, factor, 0.2 / (4 * factor + 1))
    assert float(p.min()) >= 0 and float(p.max()) <= 1
    own, other = memory_one_payoffs(p, jnp.asarray(q), AXELROD)
    assert float(own) - 1 == pytest.approx(factor * (float(other) - 1), abs=5e-3)


@given(probabilities, probabilities, st.floats(0.0, 0.95))
@settings(max_examples=25, deadline=None)
def test_swapping_the_strategies_swaps_the_payoffs(p, q, discount):
    one = memory_one_payoffs(jnp.asarray(p), jnp.asarray(q), AXELROD, discount, 0.3, 0.8, 0.01)
    two = memory_one_payoffs(jnp.asarray(q), jnp.asarray(p), AXELROD, discount, 0.8, 0.3, 0.01)
    np.testing.assert_allclose(one, two[::-1], atol=1e-4)


@pytest.mark.parametrize("noise", [0.01, 0.3, 0.99])
def test_noisy_tit_for_tat_visits_all_outcomes_alike(noise):
    payoffs = memory_one.memory_one_payoffs(after("TFT"), after("TFT"), AXELROD, noise=noise)
    np.testing.assert_allclose(payoffs, [2.25, 2.25], atol=1e-4)


def test_transition_rows_are_distributions_from_both_sides():
    # After CD as agent 0 sees it, agent 1 saw DC and plays q_DC.
    matrix = np.asarray(memory_one.memory_one_transitions((0.9, 0.2, 0.7, 0.4), (0.6, 0.1, 0.8, 0.3)))
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(matrix[1], [0.2 * 0.8, 0.2 * 0.2, 0.8 * 0.8, 0.8 * 0.2], rtol=1e-5)


def test_strategies_read_the_view_and_tremble_with_the_given_frequency():
    views = jnp.eye(5)
    key = jax.random.key(3)
    np.testing.assert_array_equal(MEMORY_ONE["TFT"].act(views, key), [0, 0, 1, 0, 1])
    np.testing.assert_array_equal(MEMORY_ONE["WSLS"].act(views, key), [0, 0, 1, 1, 0])
    np.testing.assert_array_equal(MEMORY_ONE["ALLD"].act(views, key, noise=1.0), [0, 0, 0, 0, 0])
    many = MEMORY_ONE["GTFT"].act(jnp.broadcast_to(views[2], (20_000, 5)), key)
    assert float(jnp.mean(many == 0)) == pytest.approx(1 / 3, abs=4 * (2 / 9 / 20_000) ** 0.5)


# --- dynamics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("x", [0.1, 0.5, 0.8])
def test_replicator_of_a_symmetric_game(x):
    # (R-T)x + (S-P)(1-x) = -2x - (1-x) for Axelrod's payoffs.
    derivative = dynamics.replicator([x, 1 - x], AXELROD[0])
    assert float(derivative[0]) == pytest.approx(x * (1 - x) * (-2 * x - (1 - x)), rel=1e-4)
    assert float(derivative.sum()) == pytest.approx(0, abs=1e-6)


def test_replicator_rests_at_the_mixed_equilibrium_of_chicken_and_is_drawn_to_it():
    assert float(dynamics.replicator([0.5, 0.5], GAMES["chicken"][0])[0]) == pytest.approx(0, abs=1e-6)
    assert float(dynamics.replicator([0.4, 0.6], GAMES["chicken"][0])[0]) > 0
    assert float(dynamics.replicator([0.4, 0.6], GAMES["stag_hunt"][0])[0]) < 0


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95))
@settings(max_examples=20, deadline=None)
def test_matching_pennies_orbits_conserve_their_product(x, y):
    dx, dy = replicator_pair([x, 1 - x], [y, 1 - y], *GAMES["matching_pennies"])
    # d/dt log[x(1-x)y(1-y)] = dx (1-2x)/(x(1-x)) + dy (1-2y)/(y(1-y)) = 0
    rate = float(dx[0]) * (1 - 2 * x) / (x * (1 - x)) + float(dy[0]) * (1 - 2 * y) / (y * (1 - y))
    assert rate == pytest.approx(0, abs=1e-4)


def test_rock_paper_scissors_conserves_the_product_of_shares():
    x = np.array([0.5, 0.3, 0.2])
    derivative = np.asarray(dynamics.replicator(x, GAMES["rock_paper_scissors"][0]))
    assert np.sum(derivative / x) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", ["prisoners_dilemma", "chicken", "stag_hunt_risky"])
def test_policy_gradient_is_the_derivative_of_the_expected_payoff(name):
    payoff = jnp.asarray(GAMES[name])

    def expected(theta, theta_other):
        p, q = jax.nn.sigmoid(theta), jax.nn.sigmoid(theta_other)
        return jnp.stack([p, 1 - p]) @ payoff[0] @ jnp.stack([q, 1 - q])

    slope = jax.grad(expected)(0.4, -0.7)
    assert float(dynamics.policy_gradient(0.4, -0.7, payoff)) == pytest.approx(float(slope), rel=1e-4)


def test_logit_equilibrium_limits_and_fixed_point():
    assert float(dynamics.logit_equilibrium(AXELROD, 0.0)) == pytest.approx(0.5, abs=1e-5)
    assert float(dynamics.logit_equilibrium(GAMES["chicken"], 50.0)) == pytest.approx(0.5, abs=1e-3)
    assert float(dynamics.logit_equilibrium(AXELROD, 20.0)) < 1e-6
    x = float(dynamics.logit_equilibrium(AXELROD, 0.7))
    assert x == pytest.approx(1 / (1 + np.exp(0.7 * (2 * x + (1 - x)))), abs=1e-5)


# --- play against the closed forms ---------------------------------------------------------------


def test_tit_for_tat_against_defection_follows_the_hand_table():
    env = MatrixGame(horizon=None)
    state, timestep = env.reset(jax.random.key(0))
    seen = []
    for _ in range(4):
        views = timestep.observation.agents_view
        actions = [MEMORY_ONE[name].act(views[i], jax.random.key(0)) for i, name in enumerate(("TFT", "ALLD"))]
        state, timestep = env.step(state, jnp.stack(actions))
        seen.append(tuple(state.last_action.tolist()))
    assert seen == [(0, 1), (1, 1), (1, 1), (1, 1)]


def test_sampled_play_of_memory_one_strategies_meets_the_closed_form():
    env, names, num_envs, noise = MatrixGame(horizon=None), list(MEMORY_ONE), 64, 0.05
    after = jnp.stack([jnp.asarray(MEMORY_ONE[name].after) for name in names])

    def play(p, q, key):
        key_reset, key_play = jax.random.split(key)

        def body(carry, key_step):
            state, timestep = carry
            views = timestep.observation.agents_view
            strategies = memory_one.MemoryOne(jnp.stack([p, q]), jnp.ones(2))
            act = jax.vmap(lambda strategy, view, key: strategy.act(view, key, noise))
            actions = act(strategies, views, jax.random.split(key_step, 2))
            state, timestep = env.step(state, actions)
            return (state, timestep), timestep.reward

        rewards = jax.lax.scan(body, env.reset(key_reset), jax.random.split(key_play, 400))[1]
        return rewards[100:].mean(axis=0)

    pairs = list(itertools.combinations_with_replacement(range(len(names)), 2))
    own, other = after[jnp.array([i for i, _ in pairs])], after[jnp.array([j for _, j in pairs])]
    keys = jax.random.split(jax.random.key(11), (len(pairs), num_envs))
    means = np.asarray(jax.jit(jax.vmap(jax.vmap(play, (None, None, 0))))(own, other, keys))
    expected = jax.vmap(lambda p, q: memory_one.memory_one_payoffs(p, q, GAMES["prisoners_dilemma"], noise=noise))(
        own, other
    )
    standard_error = means.std(axis=1, ddof=1) / num_envs**0.5
    # 72 comparisons: 4.5 standard errors each, plus what is left of the start after 100 steps.
    assert (np.abs(means.mean(axis=1) - expected) < 4.5 * standard_error + 0.005).all()


def test_linear_public_goods_schelling_curves():
    env = PublicGoods(players=4, multiplier=1.6, endowment=1.0)
    others = jnp.arange(4)
    contribute, ride = env.outcome(jnp.zeros(4, int), others + 1), env.outcome(jnp.ones(4, int), others)
    closed = collective.linear_schelling_curves(others, 4, 1.6)
    np.testing.assert_allclose(closed, [contribute, ride], rtol=1e-6)
    np.testing.assert_allclose(ride, 1 + 1.6 * np.arange(4) / 4, rtol=1e-6)
    np.testing.assert_allclose(ride - contribute, 1 - 1.6 / 4, rtol=1e-5)


def test_volunteers_dilemma_is_a_threshold_of_one():
    env = PublicGoods(players=3, multiplier=0.0, endowment=0.0, threshold=1.0, bonus=4.0)
    state, _ = env.reset(jax.random.key(0))
    np.testing.assert_array_equal(env.step(state, jnp.array([1, 0, 1]))[1].reward, [4, 3, 4])
    np.testing.assert_array_equal(env.step(state, jnp.array([1, 1, 1]))[1].reward, [0, 0, 0])


def test_one_program_runs_a_stack_of_public_goods():
    cells = [PublicGoods(multiplier=multiplier) for multiplier in (1.2, 2.0, 3.0)]
    stack = jax.tree.map(lambda *leaves: jnp.asarray(leaves), *cells)
    rewards = jax.vmap(lambda env: env.step(env.reset(jax.random.key(0))[0], jnp.zeros(4, jnp.int32))[1].reward)(stack)
    # All contribute: e + r - 1 = r.
    np.testing.assert_allclose(rewards, np.repeat([[1.2], [2.0], [3.0]], 4, axis=1), rtol=1e-6)
